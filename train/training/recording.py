"""What a run writes while it trains: its facts, rows, evaluations, status and checkpoints."""

import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from torch import Tensor

from train.engine.evaluate import Evaluation
from train.errors import DivergedError
from train.plan.identity import science
from train.run_folder.checkpoint import save_checkpoint
from train.run_folder.provenance import changed_versions, refuse_changed_versions, run_facts
from train.storage.records import append_jsonl, read_json, sync_folder, write_json, write_text
from train.tracking.tracker import build_tracker
from train.training.resume import checkpoint_state
from train.training.run_state import Run
from train.training.stack import Stack


def describe(run: Run, device: str) -> None:
    """Reckon run.json and what differs from the last attempt's, before anything is written.

    Raises:
        ConfigError: Versions changed since the last attempt, and machine.strict_versions is set.
    """
    folder, config = run.folder, run.config
    run.facts = run_facts(config, run.plan, run.dataset, device=device, epochs=run.epochs)
    if run.attempt == 1:
        return
    run.changed = changed_versions(_known_facts(folder.run), run.facts)
    if run.changed and config.machine.strict_versions:
        refuse_changed_versions(folder.path, run.changed)
    if run.changed:
        listed = ", ".join(f"{name} {old} -> {new}" for name, (old, new) in run.changed.items())
        warnings.warn(f"{folder.path.name}: changed since its last attempt: {listed}", stacklevel=2)


def open_records(run: Run, stack: Stack) -> None:
    """Write down what is about to run, and start the mirror; the run is where it goes on from.

    Args:
        run: A restored run that was described.
        stack: What trains it.

    Raises:
        MissingExtraError: tracker=wandb and wandb is not installed.
    """
    config, folder = run.config, run.folder
    write_text(folder.config, OmegaConf.to_yaml(OmegaConf.structured(config)))
    write_json(folder.run, run.facts)
    sync_folder(folder.path.parent)  # the run folder's own name
    is_mirrored = run.attempt > 1 or run.forked_from is None  # or else the trunk's rows are not yet
    run.tracker = build_tracker(
        config.tracker,
        study=config.study.name,
        run_id=run.run_id,
        attempt=run.attempt,
        start_step=run.step if is_mirrored else 0,
        science=science(config),
        folder=folder.path,
    )
    others = [other.run_id for other in stack.runs if other is not run]
    folder.log_attempt(
        "start",
        attempt=run.attempt,
        start_step=run.step,
        device=stack.engine.compute.name,
        arithmetic=stack.engine.arithmetic.facts(),
        wandb_id=run.tracker.attempt_id,
        versions=run.facts["versions"],
        **({"stacked_with": others} if others else {}),
        **({"world_size": stack.world.size} if stack.world.size > 1 else {}),
        **run.facts_of_fork(),
        **({"changed": dict(run.changed)} if run.changed else {}),
    )


def _known_facts(path: Path) -> dict[str, Any]:
    """The last attempt's run.json; nothing when it cannot be read."""
    try:
        return read_json(path)
    except (OSError, ValueError):
        return {}


def log_row(run: Run, stack: Stack, *, tokens_per_second: float) -> dict[str, Any]:
    """Append a row of metrics: means over the steps since the last row.

    Tokens per second are this run's, FLOP/s those of all its stack's and world's, their shares of
    the peak a device's.
    """
    losses, grad_norms = zip(*run.window, strict=True)
    run.loss_train = math.fsum(losses) / len(losses)
    at_work = sum(other in stack.active for other in stack.runs)
    flops_per_second = at_work * tokens_per_second * run.plan.token_flops.train
    row = {
        **_progress(run),
        "loss": run.loss_train,
        "lr": run.plan.lr * run.plan.schedule.multiplier(run.step - 1),
        "grad_norm": math.fsum(grad_norms) / len(grad_norms),
        "tokens_per_second": round(tokens_per_second, 1),
        **stack.peak.utilisation(flops_per_second, devices=stack.world.size).columns(),
        "seconds": round(run.seconds, 3),
    }
    run.window.clear()
    append_jsonl(run.folder.metrics, [row])
    return row


def log_evaluation(run: Run, measured: Evaluation) -> None:
    """Append a row of evaluations."""
    run.val_loss, run.bits_per_byte = measured.loss, measured.bits_per_byte
    row = {
        **_progress(run),
        "split": "validation",
        "loss": measured.loss,
        "bits_per_byte": measured.bits_per_byte,
        "n_tokens": measured.n_tokens,
        "data_sha256": run.dataset.sha256,
    }
    append_jsonl(run.folder.evals, [row], sync=True)


def _progress(run: Run) -> dict[str, int]:
    tokens = run.step * run.plan.batch_tokens
    return {"step": run.step, "tokens": tokens, "flops": tokens * run.plan.flops_per_token}


def write_running(run: Run, stack: Stack) -> None:
    """Say in status.json how far the run is, and what it has cost."""
    run.folder.write_status(
        "running",
        step=run.step,
        total_steps=run.plan.steps,
        seconds=round(run.seconds, 3),
        cost=stack.cost(run).to_json(),
    )


def save(run: Run, stack: Stack) -> None:
    """Commit a checkpoint, with what the runs that ride on this one need; rows go to disk first.

    Raises:
        DivergedError: A weight or moment is not finite; such a state is never saved.
        StorageError: The disk is full or refuses; earlier checkpoints are as they were.
    """
    riders = [r for r in stack.riders if r.forked_from == run.run_id and r in stack.active]
    _commit(run, stack, spent=stack.clock.spent(run.spent), riders=riders)


def fork(rider: Run, stack: Stack) -> None:
    """A run leaves the trunk it shared: commit the checkpoint from which it will go on.

    Its trunk is charged to the run that it rode on.

    Raises:
        DivergedError, StorageError: As for `save`.
    """
    rider.fork_step = rider.step
    _commit(rider, stack, spent=rider.spent, riders=[])
    rider.folder.write_status(
        "preempted",
        reason=f"its first {rider.step} steps are those of {rider.forked_from}; its cooldown waits",
        step=rider.step,
        total_steps=rider.plan.steps,
        seconds=round(rider.seconds, 3),
        cost=stack.cost(rider).to_json(),
    )


def _commit(run: Run, stack: Stack, *, spent: Mapping[str, float], riders: Sequence[Run]) -> None:
    model, optimizer = stack.engine.replica_state(run.replica)
    _refuse_non_finite(run, model, optimizer)
    for written in (run, *riders):
        append_jsonl(written.folder.metrics, [], sync=True)
    run.folder.checkpoints.mkdir(exist_ok=True)
    sync_folder(run.folder.path)  # the names of the records and of checkpoints/, too
    save_checkpoint(
        run.folder.checkpoints,
        run.step,
        model=model,
        optimizer=optimizer,
        state=checkpoint_state(run, stack.engine, spent=spent, riders=riders),
        keep=run.config.machine.checkpoint_keep,
    )


def _refuse_non_finite(
    run: Run, model: Mapping[str, Tensor], optimizer: Mapping[str, Tensor]
) -> None:
    tensors = [*model.values(), *optimizer.values()]
    if not all(bool(tensor.isfinite().all()) for tensor in tensors):
        raise DivergedError(
            f"step {run.step}: a weight or moment is not finite (learning rate {run.plan.lr:.3g}, "
            f"last loss {run.losses.last:.6g})"
        )
