"""Determinism check at no cost: rows that a resume recomputes are compared with the old ones.

A resume from step k keeps the rows up to k and moves later ones to replayed.jsonl. Training then
recomputes them. On a CPU with pinned threads, and on one GPU model in deterministic mode, the
values are equal.
"""

import json
import math
import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from train.errors import RecordsError
from train.run_folder.run_folder import RunFolder
from train.storage.records import append_jsonl, read_jsonl, sound_rows

CLOCK_COLUMNS = frozenset(
    ("seconds", "tokens_per_second", "flops_per_second", "mfu", "mfu_datasheet")
)
"""Columns that depend on the clock and are not compared."""


@dataclass(frozen=True, kw_only=True)
class ReplayReport:
    """Differences between rows that were computed twice."""

    rows: int
    """Pairs of rows compared."""
    differing: int
    """Pairs that differ outside CLOCK_COLUMNS."""
    largest: float
    """Largest absolute difference of a number."""
    first_step: int | None
    """Step of the first differing pair."""

    def __str__(self) -> str:
        if not self.differing:
            return f"{self.rows} rows were computed twice, with equal results"
        return (
            f"{self.differing} of {self.rows} rows that were computed twice differ, first at step "
            f"{self.first_step}, at most by {self.largest:.3g}; expected only when the device, the "
            f"micro-batch or versions changed, or on CUDA without machine.deterministic=true"
        )

    def to_json(self) -> dict[str, Any]:
        """Value of `replayed` in result.json and attempts.jsonl."""
        return asdict(self)


def set_aside(folder: RunFolder, sizes: Mapping[str, int]) -> int:
    """Move the rows after the checkpoint to replayed.jsonl; return how many were moved.

    Args:
        folder: The run's folder.
        sizes: Bytes of each record file at the checkpoint, by name; 0 for a file not named. A last
            line torn by a crash is dropped.

    Raises:
        RecordsError: A file is shorter than at the checkpoint, or damaged before it.
    """
    moved = 0
    for path in (folder.metrics, folder.evals):
        kept = sizes.get(path.name, 0)
        length = path.stat().st_size if path.exists() else 0
        if length < kept:
            raise RecordsError(
                f"{path}: holds {length} bytes, and {kept} were on disk at the checkpoint; rows "
                f"are lost. Bring the file back, or start the run again with restart=true"
            )
        if length == kept:
            continue
        late = list(_whole_rows(path, kept))
        if late:
            append_jsonl(folder.replayed, late, sync=True)
        with path.open("rb+") as file:
            file.truncate(kept)
            os.fsync(file.fileno())
        moved += len(late)
    # reports damage now, not at the end of the run
    _final_rows(folder)
    return moved


def compare(folder: RunFolder) -> ReplayReport:
    """Compare every row of replayed.jsonl with the row of the same step and split, if any.

    Raises:
        RecordsError: metrics.jsonl or evals.jsonl is damaged. Damaged rows of replayed.jsonl are
            skipped.
    """
    final = _final_rows(folder)
    rows, largest, differing = 0, 0.0, []
    for old in sound_rows(folder.replayed):
        new = final.get(_key(str(old.get("file")), old))
        if new is None:
            continue
        rows += 1
        differences = list(_differences({k: v for k, v in old.items() if k != "file"}, new))
        if differences:
            differing.append(int(old["step"]))
            largest = max(largest, *differences)
    return ReplayReport(
        rows=rows,
        differing=len(differing),
        largest=largest,
        first_step=min(differing, default=None),
    )


def _final_rows(folder: RunFolder) -> dict[tuple[str, int, str], dict[str, Any]]:
    """Rows of metrics.jsonl and evals.jsonl, by file, step and split."""
    try:
        return {
            _key(path.name, row): row
            for path in (folder.metrics, folder.evals)
            for row in read_jsonl(path)
        }
    except ValueError as error:
        raise RecordsError(
            f"{error}; bring the file back, or start the run again with restart=true"
        ) from None


def _key(file: str, row: Mapping[str, Any]) -> tuple[str, int, str]:
    step = row.get("step")
    return file, step if isinstance(step, int) else -1, str(row.get("split", ""))


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[float]:
    """Absolute difference of each differing column; 0 where one is not a number."""
    for name in (old.keys() | new.keys()) - CLOCK_COLUMNS:
        a, b = old.get(name), new.get(name)
        if a != b:
            if isinstance(a, int | float) and isinstance(b, int | float):
                yield math.fabs(a - b)
            else:
                yield 0.0


def _whole_rows(path: Path, start: int) -> Iterator[dict[str, Any]]:
    """Complete rows from byte `start` on."""
    with path.open("rb") as file:
        file.seek(start)
        for line in file.read().split(b"\n")[:-1]:
            try:
                row = json.loads(line)
                yield {"file": path.name, **row, "step": int(row["step"])}
            except (ValueError, TypeError, KeyError):
                warnings.warn(f"{path}: a torn row after the checkpoint is dropped", stacklevel=2)
