"""run.json, the row of the runs table, and versions that changed since the last attempt."""

import dataclasses
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from train import __version__
from train.config.schema import Config
from train.data.sampler import n_windows
from train.data.shards import Dataset
from train.errors import ConfigError
from train.plan.identity import NUMERICS_VERSION, science_hash
from train.plan.planning import RunPlan
from train.storage.records import RUNS_TABLE_COLUMNS, SCHEMA_VERSION


def run_record(
    config: Config, plan: RunPlan, dataset: Dataset, *, device: str, epochs: float
) -> dict[str, Any]:
    """Content of run.json; `epochs` is the number of passes over the training split."""
    return {
        "schema": SCHEMA_VERSION,
        "numerics_version": NUMERICS_VERSION,
        "run_id": plan.run_id,
        "study": config.study.name,
        "science_sha256": science_hash(config),
        "shape": plan.shape.to_json(),
        "n_params": {
            **dataclasses.asdict(plan.params),
            "kaplan": plan.params.kaplan,
            "standard": plan.params.standard,
            "total": plan.params.total,
        },
        "flops_per_token": {
            **dataclasses.asdict(plan.token_flops),
            "train": plan.token_flops.train,
            "budget": plan.flops_per_token,
        },
        "steps": plan.steps,
        "tokens": plan.tokens,
        "lr": plan.lr,
        "data": {
            "name": config.data.name,
            "sha256": dataset.sha256,
            "tokenizer_sha256": dataset.manifest.tokenizer_sha256,
            "train_tokens": dataset.n_tokens("train"),
            "epochs": epochs,
        },
        "versions": {
            "windtunnel": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        "git": git_state(Path(__file__).parent),
        "device": device,
    }


def changed_versions(
    before: Mapping[str, Any], now: Mapping[str, Any]
) -> dict[str, tuple[Any, Any]]:
    """Versions, device and commit that differ between two run.json, as name: (old, new).

    A change of these may change the bits of a run. Empty where `before` is empty.
    """
    if not before:
        return {}
    versions, git = (
        part if isinstance(part, Mapping) else {}
        for part in (before.get("versions"), before.get("git"))
    )
    named = {
        **{name: (versions.get(name), new) for name, new in now["versions"].items()},
        "device": (before.get("device"), now["device"]),
        "git commit": (git.get("commit"), now["git"]["commit"]),
    }
    return {name: pair for name, pair in named.items() if pair[0] != pair[1]}


def refuse_changed_versions(folder: Path, changed: Mapping[str, tuple[Any, Any]]) -> None:
    """Refuse to resume, for machine.strict_versions=true.

    Raises:
        ConfigError: Always; lists the changes.
    """
    listed = "\n  ".join(f"{name}: {old} before, {new} now" for name, (old, new) in changed.items())
    raise ConfigError(
        f"{folder}: machine.strict_versions=true, and these changed since its last attempt:\n"
        f"  {listed}\nbring them back, or resume with machine.strict_versions=false"
    )


def runs_table_row(
    config: Config,
    plan: RunPlan,
    dataset: Dataset,
    *,
    state: str,
    measured: Mapping[str, Any],
) -> dict[str, Any]:
    """One row of the runs table; `measured` holds the columns that only training can fill."""
    seq_len = config.data.seq_len
    whole_windows = n_windows(dataset.n_tokens("train"), seq_len) * seq_len
    row: dict[str, Any] = {
        "n_params": plan.params.standard,
        "tokens": plan.tokens,
        "flops": plan.flops,
        "run_id": plan.run_id,
        "study": config.study.name,
        "rung": plan.shape.rung,
        "lr": plan.lr,
        "batch_tokens": plan.batch_tokens,
        "schedule": config.schedule.shape.name,
        "seed": config.seed,
        "state": state,
        "n_params_embedding": plan.params.embedding,
        "n_params_non_embedding": plan.params.kaplan,
        "n_params_head": plan.params.head_matmul,
        "n_params_total": plan.params.total,
        "flops_6nd": 6 * plan.params.standard * plan.tokens,
        "flops_exact": plan.flops_exact,
        "flops_head": 3 * plan.token_flops.head * plan.tokens,
        "flops_attention": 3 * plan.token_flops.attention * plan.tokens,
        # at most one epoch
        "unique_tokens": min(plan.tokens, whole_windows),
        **measured,
    }
    assert set(row) == set(RUNS_TABLE_COLUMNS), set(row) ^ set(RUNS_TABLE_COLUMNS)
    return {column: row[column] for column in RUNS_TABLE_COLUMNS}


def git_state(folder: Path) -> dict[str, Any]:
    """Commit, and whether tracked files differ from it; both None outside a checkout."""

    def git(*arguments: str) -> str | None:
        command = ["git", "-C", str(folder), *arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    changes = git("--no-optional-locks", "status", "--porcelain", "--untracked-files=no")
    return {"commit": git("rev-parse", "HEAD"), "dirty": None if changes is None else bool(changes)}
