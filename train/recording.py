"""What a run writes: its facts, rows, evaluations, status, checkpoints, and its result."""

import hashlib
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from torch import Tensor

from train.attempt import close_attempt
from train.checkpoint import save_checkpoint
from train.errors import DivergedError
from train.evaluate import Evaluation
from train.identity import science
from train.provenance import changed_versions, refuse_changed_versions, run_facts, runs_table_row
from train.records import (
    SCHEMA_VERSION,
    append_jsonl,
    read_json,
    sync_folder,
    write_json,
    write_text,
)
from train.replay import ReplayReport, compare
from train.resume import checkpoint_state
from train.run import Run
from train.stack import Stack
from train.tracker import build_tracker


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
    flops_per_second = len(stack.runs) * tokens_per_second * run.plan.token_flops.train
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
        cost=stack.cost(run).facts(),
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
        cost=stack.cost(rider).facts(),
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


def refuse_diverged_evaluation(run: Run) -> None:
    """A validation loss that is not finite, on record by now, ends the run.

    Raises:
        DivergedError: It is.
    """
    if not math.isfinite(run.val_loss):
        raise DivergedError(f"step {run.step}: the validation loss is {run.val_loss:g}")


def refuse_diverged_end(run: Run) -> None:
    """At the horizon: a run that ended worse than it began is diverged, not completed.

    Raises:
        DivergedError: The rule of divergence.py holds.
    """
    above, losses = run.config.study.diverged_above, run.losses
    if losses.has_diverged(above):
        assert losses.start is not None
        raise DivergedError(
            f"step {run.step}: the training loss ends at {losses.end:.6g}, the mean of the last "
            f"tenth, above study.diverged_above={above:g} times its start of {losses.start:.6g} "
            f"(learning rate {run.plan.lr:.3g})"
        )


def _result(
    run: Run, stack: Stack, row: Mapping[str, Any], replayed: ReplayReport
) -> dict[str, Any]:
    """The content of result.json; `row` is the one of the runs table."""
    return {
        "schema": SCHEMA_VERSION,
        "run_id": run.plan.run_id,
        "state": "completed",
        "data_sha256": run.dataset.sha256,
        "row": row,
        "divergence": {**run.losses.facts(), "diverged_above": run.config.study.diverged_above},
        "epochs": run.epochs,
        "attempts": run.attempt,
        "cost": stack.cost(run).facts(),
        "replayed": replayed.facts(),
        "files": {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in (run.folder.metrics, run.folder.evals)
        },
    }


def complete(run: Run, stack: Stack) -> None:
    """Write the result, once, and close the run."""
    row = runs_table_row(
        run.config,
        run.plan,
        run.dataset,
        state="completed",
        measured={
            "loss": run.val_loss,
            "bits_per_byte": run.bits_per_byte,
            "loss_train": run.loss_train,
            "tokens_per_second": round(run.plan.tokens / max(1e-9, run.seconds), 1),
            "seconds": round(run.seconds, 3),
            "device": stack.engine.compute.name,
        },
    )
    folder = run.folder
    append_jsonl(folder.metrics, [], sync=True)
    replayed = compare(folder)
    if replayed.differing:
        warnings.warn(f"{run.plan.run_id}: {replayed}", stacklevel=2)
    write_json(folder.result, _result(run, stack, row, replayed))
    folder.write_status(
        "completed",
        step=run.step,
        total_steps=run.plan.steps,
        seconds=round(run.seconds, 3),
        cost=stack.cost(run).facts(),
    )
    close_attempt(run, "completed", cause=None, summary=row)
