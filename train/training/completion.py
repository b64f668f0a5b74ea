"""The end of a run at its horizon: diverged all the same, or its result, written once.

How one attempt at a run ends: what its error means, and what is written down about it.
"""

import contextlib
import hashlib
import math
import warnings
from collections.abc import Mapping
from typing import Any

from train.errors import (
    DeviceMemoryError,
    DivergedError,
    InfrastructureError,
    RecordsError,
    StorageError,
    WindTunnelError,
    as_storage_error,
    is_device_lost,
    is_out_of_memory,
)
from train.plan.planning import PlannedRun, RunPlan
from train.run_folder.accounting import RunCost
from train.run_folder.provenance import runs_table_row
from train.run_folder.replay_check import ReplayReport, compare
from train.run_folder.run_folder import folder_of
from train.storage.records import SCHEMA_VERSION, append_jsonl, write_json
from train.training.run_state import Run
from train.training.stack import Stack


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
        "cost": stack.cost(run).to_json(),
        "replayed": replayed.to_json(),
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
        cost=stack.cost(run).to_json(),
    )
    close_attempt(run, "completed", cause=None, summary=row)


STATE_AFTER = {"diverged": "diverged", "preempted": "preempted", "interrupted": "preempted"}
"""State of a run by the cause that ended its attempt; any other cause is a failure."""


def known_error(error: BaseException, plan: RunPlan) -> BaseException:
    """Say what an error of torch or of the system means for the user; others are returned."""
    if isinstance(error, OSError):
        return as_storage_error(error) or error
    first_line = (str(error) or type(error).__name__).splitlines()[0]
    if is_out_of_memory(error):
        return DeviceMemoryError(
            f"{plan.run_id}: one window of {plan.shape.seq_len} tokens of this model does not fit "
            f"the memory ({first_line}); use a smaller model or data.seq_len, fewer "
            f"machine.workers, a smaller machine.stack, or another device"
        )
    if is_device_lost(error):
        return InfrastructureError(
            f"{plan.run_id}: the device failed ({first_line}); the same command continues"
        )
    return error


def record_end(
    planned: PlannedRun | Run,
    error: BaseException,
    cause: str,
    *,
    state: str,
    cost: RunCost | None = None,
) -> None:
    """Write down how an attempt ended short of its horizon; a full disk must not hide the cause.

    Args:
        planned: The run; only planned when it could not even be opened.
        error: What ended it, in the user's terms.
        cause: One of retries.RETRIES.
        state: The run's, from here on.
        cost: What the run has cost, where that is known.
    """
    folder = planned.folder if isinstance(planned, Run) else folder_of(planned)
    told = cost.to_json() if cost is not None else folder.read_status().get("cost")
    with contextlib.suppress(OSError, ValueError, StorageError):
        folder.write_status(
            state,
            reason=str(error) or type(error).__name__,
            total_steps=planned.plan.steps,
            **_progress(planned),
            exit_code=error.exit_code if isinstance(error, WindTunnelError) else 1,
            **({"cost": told} if told is not None else {}),
        )
        if isinstance(planned, Run):
            close_attempt(planned, state, cause=cause)
        else:
            number = folder.attempt_number() + 1
            folder.log_attempt("end", attempt=number, state=state, cause=cause)


def _progress(planned: PlannedRun | Run) -> dict[str, float]:
    """How far the run came; as its status told last when it was not opened."""
    if isinstance(planned, Run):
        return {"step": planned.step, "seconds": round(planned.seconds, 3)}
    known = folder_of(planned).read_status()
    return {"step": known.get("step", 0), "seconds": known.get("seconds", 0.0)}


def close_attempt(
    run: Run, state: str, *, cause: str | None, summary: Mapping[str, Any] | None = None
) -> None:
    """Close the mirror and append the attempt's end: its cause, its step, how replays compare."""
    mirror = run.tracker.finish(state, summary or {})
    replayed = None
    with contextlib.suppress(RecordsError):  # whose end is written all the same
        replayed = compare(run.folder)
    run.folder.log_attempt(
        "end",
        attempt=run.attempt,
        state=state,
        cause=cause,
        step=run.step,
        **({"replayed": replayed.to_json()} if replayed and replayed.rows else {}),
        **({"mirror": dict(mirror)} if mirror else {}),
    )
