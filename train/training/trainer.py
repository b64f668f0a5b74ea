"""The runs of one job, from their locks to their results: start here.

Runs of equal steps form a stack, the longest first; shorter ones that share its trunk ride along,
and form the stacks that follow. A run's checkpoints decide where it goes on, so a stack is made of
runs that go on from the same step, and whatever stopped a job, the same job continues.
"""

import contextlib
import time
import warnings
from collections.abc import Sequence

from train.config.schema import Config
from train.engine.device import release_memory
from train.engine.memory import half_micro_batch
from train.errors import (
    CheckpointError,
    DivergedError,
    LockedError,
    RecordsError,
    WindTunnelError,
    is_out_of_memory,
)
from train.plan.planning import PlannedRun, RunPlan
from train.run_folder.accounting import RunClock, TimeKind
from train.run_folder.run_folder import folder_of
from train.signals import StopRequest, stop_requests
from train.storage.records import FINISHED_STATES
from train.training.completion import STATE_AFTER, known_error, record_end
from train.training.loop import train_to_horizon
from train.training.opening import align, find_riders, open_run
from train.training.recording import open_records
from train.training.run_state import Run
from train.training.stack import Stack, build_stack


def train_run(config: Config, plan: RunPlan) -> None:
    """Train one run; see train_runs."""
    train_runs([PlannedRun(overrides=[], config=config, plan=plan)])


def train_runs(planned: Sequence[PlannedRun], *, startup: float = 0.0) -> None:
    """Train the runs of a job to their horizons, or go on where they stopped.

    Finished runs are left alone. A run that diverges, whose own files are damaged, or that another
    process takes over, costs no other: its error is raised when the others are done.

    Args:
        planned: Runs of one family (grouping.family).
        startup: Seconds that the process took to come here.

    Raises:
        ConfigError: The device is not there, the data has too few tokens, or versions changed and
            machine.strict_versions is set.
        DataError: The data is missing or damaged.
        LockedError: Another process trains one of them.
        CheckpointError: A run's checkpoints are all damaged, or another run's.
        RecordsError: Rows that its checkpoint vouches for are gone or damaged.
        StorageError: The disk is full, read-only or gone.
        DeviceMemoryError: One window at a time does not fit the device.
        InfrastructureError: The device failed; the same command continues.
        PreemptedError, InterruptedByUserError: A signal stopped it; everything is saved.
        DivergedError: The loss stopped being finite, or ended above its start; recorded as such.
    """
    errors: list[WindTunnelError] = []
    with stop_requests() as stop, contextlib.ExitStack() as locks:
        for run in planned:
            locks.enter_context(folder_of(run).locked())
        left = [run for run in planned if _is_unfinished(run)]
        while left:
            steps = max(run.plan.steps for run in left)
            together = [run for run in left if run.plan.steps == steps]
            left = [run for run in left if run.plan.steps < steps]
            errors += _train_stage(together, left, stop, startup=startup)
            left = [run for run in left if folder_of(run).state() not in FINISHED_STATES]
            startup = 0.0
    if errors:
        raise min(errors, key=lambda error: isinstance(error, DivergedError))


def _is_unfinished(planned: PlannedRun) -> bool:
    """Whether anything is left to do; a diverged run that is to start again is archived first."""
    folder, steps = folder_of(planned), planned.plan.steps
    if planned.config.restart and folder.state() == "diverged":
        folder.archive()
    if folder.state() in FINISHED_STATES:
        return False
    if folder.result.exists():  # killed between the result and the status
        folder.write_status("completed", step=steps, total_steps=steps)
        return False
    return True


