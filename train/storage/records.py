"""What is written to a run folder, and how it is read back. Standard library only.

The run folder is the truth (DESIGN, section 7). JSON never contains NaN or infinity: a non-finite
number is written as null, and a row says beside it what it was: `"nonfinite": {"loss": "nan"}`.
Files that are replaced are written beside their target and renamed; files that grow (`*.jsonl`) may
end in a torn line after a crash, which readers drop. What is read may come from a shared folder, so
its size and nesting are limited and its run ids cannot lead out of the study's folder.
"""

import contextlib
import errno
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

SCHEMA_VERSION = 1

STATES = ("planned", "running", "preempted", "completed", "diverged", "failed")
"""Life cycle of a run, a closed set."""

FINISHED_STATES = ("completed", "diverged")
"""States that a relaunch leaves alone."""

REQUIRED_COLUMNS = ("n_params", "tokens", "flops", "loss")
"""Columns that the analysis needs of any table."""

RUNS_TABLE_COLUMNS = (
    *REQUIRED_COLUMNS,
    "run_id",
    "study",
    "rung",
    "lr",
    "batch_tokens",
    "schedule",
    "seed",
    "state",
    "n_params_embedding",
    "n_params_non_embedding",
    "n_params_head",
    "n_params_total",
    "flops_6nd",
    "flops_exact",
    "flops_head",
    "flops_attention",
    "bits_per_byte",
    "loss_train",
    "unique_tokens",
    "tokens_per_second",
    "seconds",
    "device",
)
"""One row a run: `row` in result.json, in this order in runs.csv."""


LARGEST_LINE_BYTES = 1_000_000
"""A longer row of a `*.jsonl` is neither written nor read; ours have hundreds of bytes."""

LARGEST_JSON_BYTES = 500_000_000
"""A larger JSON file is not read; a manifest of MOST_RUNS runs has about 200 MB."""

MOST_RUNS = 100_000
"""A manifest of more runs is not read."""

RUN_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,199}")
"""What can name a run's folder: no separator, no leading dot."""

_NUMBERS = re.compile(r"\[\n\s*((?:[-+.\deE]+|null)(?:,\n\s*(?:[-+.\deE]+|null))*)\n\s*\]")
"""A list of numbers over several lines; no string holds a line break."""


def write_json(path: Path, value: Mapping[str, Any], *, sync: bool = True) -> None:
    """Replace `path` atomically with `value`, as write_text does.

    Indented for people, a list of numbers on one line.
    """
    text = json.dumps(_finite(value), indent=1, allow_nan=False) + "\n"
    text = _NUMBERS.sub(lambda found: f"[{' '.join(found[1].split())}]", text)
    write_text(path, text, sync=sync)


