"""What a run writes while it trains: rows, evaluations, status, checkpoints, and its result."""

import hashlib
import math
from typing import Any

from train.checkpoint import save_checkpoint
from train.errors import DivergedError
from train.evaluate import evaluate
from train.provenance import runs_table_row
from train.records import SCHEMA_VERSION, append_jsonl, write_json
from train.run import Run


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
    run.tracker.log_metrics(row)
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
    run.tracker.log_eval(row)


def _progress(run: Run) -> dict[str, int]:
    tokens = run.step * run.plan.batch_tokens
    return {"step": run.step, "tokens": tokens, "flops": tokens * run.plan.flops_per_token}


def write_running(run: Run) -> None:
    """Say in status.json how far the run is."""
    run.folder.write_status(
        "running", step=run.step, total_steps=run.plan.steps, seconds=round(run.seconds, 3)
    )


def save(run: Run) -> None:
    """Commit a checkpoint; the rows before it are on disk first."""
    append_jsonl(run.folder.metrics, [], sync=True)
    save_checkpoint(
        run.folder.checkpoints,
        run.step,
        model=run.model.state_dict(),
        optimizer=run.optimizer.state_dict(),
        state={
            "seconds": run.seconds,
            "window": run.window,
            "loss_train": run.loss_train if math.isfinite(run.loss_train) else None,
            "data_sha256": run.dataset.sha256,
        },
        keep=run.config.machine.checkpoint_keep,
    )


def complete(run: Run) -> None:
    """Write the result, once, and close the run."""
    if not math.isfinite(run.val_loss):
        run.tracker.finish("diverged", {})
        raise DivergedError(f"step {run.step}: the validation loss is {run.val_loss:g}")
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
    write_json(
        folder.result,
        {
            "schema": SCHEMA_VERSION,
            "run_id": run.plan.run_id,
            "state": "completed",
            "data_sha256": run.dataset.sha256,
            "row": row,
            "files": {
                path.name: hashlib.sha256(path.read_bytes()).hexdigest()
                for path in (folder.metrics, folder.evals)
            },
        },
    )
    folder.log_attempt("end", attempt=run.attempt, state="completed", cause=None)
    folder.write_status(
        "completed",
        step=run.step,
        total_steps=run.plan.steps,
        seconds=round(run.seconds, 3),
    )
    run.tracker.finish("completed", row)
