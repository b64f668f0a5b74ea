"""manifest.json of a study: every planned run, with its experiment config and its plan."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from train.config.runtime import SCRATCH
from train.errors import ConfigError, DataError, StorageError, did_you_mean
from train.plan.identity import science
from train.plan.planning import PlannedRun
from train.run_folder.accounting import LARGEST_NUMBER
from train.storage.lock import hold
from train.storage.records import (
    MOST_RUNS,
    SCHEMA_VERSION,
    canonical_json,
    read_json,
    refuse_hostile_manifest,
    sync_folder,
    write_json,
)

WRITER_SECONDS = 60.0
"""Seconds to wait for another job that is writing the manifest."""


def manifest_entry(run: PlannedRun) -> dict[str, Any]:
    """One element of the manifest's `runs`."""
    plan = run.plan
    return {
        "run_id": plan.run_id,
        "overrides": run.overrides,
        "science": science(run.config),
        "plan": {
            "rung": plan.shape.rung,
            "n_params": plan.params.standard,
            "n_params_total": plan.params.total,
            "tokens": plan.tokens,
            "flops": plan.flops,
            "flops_exact": plan.flops_exact,
            "steps": plan.steps,
            "lr": plan.lr,
        },
    }


def read_manifest(study_folder: Path) -> dict[str, Any] | None:
    """Read the manifest of a study; None if there is none.

    Raises:
        DataError: It is not a manifest, or its runs do not match its hash.
        StorageError: It cannot be read.
    """
    path = study_folder / "manifest.json"
    try:
        if not path.exists():
            return None
        manifest = read_json(path)
        refuse_hostile_manifest(path, manifest)
        _refuse_edited(path, manifest)
        return manifest
    except ValueError as error:
        raise DataError(
            f"{error}; bring the file back from a copy, or move it away to plan the study again: "
            f"its runs are kept"
        ) from None
    except OSError as error:
        raise StorageError(f"{path}: cannot be read ({error.strerror})") from None


def _refuse_edited(path: Path, manifest: dict[str, Any]) -> None:
    """Check the hash of the runs and the numbers of their plans.

    Raises:
        ValueError: The message names the file and what is wrong.
    """
    try:
        digest = _digest(manifest["runs"])
    except (ValueError, RecursionError) as error:  # infinity, or deep nesting
        raise ValueError(f"{path}: edited or damaged: {error}") from None
    if manifest.get("sha256") != digest:
        raise ValueError(
            f"{path}: edited or damaged: its runs hash to {digest[:12]}, and it promises "
            f"{str(manifest.get('sha256'))[:12]}"
        )
    for entry in manifest["runs"]:
        plan = entry.get("plan")
        numbers = [plan.get(key) for key in ("steps", "flops")] if isinstance(plan, dict) else []
        if not numbers or not all(
            isinstance(number, int) and 0 < number < LARGEST_NUMBER for number in numbers
        ):
            raise ValueError(f"{path}: {entry['run_id']} has no plan of steps and FLOPs")


def _digest(entries: list[dict[str, Any]]) -> str:
    return hashlib.sha256(canonical_json(entries).encode()).hexdigest()


def register_runs(
    study_folder: Path, study: str, runs: Sequence[PlannedRun], *, extend: bool
) -> None:
    """Append runs to the manifest; existing entries stay as they are.

    Raises:
        StorageError: The study's folder or its manifest cannot be written.
        ConfigError: The manifest lacks some of these runs and `extend` is False, or it would have
            more than MOST_RUNS.
        DataError: The manifest is damaged.
    """
    if not _new_runs(read_manifest(study_folder), runs):
        return
    path = study_folder / "manifest.lock"
    with hold(path, task="is writing its manifest", patience=WRITER_SECONDS):
        # read again under the lock: another job may have added them
        manifest = read_manifest(study_folder)
        refuse_another_grid(manifest, study_folder, study, runs, extend=extend)
        if new := _new_runs(manifest, runs):
            entries = manifest["runs"] if manifest else []
            _write(study_folder, study, [*entries, *map(manifest_entry, new)])


def refuse_another_grid(
    manifest: dict[str, Any] | None,
    study_folder: Path,
    study: str,
    runs: Sequence[PlannedRun],
    *,
    extend: bool,
) -> None:
    """Refuse runs that are not in the manifest, unless `extend` is set or the study is scratch.

    Raises:
        ConfigError: Names the first three.
    """
    new = _new_runs(manifest, runs)
    if manifest and new and not extend and study != SCRATCH:
        names = ", ".join(run.plan.run_id for run in new[:3])
        raise ConfigError(
            f"study.name={study}: {study_folder} was planned with another grid; {len(new)} of "
            f"{len(runs)} runs are not in it ({names}{', ...' if len(new) > 3 else ''}); "
            f"use study.extend=true to add them, or another study.name"
        )


def _new_runs(manifest: dict[str, Any] | None, runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    known = {entry["run_id"] for entry in manifest["runs"]} if manifest else set()
    return [run for run in runs if run.plan.run_id not in known]


def _write(study_folder: Path, study: str, entries: list[dict[str, Any]]) -> None:
    if len(entries) > MOST_RUNS:
        raise ConfigError(
            f"study.name={study}: {len(entries)} runs, more than the {MOST_RUNS} of one manifest; "
            f"use another study.name"
        )
    content = {"schema": SCHEMA_VERSION, "study": study, "sha256": _digest(entries)}
    try:
        write_json(study_folder / "manifest.json", {**content, "runs": entries})
        sync_folder(study_folder.parent)
    except OSError as error:
        raise StorageError(f"{study_folder}: cannot be written ({error.strerror})") from None


def find_study(runs_root: Path, name: str) -> Path:
    """Folder of a study.

    Raises:
        ConfigError: There is no such study; lists near names.
    """
    folder = runs_root / name
    if (folder / "manifest.json").exists():
        return folder
    others = [path.parent.name for path in runs_root.glob("*/manifest.json")]
    raise ConfigError(f"study={name}: no such study in {runs_root}/{did_you_mean(name, others)}")
