"""JSON and JSONL records: written atomically, read back after a crash.

JSON has no NaN or infinity: a non-finite number is written as null, and its row names it:
`"nonfinite": {"loss": "nan"}`. A file that is replaced is written as `<name>.partial` and renamed;
a file that grows (`*.jsonl`) may end in a torn line after a crash, which readers drop. Records may
come from a shared folder, so their size and nesting are limited, and run_ids cannot lead out of the
study's folder. Standard library only.
"""

import contextlib
import errno
import hashlib
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

SCHEMA_VERSION = 1

STATES = ("planned", "running", "preempted", "completed", "diverged", "failed")
"""All states of a run."""

FINISHED_STATES = ("completed", "diverged")
"""States in which a relaunch does not train a run."""

REQUIRED_COLUMNS = ("n_params", "tokens", "flops", "loss")
"""Columns that the analysis needs."""

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
"""Columns of the runs table, in the order of runs.csv; `row` in result.json has them all."""


LARGEST_LINE_BYTES = 1_000_000
"""Longer rows are neither written nor read; typical ones have hundreds of bytes."""

LARGEST_JSON_BYTES = 500_000_000
"""Larger JSON files are not read; a manifest of MOST_RUNS runs has about 200 MB."""

MOST_RUNS = 100_000
"""Manifests of more runs are not read."""

RUN_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,199}")
"""Valid folder name of a run: no separator, no leading dot."""

_NUMBERS = re.compile(r"\[\n\s*((?:[-+.\deE]+|null)(?:,\n\s*(?:[-+.\deE]+|null))*)\n\s*\]")
"""List of numbers over several lines; JSON strings hold no line break."""


def write_json(path: Path, value: Mapping[str, Any], *, sync: bool = True) -> None:
    """Replace `path` atomically with `value`: indented, with each list of numbers on one line."""
    text = json.dumps(_finite(value), indent=1, allow_nan=False) + "\n"
    text = _NUMBERS.sub(lambda found: f"[{' '.join(found[1].split())}]", text)
    write_text(path, text, sync=sync)


def write_text(path: Path, text: str, *, sync: bool = True) -> None:
    """Replace `path` atomically with `text`: after a crash it holds the old or the new text, whole.

    Args:
        path: The file; `<name>.partial` beside it is written first and then renamed.
        text: The new content, which is always synced to disk.
        sync: Whether to sync the rename too, so that a power failure cannot restore the old text.
    """
    partial = path.with_name(path.name + ".partial")
    # a dead process may have left one; a symbolic link must not be followed
    partial.unlink(missing_ok=True)
    with _naming(path), partial.open("x", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    if sync:
        sync_folder(path.parent)


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Add the file name to an OSError, which lacks it when writing to an open file fails."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def sync_folder(folder: Path) -> None:
    """Sync the file names of a folder to disk, where the file system supports it."""
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
        ValueError: The file is not one JSON object, or too large; the message names the file.
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


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def append_jsonl(path: Path, rows: Iterable[Mapping[str, Any]], *, sync: bool = False) -> None:
    """Append rows and flush them to the kernel, with `sync` also to disk.

    A torn last line is cut off first, because a row appended to it would be unreadable.

    Raises:
        ValueError: A row is longer than LARGEST_LINE_BYTES.
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
    """Read all rows; a torn last line is dropped, and a missing file has none.

    Raises:
        ValueError: A whole line is not a JSON object, or too long; the message names file and line.
    """
    if not path.exists():
        return []
    whole, _, _torn = path.read_bytes().rpartition(b"\n")
    return list(_parse_lines(path, whole.decode(errors="replace").split("\n")))


def sound_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the readable rows and skip damaged ones; for files that no result depends on."""
    if not path.exists():
        return
    for line in path.read_bytes().decode(errors="replace").split("\n"):
        with contextlib.suppress(ValueError):
            yield from _parse_lines(path, [line])


def _whole_bytes(path: Path) -> int:
    """Bytes up to the end of the last complete line."""
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
    """Refuse a manifest whose runs are not a list, are too many, or lead out of the study's folder.

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
    """json.loads that raises ValueError for too deep nesting too."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with non-finite numbers as null, named in `nonfinite`."""
    named = {path: str(value) for path, value in _non_finite(row, "")}
    if named:
        return {**_finite(row), "nonfinite": {**row.get("nonfinite", {}), **named}}
    return _finite(row)  # type: ignore[no-any-return]


def _non_finite(value: Any, path: str) -> Iterator[tuple[str, float]]:  # noqa: ANN401
    """Yield the non-finite floats in `value` with their dotted paths."""
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
    """Unique text of a value, for hashing: sorted keys, no spaces, 1.0 as 1."""
    return json.dumps(_canonical(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def _canonical(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, dict):
        return {key: _canonical(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_canonical(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
