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
from analysis.load import refuse_unfinished, stamp_for
from analysis.mixtures import refuse_mixtures
from analysis.table import Excluded, RunsTable, screen
from analysis.units import check_units
from train.records import REQUIRED_COLUMNS, read_json, read_jsonl

HORIZON_TOLERANCE = 0.005
"""Relative; steps are whole, so a run's tokens may differ by this from its plan."""

UNFINISHED = ("incomplete", "missing")


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
    if not good:
        counted = Counter(item.reason for item in excluded)
        reasons = ", ".join(f"{count} {word}" for word, count in counted.items())
        raise InputError(f"study {study}: none of {len(planned)} runs is usable ({reasons})")
    frame = pd.DataFrame([{**run.row, "run_id": run.run_id} for run in good])
    usable, screened = screen(frame, where)
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
        notes=(*check_units(usable, recorded=True), *refuse_mixtures(usable)),
        stamp=stamp_for(len(unfinished), len(planned)),
    )


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
    except ValueError as error:
        raise InputError(str(error)) from None
    if not isinstance(planned, list) or not planned:
        raise InputError(f"{path}: 'runs' must list the study's runs, got {planned!r}")
    for entry in planned:
        if not isinstance(entry, dict) or "run_id" not in entry:
            raise InputError(f"{path}: every run needs a run_id, got {str(entry)[:80]}")
    return path.read_bytes(), planned


def _read_run(folder: Path, entry: dict[str, Any]) -> _Run | Excluded:
    """Check one folder by itself."""
    run_id = str(entry["run_id"])
    if not folder.is_dir():
        return Excluded(run_id, "missing", "never started")
    result_path = folder / "result.json"
    state = _state(folder)
    if not result_path.exists():
        if state in ("failed", "diverged"):
            return Excluded(run_id, state, _reason(folder))
        return Excluded(run_id, "incomplete", f"state is {state}, no result.json yet")
    try:
        result_bytes = result_path.read_bytes()
        result = read_json(result_path)
        broken = _broken_files(folder, result)
        evals = [] if broken else read_jsonl(folder / "evals.jsonl")
    except (ValueError, OSError) as error:
        return Excluded(run_id, "hash_mismatch", str(error))
    if result.get("state") == "diverged":
        return Excluded(run_id, "diverged", _reason(folder))
    if broken:
        return Excluded(run_id, "hash_mismatch", broken)
    row = result.get("row")
    if result.get("run_id") != run_id or not isinstance(row, dict):
        return Excluded(run_id, "hash_mismatch", f"result.json is of run {result.get('run_id')!r}")
    fault = _check_row(row, evals, entry)
    if fault:
        return Excluded(run_id, *fault)
    last = evals[-1] if evals else {}
    evaluation = (str(last.get("data_sha256", "")), int(last.get("n_tokens") or 0))
    return _Run(run_id, row, str(result.get("data_sha256", "")), evaluation, result_bytes)


def _state(folder: Path) -> str:
    try:
        return str(read_json(folder / "status.json").get("state", "unknown"))
    except (ValueError, OSError):
        return "unknown"


def _reason(folder: Path) -> str:
    try:
        return str(read_json(folder / "status.json").get("reason") or "")
    except (ValueError, OSError):
        return ""


def _broken_files(folder: Path, result: dict[str, Any]) -> str:
    """Return which file differs from the hash that result.json holds, or ''."""
    files = result.get("files") or {}
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is gone"
        got = hashlib.sha256(path.read_bytes()).hexdigest()
        if got != expected:
            return f"{name} has sha256 {got[:12]}, result.json says {str(expected)[:12]}"
    return ""


def _check_row(
    row: dict[str, Any], evals: list[dict[str, Any]], entry: dict[str, Any]
) -> tuple[str, str] | None:
    """Return (reason, detail) when the row cannot be used."""
    missing = [name for name in REQUIRED_COLUMNS if name not in row]
    if missing:
        return "hash_mismatch", f"the row lacks {', '.join(missing)}"
    loss = row["loss"]
    if not isinstance(loss, int | float) or not math.isfinite(loss):
        return "nonfinite_eval", f"loss is {loss}"
    tokens = row["tokens"]
    if not isinstance(tokens, int | float):
        return "hash_mismatch", f"tokens is {tokens!r}"
    planned = (entry.get("plan") or {}).get("tokens")
    if planned and abs(tokens - planned) > HORIZON_TOLERANCE * planned:
        return "horizon_mismatch", f"trained {tokens:g} tokens, planned {planned:g}"
    if evals:
        last = evals[-1]
        if not isinstance(last.get("loss"), int | float):
            return "nonfinite_eval", f"the last evaluation is {last.get('loss')}"
        at = last.get("tokens", tokens)
        if abs(at - tokens) > HORIZON_TOLERANCE * tokens:
            return "horizon_mismatch", f"evaluated at {at:g} tokens, trained {tokens:g}"
        if not math.isclose(last["loss"], loss, rel_tol=1e-6):
            return "hash_mismatch", f"loss {loss} differs from the last evaluation, {last['loss']}"
    return None


def _drop_mixed(runs: list[_Run]) -> tuple[list[_Run], list[Excluded]]:
    """Keep the runs that share the commonest training data and evaluation set."""
    excluded: list[Excluded] = []
    for word, what in (("mixed_data", "data"), ("mixed_eval", "evaluation")):
        kinds = Counter(getattr(run, what) for run in runs)
        if len(kinds) < 2:
            continue
        common, count = kinds.most_common(1)[0]
        others = [run for run in runs if getattr(run, what) != common]
        detail = f"{what} differs from that of {count} other runs"
        excluded += [Excluded(run.run_id, word, detail) for run in others]
        runs = [run for run in runs if getattr(run, what) == common]
    return runs, excluded