def _train_stage(
    together: Sequence[PlannedRun],
    later: Sequence[PlannedRun],
    stop: StopRequest,
    *,
    startup: float,
) -> list[WindTunnelError]:
    """Train the runs of one horizon, in as few stacks as their checkpoints allow.

    A micro-batch that does not fit is halved, and its runs restart from their checkpoints with the
    same batch: what the failed step left behind is not used.

    Args:
        together: Runs of equal steps.
        later: Shorter runs, which may ride along.
        stop: Whether a signal asked for it.
        startup: Seconds that the process took to come here.

    Returns:
        How those runs ended that cost no other.
    """
    errors: list[WindTunnelError] = []
    most_micro_batch_seqs = None
    left = list(together)
    while left:
        began = time.perf_counter() - startup
        opened = [run for planned in left if (run := _open(planned, errors)) is not None]
        half = None
        for begun in align(opened):
            startup = time.perf_counter() - began
            clock = RunClock(
                begun[0].step, replicas=len(begun), doing=TimeKind.startup, startup=startup
            )
            half = _train_stack(begun, later, stop, clock, errors, most_micro_batch_seqs)
            began, startup = time.perf_counter(), 0.0
            if half is not None:
                release_memory()
                break
        most_micro_batch_seqs = half
        is_open = {run.run_id for run in opened if run.folder.state() not in FINISHED_STATES}
        left = [run for run in left if half is not None and run.plan.run_id in is_open]
    return errors


def _open(planned: PlannedRun, errors: list[WindTunnelError]) -> Run | None:
    """Find where a run goes on; None, with the error noted, when its own files are damaged."""
    try:
        folder_of(planned).refuse_other_holder()
    except LockedError as error:
        errors.append(error)
        return None
    while True:
        try:
            return open_run(planned)
        except (CheckpointError, RecordsError) as error:
            if planned.config.restart and folder_of(planned).checkpoints.exists():
                folder_of(planned).archive()
                continue
            record_end(planned, error, error.cause, state="failed")
            errors.append(error)
            return None
        except LockedError:
            raise
        except BaseException as error:
            raise _record([planned], error) from None


def _train_stack(
    runs: list[Run],
    later: Sequence[PlannedRun],
    stop: StopRequest,
    clock: RunClock,
    errors: list[WindTunnelError],
    most_micro_batch_seqs: int | None,
) -> int | None:
    """Train one stack; None at the end, or a micro-batch to try again with."""
    stack = None
    try:
        riders = find_riders(runs, later)
        stack = build_stack(runs, riders, clock, most_micro_batch_seqs=most_micro_batch_seqs)
        for run in runs:
            open_records(run, stack)
        train_to_horizon(stack, stop)
        return None
    except LockedError:  # another process owns a folder: nothing more is written there
        raise
    except BaseException as error:
        half = _smaller(stack, error)
        if half is None:
            raise _record(_under_way(stack, runs), error, stack) from None
        _record(_under_way(stack, runs), error, stack, state="preempted")
        return half
    finally:
        errors += stack.ended if stack is not None else []


def _under_way(stack: Stack | None, runs: list[Run]) -> list[Run]:
    return [run for run in runs if stack is None or run in stack.active]


def _smaller(stack: Stack | None, error: BaseException) -> int | None:
    """The micro-batch to go on with, if the memory was too small for this one."""
    if stack is None or not is_out_of_memory(error):
        return None
    now = stack.engine.arithmetic.micro_batch_seqs
    half = half_micro_batch(now, batch_seqs=stack.engine.batches.batch_seqs)
    if half is not None:
        warnings.warn(
            f"{stack.runs[0].run_id}: {now} windows at a time do not fit the memory; going on from "
            f"the last checkpoint with {half}, the batch unchanged",
            stacklevel=2,
        )
    return half


def _record(
    runs: Sequence[PlannedRun | Run],
    error: BaseException,
    stack: Stack | None = None,
    *,
    state: str | None = None,
) -> BaseException:
    """Write down what ended runs that were under way; return it in the user's terms."""
    known = error
    for run in runs:
        known = known_error(error, run.plan)
        cause = known.cause if isinstance(known, WindTunnelError) else "bug"
        record_end(
            run,
            known if state is None else error,  # that one window does not fit is not known yet
            cause,
            state=state or STATE_AFTER.get(cause, "failed"),
            cost=stack.cost(run) if stack is not None and isinstance(run, Run) else None,
        )
    return known
