"""What is written to a run folder, and how it is read back. Standard library only.

The run folder is the truth (DESIGN, section 7). JSON never contains NaN or infinity: a non-finite
number is written as null. Files that are replaced are written beside their target and renamed;
files that grow (`*.jsonl`) may end in a torn line after a crash, which readers drop.
"""

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


_NUMBERS = re.compile(r"\[\n\s*((?:[-+.\deE]+|null)(?:,\n\s*(?:[-+.\deE]+|null))*)\n\s*\]")
"""A list of numbers over several lines; no string holds a line break."""


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Replace `path` atomically with `value`; the file is on disk when this returns.

    Indented for people, a list of numbers on one line.
    """
    text = json.dumps(_finite(value), indent=1, allow_nan=False) + "\n"
    text = _NUMBERS.sub(lambda found: f"[{' '.join(found[1].split())}]", text)
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """Read one JSON object.

    Raises:
        ValueError: The file is not one JSON object; the message names it.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error})") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value


def append_jsonl(path: Path, rows: Iterable[Mapping[str, Any]], *, sync: bool = False) -> None:
    """Append rows, flushed to the kernel, and to the disk when `sync` is set.

    A torn last line, which readers drop, is cut off first: a row glued to it would be lost.
    """
    text = "".join(json.dumps(_finite(row), allow_nan=False) + "\n" for row in rows)
    with path.open("ab") as file:
        file.truncate(_whole_bytes(path))
        file.write(text.encode())
        file.flush()
        if sync:
            os.fsync(file.fileno())


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read all rows; a torn last line is dropped, a missing file is empty.

    Raises:
        ValueError: A whole line is not a JSON object; the message names it.
    """
    if not path.exists():
        return []
    whole, _, _torn = path.read_bytes().rpartition(b"\n")
    return list(_parse_lines(path, whole.decode(errors="replace").split("\n")))


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
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{path}:{number}: not JSON ({error})") from None
        if not isinstance(row, dict):
            raise ValueError(f"{path}:{number}: expected a JSON object")
        yield row


def _finite(value: Any) -> Any:  # noqa: ANN401
    """Copy `value` with every non-finite float replaced by None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
