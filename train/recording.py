"""What a run writes: its facts, rows, evaluations, status, checkpoints, and its result."""

import hashlib
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from train.attempt import close_attempt
from train.checkpoint import save_checkpoint
from train.errors import DivergedError
from train.evaluate import evaluate
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
from train.tracker import build_tracker


def describe(run: Run) -> tuple[dict[str, Any], dict[str, tuple[Any, Any]]]:
    """Return run.json's content and what differs from the last attempt's, before anything changes.

    Raises:
        ConfigError: Versions changed since the last attempt, and machine.strict_versions is set.
    """
    folder, config = run.folder, run.config
    facts = run_facts(config, run.plan, run.dataset, device=run.compute.name, epochs=run.epochs)
    changed = changed_versions(_known_facts(folder.run), facts) if run.attempt > 1 else {}
    if changed and config.machine.strict_versions:
        refuse_changed_versions(folder.path, changed)
    if changed:
        listed = ", ".join(f"{name} {old} -> {new}" for name, (old, new) in changed.items())
        warnings.warn(f"{folder.path.name}: changed since its last attempt: {listed}", stacklevel=2)
    return facts, changed


def open_records(
    run: Run, facts: Mapping[str, Any], changed: Mapping[str, tuple[Any, Any]]
) -> None:
    """Write down what is about to run, and start the mirror; the run is where it goes on from.

    Args:
        run: A restored run.
        facts: As `describe` returned them.
        changed: Likewise.

    Raises:
        MissingExtraError: tracker=wandb and wandb is not installed.
    """
    config, folder = run.config, run.folder
    write_text(folder.config, OmegaConf.to_yaml(OmegaConf.structured(config)))
    write_json(folder.run, facts)
    sync_folder(folder.path.parent)  # the run folder's own name
    run.tracker = build_tracker(
        config.tracker,
        study=config.study.name,
        run_id=run.plan.run_id,
        attempt=run.attempt,
        start_step=run.step,
        science=science(config),
        folder=folder.path,
    )
    folder.log_attempt(
        "start",
        attempt=run.attempt,
        start_step=run.step,
        device=run.compute.name,
        micro_batch_seqs=run.micro_batch_seqs,
        eval_seqs=run.eval_seqs,
        wandb_id=run.tracker.attempt_id,
        versions=facts["versions"],
        **({"changed": dict(changed)} if changed else {}),
    )


def _known_facts(path: Path) -> dict[str, Any]:
    """The last attempt's run.json; nothing when it cannot be read."""
    try:
        return read_json(path)
    except (OSError, ValueError):
        return {}


def log_row(run: Run, *, lr: float, tokens_per_second: float) -> dict[str, Any]:
    """Append a row of metrics: means over the steps since the last row."""
    losses, grad_norms = zip(*run.window, strict=True)
    run.loss_train = math.fsum(losses) / len(losses)
    flops_per_second = tokens_per_second * run.plan.token_flops.train
    row = {
        **_progress(run),
        "loss": run.loss_train,
        "lr": lr,
        "grad_norm": math.fsum(grad_norms) / len(grad_norms),
        "tokens_per_second": round(tokens_per_second, 1),
        "mfu": round(flops_per_second / run.peak_flops, 5),
        "seconds": round(run.seconds, 3),
    }
    run.window.clear()
    append_jsonl(run.folder.metrics, [row])
    return row


def log_evaluation(run: Run) -> None:
    """Append a row of evaluations."""
    measured = evaluate(
        run.forward,
        run.validation,
        run.compute,
        bytes_per_token=run.dataset.bytes_per_token("validation"),
    )
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


def write_running(run: Run) -> None:
    """Say in status.json how far the run is."""
    run.folder.write_status(
        "running", step=run.step, total_steps=run.plan.steps, seconds=round(run.seconds, 3)
    )


def save(run: Run) -> None:
    """Commit a checkpoint; the rows before it are on disk first.

    Raises:
        DivergedError: A weight or moment is not finite; such a state is never saved.
        StorageError: The disk is full or refuses; earlier checkpoints are as they were.
    """
    model, optimizer = run.model.state_dict(), run.optimizer.state_dict()
    _refuse_non_finite(run, model, optimizer)
    append_jsonl(run.folder.metrics, [], sync=True)
    run.folder.checkpoints.mkdir(exist_ok=True)
    sync_folder(run.folder.path)  # the names of the records and of checkpoints/, too
    save_checkpoint(
        run.folder.checkpoints,
        run.step,
        model=model,
        optimizer=optimizer,
        state=checkpoint_state(run),
        keep=run.config.machine.checkpoint_keep,
    )


def _refuse_non_finite(run: Run, model: Mapping[str, Any], optimizer: Mapping[str, Any]) -> None:
    moments = [tensor for state in optimizer["state"].values() for tensor in state.values()]
    tensors = [value for value in (*model.values(), *moments) if torch.is_floating_point(value)]
    if not bool(torch.stack([value.isfinite().all().cpu() for value in tensors]).all()):
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


def _result(run: Run, row: Mapping[str, Any], replayed: ReplayReport) -> dict[str, Any]:
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
        "replayed": replayed.facts(),
        "files": {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in (run.folder.metrics, run.folder.evals)
        },
    }


def complete(run: Run) -> None:
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
            "device": run.compute.name,
        },
    )
    folder = run.folder
    append_jsonl(folder.metrics, [], sync=True)
    replayed = compare(folder)
    if replayed.differing:
        warnings.warn(f"{run.plan.run_id}: {replayed}", stacklevel=2)
    write_json(folder.result, _result(run, row, replayed))
    folder.write_status(
        "completed", step=run.step, total_steps=run.plan.steps, seconds=round(run.seconds, 3)
    )
    close_attempt(run, "completed", cause=None, summary=row)
