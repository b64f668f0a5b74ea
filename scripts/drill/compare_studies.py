"""Bitwise comparison of two folders of one study: rows, results and final weights.

Columns that hold times are ignored; all other JSON text must be equal, which for numbers means
equal bits.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from train.errors import WindTunnelError
from train.run_folder.checkpoint import load_newest
from train.run_folder.replay_check import CLOCK_COLUMNS
from train.run_folder.run_folder import RunFolder
from train.storage.records import read_json, read_jsonl

Key = tuple[str, int, str]
"""File name, step and split of a row."""


@dataclass(frozen=True, kw_only=True)
class RunComparison:
    """How one run differs from the same run of the reference study."""

    run_id: str
    rows: int
    """Number of rows of metrics and evaluations in the reference."""
    lost: tuple[str, ...]
    """Rows of the reference that the run lacks."""
    surplus: tuple[str, ...]
    """Rows that the run has twice, or that the reference lacks."""
    differing: tuple[str, ...]
    """Rows that differ, each with the first differing column and both values; unreadable files."""
    result: str
    """The first difference between the result.json files; empty when equal."""
    weights: str
    """The first difference between the last checkpoints' tensors; empty when equal."""

    @property
    def is_same(self) -> bool:
        """Whether nothing differs."""
        found = (self.lost, self.surplus, self.differing, self.result, self.weights)
        return not any(found)


def compare_studies(reference: Path, study: Path) -> list[RunComparison]:
    """Compare every run of the reference's manifest with the same run in `study`.

    A missing run counts as all its rows lost.
    """
    runs = read_json(reference / "manifest.json")["runs"]
    return [compare_runs(reference / run["run_id"], study / run["run_id"]) for run in runs]


def compare_runs(reference: Path, run: Path) -> RunComparison:
    """Compare two run folders of the same run."""
    expected, problems = _rows(reference)
    found, unreadable = _rows(run)
    times = Counter(_key(file, row) for file, row in found)
    first = {_key(file, row): row for file, row in reversed(found)}
    wanted = {_key(file, row): row for file, row in expected}
    surplus = [key for key in times if key not in wanted or times[key] > 1]
    shared = [key for key in wanted if key in first]
    differences = (_difference(wanted[key], first[key]) for key in shared)
    return RunComparison(
        run_id=reference.name,
        rows=len(expected),
        lost=tuple(_name(key) for key in wanted if key not in first),
        surplus=tuple(_name(key) for key in surplus),
        differing=(
            *problems,
            *unreadable,
            *(
                f"{_name(key)}: {what}"
                for key, what in zip(shared, differences, strict=True)
                if what
            ),
        ),
        result=_compare_results(reference, run),
        weights=_compare_weights(reference, run),
    )


def _rows(run: Path) -> tuple[list[tuple[str, dict[str, Any]]], list[str]]:
    """All rows with their file names, and the errors of files that cannot be read."""
    rows: list[tuple[str, dict[str, Any]]] = []
    unreadable = []
    for path in (RunFolder(run).metrics, RunFolder(run).evals):
        try:
            rows += [(path.name, row) for row in read_jsonl(path)]
        except ValueError as error:
            unreadable.append(str(error))
    return rows, unreadable


def _key(file: str, row: Mapping[str, Any]) -> Key:
    return file, int(row["step"]), str(row.get("split", ""))


def _name(key: Key) -> str:
    return f"{key[0]} step {key[1]}"


def _difference(a: Mapping[str, Any], b: Mapping[str, Any]) -> str:
    """The first column that differs, with both values; empty when the rows are equal."""
    for column in sorted((a.keys() | b.keys()) - CLOCK_COLUMNS):
        texts = [json.dumps(row.get(column), sort_keys=True) for row in (a, b)]
        if texts[0] != texts[1]:
            return f"{column} {texts[0]} and {texts[1]}"
    return ""


def _compare_results(reference: Path, run: Path) -> str:
    results = []
    for folder in (reference, run):
        try:
            results.append(read_json(RunFolder(folder).result))
        except (FileNotFoundError, ValueError) as error:
            return f"{folder.name}: no result ({error})"
    # the column "study" holds the folder's name
    reference_row, row = (
        {"state": each["state"], "data_sha256": each["data_sha256"], **each["row"], "study": ""}
        for each in results
    )
    return _difference(reference_row, row)


def _compare_weights(reference: Path, run: Path) -> str:
    """Compare the newest checkpoints by their hashes, and if those differ, tensor by tensor."""
    try:
        if _hashes(reference) == _hashes(run):
            return ""
        a, b = (load_newest(RunFolder(folder).checkpoints) for folder in (reference, run))
    except (WindTunnelError, OSError, ValueError, KeyError, IndexError) as error:
        return f"no final checkpoint to compare ({error})"
    # _hashes has read both
    assert a is not None
    assert b is not None
    if a.step != b.step:
        return f"the last checkpoints are of steps {a.step} and {b.step}"
    pairs = {"model": (a.model, b.model), "optimizer": (a.optimizer, b.optimizer)}
    return next((what for name, pair in pairs.items() for what in _unlike(name, *pair)), "")


def _hashes(run: Path) -> list[Any]:
    """Step of the newest checkpoint and SHA-256 of its tensor files."""
    folders = sorted(path.parent for path in run.glob("checkpoints/step_*[0-9]/DONE.json"))
    done = read_json(folders[-1] / "DONE.json")
    return [done["step"], *(done["files"][name]["sha256"] for name in ("model.pt", "optim.pt"))]


def _unlike(name: str, a: Any, b: Any) -> Iterator[str]:  # noqa: ANN401
    """Keys at which two nested state dicts differ in any bit."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        if a.dtype != b.dtype or a.shape != b.shape or not torch.equal(_bits(a), _bits(b)):
            yield f"{name} differs"
    elif isinstance(a, Mapping) and isinstance(b, Mapping) and a.keys() == b.keys():
        for key in a:
            yield from _unlike(f"{name}.{key}", a[key], b[key])
    elif isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        for index, pair in enumerate(zip(a, b, strict=True)):
            yield from _unlike(f"{name}.{index}", *pair)
    elif type(a) is not type(b) or a != b:
        yield f"{name}: {a!r:.40} and {b!r:.40}"


def _bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)
