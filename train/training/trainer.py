"""The runs of one job, from their locks to their results: start here.

Runs of equal length form a stack, the longest first; the shorter ones that share its trunk get
their first checkpoint while it is trained, and form the stacks that follow. A stack is made of runs
that resume from the same step, so whatever stopped a job, the same job continues. Every rank of the
job runs this code; rank 0 alone reads and writes run folders.
"""

import contextlib
import time
import warnings
from collections.abc import Sequence
from functools import partial

from train.config.schema import Config
from train.distributed import ReleasedError, this_world
from train.engine.device import release_memory
from train.engine.engine import Engine
from train.engine.memory import half_micro_batch
from train.errors import (
    DivergedError,
    LockedError,
    WindTunnelError,
    is_out_of_memory,
)
from train.plan.planning import PlannedRun, RunPlan
from train.run_folder.accounting import RunClock, TimeKind
from train.run_folder.run_folder import folder_of
from train.signals import StopRequest, stop_requests
from train.storage.records import FINISHED_STATES
from train.training.completion import record_interruption
from train.training.loop import train_to_last_step
from train.training.opening import load_engine, open_stacks
from train.training.ranks import break_world_on_error, same_on_all_ranks, select_runs
from train.training.recording import cost_of, open_records, write_status
from train.training.run_state import RunState, active


def train_run(config: Config, plan: RunPlan) -> None:
    """Train one run; see train_runs."""
    train_runs([PlannedRun(overrides=[], config=config, plan=plan)])


def train_runs(planned: Sequence[PlannedRun], *, startup: float = 0.0) -> None:
    """Train the runs of a job to their last steps, or resume them where they stopped.

    Finished runs are left alone. A run that diverges, whose own files are damaged, or that another
    process takes over, costs no other: its error is raised when the others are done.

    Args:
        planned: Runs of one family (grouping.family); rank 0's count, and the other ranks get them.
        startup: Seconds since the process started.

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
    world = this_world()
    errors: list[WindTunnelError] = []
    with break_world_on_error(world), stop_requests() as stop, contextlib.ExitStack() as locks:
        runs = same_on_all_ranks(world, planned)

        def lock() -> None:
            for run in runs:
                locks.enter_context(folder_of(run).locked())

        world.on_rank_0(lock)
        left = select_runs(world, runs, _is_unfinished)
        while left:
            steps = max(run.plan.steps for run in left)
            longest = [run for run in left if run.plan.steps == steps]
            shorter = [run for run in left if run.plan.steps < steps]
            errors += _train_longest(longest, shorter, stop, startup=startup)
            left = select_runs(world, shorter, lambda run: not _is_finished(run))
            startup = 0.0
    if errors:
        raise min(errors, key=lambda error: isinstance(error, DivergedError))


def _is_finished(planned: PlannedRun) -> bool:
    return folder_of(planned).state() in FINISHED_STATES


def _is_unfinished(planned: PlannedRun) -> bool:
    """Whether anything is left to train; a diverged run that is to start again is archived."""
    folder = folder_of(planned)
    if planned.config.restart and folder.state() == "diverged":
        folder.archive()
    if _is_finished(planned):
        return False
    if folder.result.exists():
        # killed between the result and the status
        write_status(planned, "completed", step=planned.plan.steps)
        return False
    return True


def _train_longest(
    longest: Sequence[PlannedRun],
    shorter: Sequence[PlannedRun],
    stop: StopRequest,
    *,
    startup: float,
) -> list[WindTunnelError]:
    """Train the runs of one length, in as few stacks as their checkpoints allow.

    When a micro-batch does not fit the memory it is halved, and the runs resume from their
    checkpoints with the batch unchanged: the state after the failed step is not used.

    Args:
        longest: Runs of equal length.
        shorter: Shorter runs, which may fork from them.
        stop: Whether a signal asked for it.
        startup: Seconds since the process started.

    Returns:
        Errors that ended one run and no other.
    """
    world, errors = this_world(), list[WindTunnelError]()
    max_micro_batch_seqs = None
    left = list(longest)
    while left:
        began = time.perf_counter() - startup
        half = None
        stacks = open_stacks(world, left, shorter, errors)
        for runs in stacks:
            clock = RunClock(
                runs[0].step,
                replicas=len(runs),
                doing=TimeKind.startup,
                startup=time.perf_counter() - began,
            )
            half = _train_stack(runs, stop, clock, max_micro_batch_seqs)
            errors += [run.error for run in runs if run.error is not None]
            branches = [branch for run in runs for branch in run.branches]
            errors += [branch.error for branch in branches if branch.error is not None]
            began = time.perf_counter()
            if half is not None:
                release_memory()
                break
        startup, max_micro_batch_seqs = 0.0, half
        opened = {run.run_id for runs in stacks for run in runs}
        is_left = [run for run in left if half is not None and run.plan.run_id in opened]
        left = select_runs(world, is_left, lambda run: not _is_finished(run))
    return errors


def _train_stack(
    runs: list[RunState], stop: StopRequest, clock: RunClock, max_micro_batch_seqs: int | None
) -> int | None:
    """Train one stack; return None at the end, or a smaller micro-batch to try again with."""
    world = this_world()
    engine = None
    try:
        engine = load_engine(runs, clock, max_micro_batch_seqs)
        names = [run.run_id for run in runs]

        def open_all() -> None:
            for run in runs:
                others = [name for name in names if name != run.run_id]
                open_records(run, engine, stacked_with=others)

        world.on_rank_0(open_all)
        train_to_last_step(runs, engine, clock, stop)
        return None
    except (LockedError, ReleasedError):
        # another process owns a folder, or rank 0 has written the end: nothing is written here
        raise
    except BaseException as error:
        if world.rank > 0:
            raise
        if engine is not None and world.size > 1 and is_out_of_memory(error):
            # of a record, not of a step: the other ranks cannot halve the micro-batch with this one
            error = engine.too_little_memory()
        half = _smaller_micro_batch(runs, engine, error)
        cost = partial(cost_of, engine=engine, clock=clock) if engine is not None else None
        if half is None:
            raise record_interruption(active(runs), error, cost) from None
        record_interruption(active(runs), error, cost, state="preempted")
        return half


def _smaller_micro_batch(
    runs: list[RunState], engine: Engine | None, error: BaseException
) -> int | None:
    """The micro-batch to go on with, when the memory was too small for the engine's."""
    if engine is None or not is_out_of_memory(error):
        return None
    now = engine.policy.micro_batch_seqs
    half = half_micro_batch(now, batch_seqs=engine.batches.batch_seqs)
    if half is not None:
        warnings.warn(
            f"{runs[0].run_id}: {now} windows at a time do not fit the memory; going on from "
            f"the last checkpoint with {half}, the batch unchanged",
            stacklevel=2,
        )
    return half
