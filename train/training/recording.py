"""What a run writes while it trains: its facts, rows, evaluations, status and checkpoints.

Only rank 0 calls these functions.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from torch import Tensor

from train.engine.engine import Engine
from train.engine.evaluate import Evaluation
from train.errors import DivergedError
from train.plan.identity import science
from train.plan.planning import PlannedRun, RunPlan
from train.run_folder.accounting import RunClock, RunCost
from train.run_folder.checkpoint import save_checkpoint
from train.run_folder.provenance import changed_versions, refuse_changed_versions, run_record
from train.run_folder.run_folder import folder_of
from train.storage.records import (
    append_jsonl,
    read_json,
    sync_folder,
    write_json,
    write_text,
)
from train.tracking.tracker import build_tracker
from train.training.resume import checkpoint_state
from train.training.run_state import RunState, evaluation_steps_of


def describe(run: RunState, device: str) -> None:
    """Fill in the content of run.json, and what differs from the last attempt's.

    Raises:
        ConfigError: Versions changed since the last attempt, and machine.strict_versions is set.
    """
    folder, config = run.folder, run.config
    run.facts = run_record(config, run.plan, run.dataset, device=device, epochs=run.epochs)
    if run.attempt == 1:
        return
    run.changed = changed_versions(_last_facts(folder.run), run.facts)
    if run.changed and config.machine.strict_versions:
        refuse_changed_versions(folder.path, run.changed)
    if run.changed:
        listed = ", ".join(f"{name} {old} -> {new}" for name, (old, new) in run.changed.items())
        warnings.warn(f"{folder.path.name}: changed since its last attempt: {listed}", stacklevel=2)


def _last_facts(path: Path) -> dict[str, Any]:
    """The last attempt's run.json; empty when it cannot be read."""
    try:
        return read_json(path)
    except (OSError, ValueError):
        return {}


def open_records(run: RunState, engine: Engine, *, stacked_with: Sequence[str]) -> None:
    """Write config.yaml, run.json and the attempt's start, and start the W&B mirror.

    Args:
        run: A restored and described run.
        engine: Its engine.
        stacked_with: run_ids of the other runs of the engine.

    Raises:
        MissingExtraError: tracker=wandb and wandb is not installed.
    """
    config, folder = run.config, run.folder
    write_text(folder.config, OmegaConf.to_yaml(OmegaConf.structured(config)))
    write_json(folder.run, run.facts)
    # the run folder's own name
    sync_folder(folder.path.parent)
    # the rows that a branch copied from its trunk are not mirrored yet
    is_mirrored = run.attempt > 1 or run.forked_from is None
    run.tracker = build_tracker(
        config.tracker,
        study=config.study.name,
        run_id=run.run_id,
        attempt=run.attempt,
        start_step=run.step if is_mirrored else 0,
        science=science(config),
        folder=folder.path,
    )
    world_size = engine.world.size
    folder.log_attempt(
        "start",
        attempt=run.attempt,
        start_step=run.step,
        device=engine.compute.name,
        arithmetic=engine.policy.to_json(),
        wandb_id=run.tracker.attempt_id,
        versions=run.facts["versions"],
        **({"stacked_with": list(stacked_with)} if stacked_with else {}),
        **({"world_size": world_size} if world_size > 1 else {}),
        **run.fork_facts(),
        **({"changed": dict(run.changed)} if run.changed else {}),
    )


def log_metrics(run: RunState, engine: Engine, clock: RunClock) -> dict[str, Any]:
    """Append a row of metrics: means over the steps since the last row.

    Tokens per second are this run's, FLOP/s those of all runs and ranks of the engine, and their
    utilisation is of one device's peak.
    """
    rate = clock.rate(engine.step, run.plan.batch_tokens)
    flops_per_second = clock.replicas * rate * run.plan.token_flops.train
    run.loss_train, grad_norm = _window_means(run)
    row = {
        **progress_columns(run.plan, run.step),
        "loss": run.loss_train,
        "lr": run.plan.lr * run.plan.schedule.multiplier(run.step - 1),
        "grad_norm": grad_norm,
        "tokens_per_second": round(rate, 1),
        **engine.peak.utilisation(flops_per_second, devices=engine.world.size),
        "seconds": round(run.seconds, 3),
    }
    run.window.clear()
    append_jsonl(run.folder.metrics, [row])
    return row


def _window_means(run: RunState) -> tuple[float, float]:
    losses, grad_norms = zip(*run.window, strict=True)
    return math.fsum(losses) / len(losses), math.fsum(grad_norms) / len(grad_norms)


