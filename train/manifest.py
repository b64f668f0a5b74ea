"""manifest.json of a study: every run that was asked for, with its full config and planned cost."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from train.config import SCRATCH, Config
from train.errors import ConfigError, DataError, StorageError
from train.identity import canonical_json, science
from train.planning import RunPlan
from train.records import SCHEMA_VERSION, read_json, refuse_hostile_manifest, write_json


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """One run of a study: what was asked, and what it comes to."""

    overrides: list[str]
    config: Config
    plan: RunPlan


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
    """The study's manifest, or None before it was first planned.

    Raises:
        DataError: The file is not a manifest.
    """
    path = study_folder / "manifest.json"
    try:
        if not path.exists():
            return None
        manifest = read_json(path)
        refuse_hostile_manifest(path, manifest)
        return manifest
    except ValueError as error:
        raise DataError(f"{error}; move the file away to plan the study again") from None


def register_runs(
    study_folder: Path, study: str, runs: Sequence[PlannedRun], *, extend: bool
) -> None:
    """Add runs to the manifest; runs that are there already are left as they are.

    Raises:
        StorageError: The study's folder cannot be made.
        ConfigError: The study was planned without some of these runs and may not be extended.
    """
    try:
        study_folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{study_folder}: cannot be made ({error.strerror})") from None
    with FileLock(study_folder / "manifest.lock"):
        manifest = read_manifest(study_folder)
        known = {entry["run_id"]: entry for entry in manifest["runs"]} if manifest else {}
        new = [run for run in runs if run.plan.run_id not in known]
        if manifest and new and not extend and study != SCRATCH:
            names = ", ".join(run.plan.run_id for run in new[:3])
            raise ConfigError(
                f"study.name={study}: {study_folder} was planned with another grid; {len(new)} of "
                f"{len(runs)} runs are not in it ({names}{', ...' if len(new) > 3 else ''}); "
                f"use study.extend=true to add them, or another study.name"
            )
        if not new and manifest:
            return
        entries = [*known.values(), *(manifest_entry(run) for run in new)]
        digest = hashlib.sha256(canonical_json(entries).encode()).hexdigest()
        write_json(
            study_folder / "manifest.json",
            {"schema": SCHEMA_VERSION, "study": study, "sha256": digest, "runs": entries},
        )
