"""How one attempt at a run ends: what its error means, and what is written down about it."""

import contextlib
from collections.abc import Mapping
from typing import Any

from train.costs import RunCost
from train.device import is_device_lost, is_out_of_memory
from train.errors import (
    DeviceMemoryError,
    InfrastructureError,
    RecordsError,
    StorageError,
    WindTunnelError,
    as_storage_error,
)
from train.manifest import PlannedRun
from train.planning import RunPlan
from train.replay import compare
from train.run import Run

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
    folder = planned.folder
    told = cost.facts() if cost is not None else folder.read_status().get("cost")
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
    known = planned.folder.read_status()
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
        **({"replayed": replayed.facts()} if replayed and replayed.rows else {}),
        **({"mirror": dict(mirror)} if mirror else {}),
    )