def log_evaluation(run: RunState, measured: Evaluation) -> None:
    """Append a row of evaluations to the run's, and to its branches', where it is due."""
    if run.step in evaluation_steps_of(run.planned):
        run.val_loss, run.bits_per_byte = measured.loss, measured.bits_per_byte
        row = _evaluation_row(run, run.plan, measured)
        append_jsonl(run.folder.evals, [row], sync=True)
    for branch in run.pending(run.step):
        if run.step in evaluation_steps_of(branch.planned) and math.isfinite(measured.loss):
            branch.evals.append(_evaluation_row(run, branch.planned.plan, measured))


def _evaluation_row(run: RunState, plan: RunPlan, measured: Evaluation) -> dict[str, Any]:
    return {
        **progress_columns(plan, run.step),
        "split": "validation",
        "loss": measured.loss,
        "bits_per_byte": measured.bits_per_byte,
        "n_tokens": measured.n_tokens,
        "data_sha256": run.dataset.sha256,
    }


def progress_columns(plan: RunPlan, step: int) -> dict[str, int]:
    """Step, tokens and FLOPs of a row."""
    tokens = step * plan.batch_tokens
    return {"step": step, "tokens": tokens, "flops": tokens * plan.flops_per_token}


def write_running(run: RunState, engine: Engine, clock: RunClock) -> None:
    """Write to status.json how far the run is, and what it has cost."""
    write_status(run, "running", cost=cost_of(run, engine, clock))


def write_status(
    run: RunState | PlannedRun,
    state: str,
    *,
    cost: RunCost | None = None,
    **facts: Any,  # noqa: ANN401
) -> None:
    """Replace status.json; what is not known of a run that was not opened stays as it was."""
    if isinstance(run, RunState):
        folder, progress = run.folder, {"step": run.step, "seconds": round(run.seconds, 3)}
        known = {} if cost is not None else folder.read_status()
    else:
        folder = folder_of(run)
        known = folder.read_status()
        progress = {"step": known.get("step", 0), "seconds": known.get("seconds", 0.0)}
    charged = cost.to_json() if cost is not None else known.get("cost")
    folder.write_status(
        state,
        **{"total_steps": run.plan.steps, **progress, **facts},
        **({"cost": charged} if charged is not None else {}),
    )


def cost_of(run: RunState, engine: Engine, clock: RunClock, *, is_waiting: bool = False) -> RunCost:
    """Cost of a run so far.

    Args:
        run: The run.
        engine: Its engine.
        clock: The clock of the engine's runs.
        is_waiting: Whether it is a branch that was not trained itself yet; its trunk pays for the
            steps that they share.
    """
    step_flops = run.plan.token_flops.train * run.plan.batch_tokens
    return RunCost(
        flops=run.step * step_flops,
        flops_charged=(run.step - (run.fork_step or 0)) * step_flops,
        seconds=run.seconds,
        spent=run.spent if is_waiting else clock.spent(run.spent),
        stack=engine.n_replicas,
        devices=engine.world.size / engine.compute.sharers,
        peak_flops=engine.peak.measured,
        peak_datasheet=engine.peak.datasheet,
        forked_from=run.forked_from,
        fork_step=run.fork_step,
    )


def save(run: RunState, engine: Engine, clock: RunClock) -> None:
    """Commit a checkpoint; rows go to disk first.

    Raises:
        DivergedError: A weight or moment is not finite; such a state is never saved.
        StorageError: The disk is full or refuses; earlier checkpoints are as they were.
    """
    commit(run, engine, spent=clock.spent(run.spent))


def commit(run: RunState, engine: Engine, *, spent: Mapping[str, float]) -> None:
    """Commit a checkpoint with `spent` seconds by TimeKind charged to the run; see `save`."""
    model, optimizer = engine.replica_state(run.replica)
    _refuse_non_finite(run, model, optimizer)
    append_jsonl(run.folder.metrics, [], sync=True)
    run.folder.checkpoints.mkdir(exist_ok=True)
    # the names of the records and of checkpoints/
    sync_folder(run.folder.path)
    save_checkpoint(
        run.folder.checkpoints,
        run.step,
        model=model,
        optimizer=optimizer,
        state=checkpoint_state(run, engine, spent=spent),
        keep=run.config.machine.checkpoint_keep,
    )


def _refuse_non_finite(
    run: RunState, model: Mapping[str, Tensor], optimizer: Mapping[str, Tensor]
) -> None:
    tensors = [*model.values(), *optimizer.values()]
    if not all(bool(tensor.isfinite().all()) for tensor in tensors):
        raise DivergedError(
            f"step {run.step}: a weight or moment is not finite (learning rate {run.plan.lr:.3g}, "
            f"last loss {run.losses.last:.6g})"
        )
