"""How one attempt at a run ends: what its error means, and what is written down about it."""

import contextlib
from collections.abc import Mapping
from typing import Any

from train.device import is_device_lost, is_out_of_memory
from train.errors import (
    DeviceMemoryError,
    InfrastructureError,
    RecordsError,
    as_storage_error,
)
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
            f"machine.workers, or another device"
        )
    if is_device_lost(error):
        return InfrastructureError(
            f"{plan.run_id}: the device failed ({first_line}); the same command continues"
        )
    return error


def close_attempt(
    run: Run, state: str, *, cause: str | None, summary: Mapping[str, Any] | None = None
) -> None:
    """Close the mirror and append the attempt's end: its cause, its step, how replays compare."""
    mirror = run.tracker.finish(state, summary or {})
    replayed = None
    with contextlib.suppress(
        RecordsError
    ):  # the end of a run that found it is written all the same
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
