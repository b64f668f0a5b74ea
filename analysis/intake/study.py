"""A study's run folders become a RunsTable; every run of the manifest is used or excluded by name.

The run folder is the truth, so what it claims is checked: hashes of its files against result.json,
the evaluation against the row, and data, evaluation set and horizon against the other runs.
"""

import hashlib
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.errors import InputError, near_names
from analysis.intake.load import SHOWN, refuse_unfinished, stamp_for
from analysis.intake.mixtures import refuse_mixtures
from analysis.intake.table import Excluded, RunsTable, screen
from analysis.intake.units import check_units
from train.storage.records import REQUIRED_COLUMNS, read_json, read_jsonl

HORIZON_TOLERANCE = 0.005
"""Relative; steps are whole, so a run's tokens may differ by this from its plan."""

UNFINISHED = ("incomplete", "missing")

VALIDATION = "validation"
"""The split of evals.jsonl whose loss is a run's; others do not vary the evaluation set."""


@dataclass(frozen=True)
class _Run:
    """One folder that passed its own checks."""

    run_id: str
    row: dict[str, Any]
    data: str
    evaluation: tuple[str, int]
    result_bytes: bytes


def load_study(runs: Path, study: str, *, where: str | None, allow_incomplete: bool) -> RunsTable:
    """Read runs/<study>.

    Raises:
        InputError: There is no such study, its manifest cannot be read, runs are unfinished and
            that is not allowed, or no run is usable.
        OptionError: The filter cannot be read.
    """
    folder = runs / study
    manifest_bytes, planned = _read_manifest(runs, study)
    good, excluded = _read_runs(folder, planned)
    unfinished = [item for item in excluded if item.reason in UNFINISHED]
    refuse_unfinished(unfinished, len(planned), allow_incomplete)
    frame = pd.DataFrame([{**run.row, "run_id": run.run_id} for run in good])
    usable, screened = screen(frame, where) if good else (frame, [])
    if len(usable) == 0:
        raise InputError(f"study {study}: {_none_usable([*excluded, *screened])}")
    digest = hashlib.sha256(manifest_bytes)
    for run in good:
        digest.update(run.result_bytes)
    return RunsTable(
        frame=usable,
        excluded=(*excluded, *screened),
        name=study,
        source=str(folder),
        sha256=digest.hexdigest(),
        folder=folder,
        notes=(*check_units(usable, recorded=True), *refuse_mixtures(usable, where)),
        stamp=stamp_for(len(unfinished), len(planned)),
    )


def _none_usable(excluded: list[Excluded]) -> str:
    counted = Counter(item.reason for item in excluded)
    reasons = ", ".join(f"{count} {word}" for word, count in counted.items())
    listed = "; ".join(f"{item.run_id}: {item.detail or item.reason}" for item in excluded[:SHOWN])
    return f"none of {len(excluded)} runs is usable ({reasons}); {listed}"


def _read_runs(folder: Path, planned: list[dict[str, Any]]) -> tuple[list[_Run], list[Excluded]]:
    """Check every folder by itself, then against the others."""
    good: list[_Run] = []
    excluded: list[Excluded] = []
    seen: set[str] = set()
    for entry in planned:
        run_id = str(entry["run_id"])
        if run_id in seen:
            excluded.append(Excluded(run_id, "duplicate", "listed twice in the manifest"))
            continue
        seen.add(run_id)
        checked = _read_run(folder / run_id, entry)
        if isinstance(checked, _Run):
            good.append(checked)
        else:
            excluded.append(checked)
    good, mixed = _drop_mixed(good)
    return good, excluded + mixed


def _read_manifest(runs: Path, study: str) -> tuple[bytes, list[dict[str, Any]]]:
    path = runs / study / "manifest.json"
    if not path.is_file():
        known = [p.parent.name for p in runs.glob("*/manifest.json")] if runs.is_dir() else []
        hint = near_names(study, known) or f"; {runs}/ holds no study yet"
        raise InputError(f"no study '{study}' in {runs}/{hint}")
    try:
        planned = read_json(path).get("runs")
    except (ValueError, RecursionError) as error:
        raise InputError(str(error)) from None
    if not isinstance(planned, list) or not planned:
        raise InputError(f"{path}: 'runs' must list the study's runs, got {str(planned)[:80]}")
    for entry in planned:
        if not isinstance(entry, dict) or "run_id" not in entry:
            raise InputError(f"{path}: every run needs a run_id, got {str(entry)[:80]}")
        run_id = str(entry["run_id"])
        if Path(run_id).name != run_id or run_id in ("", "..") or "\0" in run_id:
            raise InputError(f"{path}: run_id {run_id[:80]!r} is not a folder's name")
    return path.read_bytes(), planned


def _read_run(folder: Path, entry: dict[str, Any]) -> _Run | Excluded:
    """Check one folder by itself."""
    run_id = str(entry["run_id"])
    if not folder.is_dir():
        return Excluded(run_id, "missing", "never started")
    status = _status(folder)
    state, why = str(status.get("state", "unknown")), str(status.get("reason") or "")
    if not (folder / "result.json").exists():
        if state in ("failed", "diverged"):
            return Excluded(run_id, state, why)
        return Excluded(run_id, "incomplete", f"state is {state}, no result.json yet")
    try:
        return _read_result(folder, run_id, entry, why)
    except (ValueError, OSError, RecursionError) as error:
        if state in ("planned", "running", "preempted"):
            return Excluded(run_id, "incomplete", f"state is {state}; {error}")
        return Excluded(run_id, "hash_mismatch", str(error))


