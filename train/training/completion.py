"""The end of a run: completed at its last step, or what ended it before; each is written once."""

import contextlib
import hashlib
import math
import warnings
from collections.abc import Mapping
from typing import Any

from train.engine.engine import Engine
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
from train.run_folder.accounting import RunClock, RunCost
from train.run_folder.provenance import runs_table_row
from train.run_folder.replay_check import ReplayReport, compare
from train.run_folder.run_folder import folder_of
from train.storage.records import SCHEMA_VERSION, append_jsonl, write_json
from train.training.recording import cost_of, write_status
from train.training.run_state import RunState, evaluation_steps_of

STATE_AFTER = {"diverged": "diverged", "preempted": "preempted", "interrupted": "preempted"}
"""State of a run by the cause that ended its attempt; any other cause is a failure."""


def refuse_diverged_evaluation(run: RunState) -> None:
    """Raise when the last validation loss, which is on record, is not finite.

    Raises:
        DivergedError: It is not.
    """
    is_new = run.step in evaluation_steps_of(run.planned)
    if is_new and not math.isfinite(run.val_loss):
        raise DivergedError(f"step {run.step}: the validation loss is {run.val_loss:g}")


def refuse_diverged_end(run: RunState) -> None:
    """Raise when a run at its last step has a higher training loss than at its first.

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


def complete(run: RunState, engine: Engine, clock: RunClock) -> None:
    """Finish a run at its last step: write result.json once, and close the attempt."""
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
            "device": engine.compute.name,
        },
    )
    append_jsonl(run.folder.metrics, [], sync=True)
    replayed = compare(run.folder)
    if replayed.differing:
        warnings.warn(f"{run.run_id}: {replayed}", stacklevel=2)
    cost = cost_of(run, engine, clock)
    write_json(run.folder.result, _result(run, cost, row, replayed))
    write_status(run, "completed", cost=cost)
    close_attempt(run, "completed", cause=None, summary=row)


def _result(
    run: RunState, cost: RunCost, row: Mapping[str, Any], replayed: ReplayReport
) -> dict[str, Any]:
    """Content of result.json; `row` is the run's in the runs table."""
    return {
        "schema": SCHEMA_VERSION,
        "run_id": run.run_id,
        "state": "completed",
        "data_sha256": run.dataset.sha256,
        "row": row,
        "divergence": {**run.losses.to_json(), "diverged_above": run.config.study.diverged_above},
        "epochs": run.epochs,
        "attempts": run.attempt,
        "cost": cost.to_json(),
        "replayed": replayed.to_json(),
        "files": {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in (run.folder.metrics, run.folder.evals)
        },
    }


def user_error(error: BaseException, plan: RunPlan) -> BaseException:
    """The error that tells a user what an error of torch or the system means; else the same."""
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
    run: RunState | PlannedRun,
    error: BaseException,
    cause: str,
    *,
    state: str,
    cost: RunCost | None = None,
) -> None:
    """Write down how an attempt ended before the last step; a full disk must not hide the cause.

    Args:
        run: The run; only planned when it could not even be opened.
        error: What ended it, in the user's terms.
        cause: One of retries.RETRIES.
        state: The run's state from here on.
        cost: What the run has cost; None keeps what status.json says.
    """
    exit_code = error.exit_code if isinstance(error, WindTunnelError) else 1
    reason = str(error) or type(error).__name__
    with contextlib.suppress(OSError, ValueError, StorageError):
        write_status(run, state, cost=cost, reason=reason, exit_code=exit_code)
        if isinstance(run, RunState):
            close_attempt(run, state, cause=cause)
        else:
            folder = folder_of(run)
            number = folder.attempt_number() + 1
            folder.log_attempt("end", attempt=number, state=state, cause=cause)


def close_attempt(
    run: RunState, state: str, *, cause: str | None, summary: Mapping[str, Any] | None = None
) -> None:
    """Close the mirror and append the attempt's end: its cause, its step, how replays compare."""
    mirror = run.tracker.finish(state, summary or {})
    replayed = None
    # the end is written also when the records are damaged
    with contextlib.suppress(RecordsError):
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