def write_text(path: Path, text: str, *, sync: bool = True) -> None:
    """Replace `path` atomically with `text`: after a crash it holds the old or the new text, whole.

    Args:
        path: The file; `<name>.partial` beside it is used on the way.
        text: Its new content.
        sync: Whether the new name is on disk when this returns, so that a loss of power cannot
            bring the old content back; the content itself always is.
    """
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)  # of a process that died; a link there is not followed
    with _naming(path), partial.open("x", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    if sync:
        sync_folder(path.parent)


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Let an error say which file it is about: a write to an open one does not."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def sync_folder(folder: Path) -> None:
    """Bring a folder's names to the disk, where its file system can."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(descriptor)


def read_json(path: Path) -> dict[str, Any]:
    """Read one JSON object.

    Raises:
        ValueError: The file is not one JSON object, or too large; the message names it.
    """
    size = path.stat().st_size
    if size > LARGEST_JSON_BYTES:
        raise ValueError(f"{path}: {size} bytes, more than the {LARGEST_JSON_BYTES} that are read")
    try:
        value = _parse(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error})") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value


def append_jsonl(path: Path, rows: Iterable[Mapping[str, Any]], *, sync: bool = False) -> None:
    """Append rows, flushed to the kernel, and to the disk when `sync` is set.

    A torn last line, which readers drop, is cut off first: a row glued to it would be lost.

    Raises:
        ValueError: A row is longer than the LARGEST_LINE_BYTES that are read back.
    """
    lines = [json.dumps(_row(row), allow_nan=False) + "\n" for row in rows]
    if lines and max(map(len, lines)) > LARGEST_LINE_BYTES:
        raise ValueError(f"{path}: a row of over {LARGEST_LINE_BYTES} bytes cannot be read back")
    text = "".join(lines)
    with _naming(path), path.open("ab") as file:
        file.truncate(_whole_bytes(path))
        file.write(text.encode())
        file.flush()
        if sync:
            os.fsync(file.fileno())


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read all rows; a torn last line is dropped, a missing file is empty.

    Raises:
        ValueError: A whole line is not a JSON object, or too long; the message names it.
    """
    if not path.exists():
        return []
    whole, _, _torn = path.read_bytes().rpartition(b"\n")
    return list(_parse_lines(path, whole.decode(errors="replace").split("\n")))


def sound_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows that can be read, of a file on which nothing depends; damage is passed over."""
    if not path.exists():
        return
    for line in path.read_bytes().decode(errors="replace").split("\n"):
        with contextlib.suppress(ValueError):
            yield from _parse_lines(path, [line])


def _whole_bytes(path: Path) -> int:
    """Bytes of `path` up to the end of its last whole line."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end > 0:
            begin = max(0, end - 65_536)
            file.seek(begin)
            newline = file.read(end - begin).rfind(b"\n")
            if newline >= 0:
                return begin + newline + 1
            end = begin
    return 0


def _parse_lines(path: Path, lines: list[str]) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        if len(line) > LARGEST_LINE_BYTES:
            raise ValueError(
                f"{path}:{number}: a line of {len(line)} characters, more than the "
                f"{LARGEST_LINE_BYTES} that are read"
            )
        try:
            row = _parse(line)
        except ValueError as error:
            raise ValueError(f"{path}:{number}: not JSON ({error})") from None
        if not isinstance(row, dict):
            raise ValueError(f"{path}:{number}: expected a JSON object")
        yield row


def refuse_hostile_manifest(path: Path, manifest: Mapping[str, Any]) -> None:
    """Refuse a manifest whose runs are no list of objects, too many, or lead out of its folder.

    Raises:
        ValueError: The message names the file and what is wrong.
    """
    runs = manifest.get("runs")
    if not isinstance(runs, list):
        raise ValueError(f"{path}: not a manifest (no list of runs)")
    if len(runs) > MOST_RUNS:
        raise ValueError(f"{path}: {len(runs)} runs, more than the {MOST_RUNS} that are read")
    for run in runs:
        run_id = run.get("run_id") if isinstance(run, dict) else None
        if not isinstance(run_id, str) or not RUN_ID.fullmatch(run_id):
            raise ValueError(
                f"{path}: run_id {str(run_id)[:100]!r} cannot name a folder of the study (lower "
                f"case letters, digits, dots, dashes and underscores; no leading dot)"
            )


def _parse(text: str) -> Any:  # noqa: ANN401
    """json.loads, with ValueError for nesting that overflows the parser too."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as it is written: finite, with the names of what was not."""
    named = {path: str(value) for path, value in _non_finite(row, "")}
    if named:
        return {**_finite(row), "nonfinite": {**row.get("nonfinite", {}), **named}}
    return _finite(row)  # type: ignore[no-any-return]


def _non_finite(value: Any, path: str) -> Iterator[tuple[str, float]]:  # noqa: ANN401
    """Dotted paths of the floats that JSON cannot hold."""
    if isinstance(value, float) and not math.isfinite(value):
        yield path, value
    elif isinstance(value, Mapping | list | tuple):
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, item in items:
            yield from _non_finite(item, f"{path}.{key}" if path else str(key))


def _finite(value: Any) -> Any:  # noqa: ANN401
    """Copy `value` with every non-finite float replaced by None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def canonical_json(value: Any) -> str:  # noqa: ANN401
    """One text per value: sorted keys, no spaces, shortest floats, 1.0 written as 1."""
    return json.dumps(_canonical(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def _canonical(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, dict):
        return {key: _canonical(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_canonical(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