def _read_result(folder: Path, run_id: str, entry: dict[str, Any], why: str) -> _Run | Excluded:
    """Read a result and check it.

    Raises:
        ValueError: A file is not what its name says, or not what the result says of it.
        OSError: A file cannot be read.
    """
    result_bytes = (folder / "result.json").read_bytes()
    result = read_json(folder / "result.json")
    if result.get("state") == "diverged":
        return Excluded(run_id, "diverged", why)
    _check_files(folder, result.get("files") or {})
    evals = [r for r in read_jsonl(folder / "evals.jsonl") if r.get("split") in (None, VALIDATION)]
    row = result.get("row")
    if result.get("run_id") != run_id or not isinstance(row, dict):
        return Excluded(run_id, "hash_mismatch", f"result.json is of run {result.get('run_id')!r}")
    fault = _check_row(row, evals, entry)
    if fault:
        return Excluded(run_id, *fault)
    last = evals[-1] if evals else {}
    measured = last.get("n_tokens")
    evaluation = (str(last.get("data_sha256", "")), measured if isinstance(measured, int) else 0)
    return _Run(run_id, row, str(result.get("data_sha256", "")), evaluation, result_bytes)


def _status(folder: Path) -> dict[str, Any]:
    try:
        return read_json(folder / "status.json")
    except (ValueError, OSError, RecursionError):
        return {}


def _check_files(folder: Path, files: Any) -> None:  # noqa: ANN401
    """Compare files with their hashes in result.json.

    Raises:
        ValueError: One is gone or differs; the message names it.
        OSError: One cannot be read.
    """
    if not isinstance(files, dict):
        raise ValueError(f"files in result.json is {str(files)[:40]!r}, not hashes by name")
    for name, expected in files.items():
        path = folder / name
        if path.parent != folder or not path.is_file():
            raise ValueError(f"{name} is gone")
        got = hashlib.sha256(path.read_bytes()).hexdigest()
        if got != expected:
            raise ValueError(f"{name} has sha256 {got[:12]}, result.json says {str(expected)[:12]}")


def _is_number(value: Any) -> bool:  # noqa: ANN401
    """Tell a finite number; compared, because math.isfinite fails on the largest integers."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def _planned_tokens(entry: dict[str, Any]) -> float | None:
    plan = entry.get("plan")
    planned = plan.get("tokens") if isinstance(plan, dict) else None
    return float(planned) if _is_number(planned) and planned is not None else None


def _check_row(
    row: dict[str, Any], evals: list[dict[str, Any]], entry: dict[str, Any]
) -> tuple[str, str] | None:
    """Return (reason, detail) when the row cannot be used."""
    missing = [name for name in REQUIRED_COLUMNS if name not in row]
    if missing:
        return "hash_mismatch", f"the row lacks {', '.join(missing)}"
    loss, tokens = row["loss"], row["tokens"]
    if not _is_number(loss):
        return "nonfinite_eval", f"loss is {loss}"
    for name in REQUIRED_COLUMNS:
        if not _is_number(row[name]) or row[name] <= 0:
            return "hash_mismatch", f"{name} is {str(row[name])[:40]}"
    planned = _planned_tokens(entry)
    if planned and abs(tokens - planned) > HORIZON_TOLERANCE * planned:
        return "horizon_mismatch", f"trained {tokens:g} tokens, planned {planned:g}"
    if evals:
        last = evals[-1]
        if not _is_number(last.get("loss")):
            return "nonfinite_eval", f"the last evaluation is {last.get('loss')}"
        at = last.get("tokens", tokens)
        if not _is_number(at) or abs(at - tokens) > HORIZON_TOLERANCE * tokens:
            return "horizon_mismatch", f"evaluated at {at} tokens, trained {tokens:g}"
        if not math.isclose(last["loss"], loss, rel_tol=1e-6):
            return "hash_mismatch", f"loss {loss} differs from the last evaluation, {last['loss']}"
    return None


def _drop_mixed(runs: list[_Run]) -> tuple[list[_Run], list[Excluded]]:
    """Keep the runs that share the commonest training data and evaluation set.

    Raises:
        InputError: No data or evaluation set is that of most runs.
    """
    excluded: list[Excluded] = []
    for word, what in (("mixed_data", "data"), ("mixed_eval", "evaluation")):
        kinds = Counter(getattr(run, what) for run in runs)
        if len(kinds) < 2:
            continue
        common, count = kinds.most_common(1)[0]
        others = [run for run in runs if getattr(run, what) != common]
        if count <= len(others):
            raise InputError(
                f"{len(kinds)} kinds of {what} in {len(runs)} runs, {count} runs at most share one "
                f"(unlike them: {', '.join(run.run_id for run in others[:SHOWN])}); a fit "
                "needs one: make a study of each"
            )
        detail = f"{what} differs from that of {count} other runs"
        excluded += [Excluded(run.run_id, word, detail) for run in others]
        runs = [run for run in runs if getattr(run, what) == common]
    return runs, excluded
