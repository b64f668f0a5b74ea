"""The end of a run at its horizon: diverged all the same, or its result, written once."""

import hashlib
import math
import warnings
from collections.abc import Mapping
from typing import Any

from train.attempt import close_attempt
from train.errors import DivergedError
from train.provenance import runs_table_row
from train.records import SCHEMA_VERSION, append_jsonl, write_json
from train.replay import ReplayReport, compare
from train.run import Run
from train.stack import Stack


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
