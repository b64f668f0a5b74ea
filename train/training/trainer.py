"""The runs of one job, from their locks to their results: start here.

Runs of equal length form a stack, the longest first; the shorter ones that share its trunk get
their first checkpoint while it is trained, and form the stacks that follow. A stack is made of runs
that resume from the same step, so whatever stopped a job, the same job continues. Every rank of the
job runs this code; rank 0 alone reads and writes run folders.
"""

import contextlib
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from omegaconf import OmegaConf

from train.config.schema import Config
from train.distributed import ReleasedError, World, this_world
from train.engine.build import build_engine
from train.engine.device import release_memory, select_device
from train.engine.engine import Engine
from train.engine.memory import half_micro_batch
from train.errors import (
    CheckpointError,
    DataError,
    DivergedError,
    InterruptedByUserError,
    LockedError,
    PreemptedError,
    RecordsError,
    WindTunnelError,
    is_out_of_memory,
)
from train.plan.planning import PlannedRun, RunPlan
from train.plan.validate import validate
from train.run_folder.accounting import RunClock, RunCost, TimeKind
from train.run_folder.run_folder import folder_of
from train.secrets import mask
from train.signals import StopRequest, stop_requests
from train.storage.records import FINISHED_STATES
from train.training.branches import find_branches
from train.training.completion import STATE_AFTER, record_end, user_error
from train.training.divergence import LossWatch
from train.training.loop import train_to_last_step
from train.training.recording import cost_of, describe, open_records, write_status
from train.training.resume import align, open_data, open_run, recorded_policy
from train.training.run_state import Branch, RunState, active

SAME_ON_ALL_RANKS = (DivergedError, PreemptedError, InterruptedByUserError)
"""Errors that every rank raises at the same point, and rank 0 reports."""


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
    runs = _same_on_all_ranks(world, planned)
    errors: list[WindTunnelError] = []
    with stop_requests() as stop, contextlib.ExitStack() as locks:

        def lock() -> None:
            for run in runs:
                locks.enter_context(folder_of(run).locked())

        world.on_rank_0(lock)
        left = _select(world, runs, _is_unfinished)
        while left:
            steps = max(run.plan.steps for run in left)
            longest = [run for run in left if run.plan.steps == steps]
            shorter = [run for run in left if run.plan.steps < steps]
            errors += _train_longest(longest, shorter, stop, startup=startup)
            left = _select(world, shorter, lambda run: not _is_finished(run))
            startup = 0.0
    if errors:
        raise min(errors, key=lambda error: isinstance(error, DivergedError))


def follow_rank_0(world: World) -> int:
    """Train what rank 0 trains, on another rank, and return this rank's exit code.

    It is 0 whenever rank 0 reports the end, so that the job's exit code is rank 0's.
    """
    code = 0
    try:
        train_runs(())
        world.wait_for_release()
    except ReleasedError:
        pass
    except SAME_ON_ALL_RANKS:
        world.wait_for_release()
    except BaseException as error:
        is_first = not world.has_failed()
        world.is_broken = True
        world.report(error)
        code = error.exit_code if isinstance(error, WindTunnelError) else 1
        if not isinstance(error, WindTunnelError):
            sys.excepthook(type(error), error, error.__traceback__)
        elif is_first:
            sys.stderr.write(mask(f"error: rank {world.rank}: {error}\n"))
    world.shutdown(code)
    return code


def _same_on_all_ranks(world: World, planned: Sequence[PlannedRun]) -> list[PlannedRun]:
    """Rank 0's runs, on every rank."""
    if world.size == 1:
        return list(planned)

    def configs() -> list[Any]:
        structured = (OmegaConf.structured(run.config) for run in planned)
        return [OmegaConf.to_container(config, enum_to_str=True) for config in structured]

    runs = []
    for content in world.on_rank_0(configs):
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), content))
        assert isinstance(config, Config)
        runs.append(PlannedRun(overrides=[], config=config, plan=validate(config)))
    return runs


def _select(
    world: World, runs: Sequence[PlannedRun], test: Callable[[PlannedRun], bool]
) -> list[PlannedRun]:
    """The runs that pass a test of their folders, which rank 0 reads."""
    names = world.on_rank_0(lambda: [run.plan.run_id for run in runs if test(run)])
    return [run for run in runs if run.plan.run_id in names]


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
        stacks = _open(world, left, shorter, errors)
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
        left = _select(world, is_left, lambda run: not _is_finished(run))
    return errors


def _open(
    world: World,
    planned: Sequence[PlannedRun],
    shorter: Sequence[PlannedRun],
    errors: list[WindTunnelError],
) -> list[list[RunState]]:
    """Open runs and stack them by the step they resume from, the same on every rank."""
    stacks: list[list[RunState]] = []

    def open_stacks() -> list[Any]:
        opened = [run for each in planned if (run := _open_run(each, errors)) is not None]
        stacks.extend(align(opened))
        for runs in stacks:
            find_branches(runs, shorter)
        return [
            [(run.run_id, run.step, [branch.run_id for branch in run.branches]) for run in runs]
            for runs in stacks
        ]

    described = world.on_rank_0(open_stacks)
    if world.rank == 0:
        return stacks
    by_id = {each.plan.run_id: each for each in (*planned, *shorter)}
    dataset = open_data(planned[0])
    for runs in described:
        states = []
        for run_id, step, branches in runs:
            losses = LossWatch(total_steps=by_id[run_id].plan.steps)
            state = RunState(planned=by_id[run_id], dataset=dataset, losses=losses, step=step)
            state.branches = [Branch.new(by_id[name]) for name in branches]
            states.append(state)
        stacks.append(states)
    return stacks


def _open_run(planned: PlannedRun, errors: list[WindTunnelError]) -> RunState | None:
    """Open a run; None, with the error noted, when its own files are damaged."""
    try:
        folder_of(planned).refuse_other_holder()
    except LockedError as error:
        errors.append(error)
        return None
    while True:
        try:
            run = open_run(planned)
            describe(run, select_device(planned.config.machine).name)
            return run
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
        half = _smaller_micro_batch(runs, engine, error)
        cost = partial(cost_of, engine=engine, clock=clock) if engine is not None else None
        if half is None:
            raise _record(active(runs), error, cost) from None
        _record(active(runs), error, cost, state="preempted")
        return half


def load_engine(
    runs: list[RunState], clock: RunClock, max_micro_batch_seqs: int | None = None
) -> Engine:
    """Build the engine and load each run's checkpoint into its replica, on every rank.

    Raises:
        ConfigError: The device is not there.
        DataError: The data of this rank is not rank 0's.
    """
    first, world = runs[0], this_world()
    compute = select_device(first.config.machine, index=world.local_rank)
    sha256 = world.on_rank_0(lambda: first.dataset.sha256)
    if first.dataset.sha256 != sha256:
        raise DataError(f"{first.dataset.folder}: its tokens are not those that rank 0 trains on")
    begun = recorded_policy(first, compute) if world.rank == 0 else None
    engine = build_engine(
        [run.planned for run in runs],
        first.dataset,
        compute,
        world=world,
        begun=begun,
        max_micro_batch_seqs=max_micro_batch_seqs,
    )
    for replica, run in enumerate(runs):
        run.replica = replica
        if run.checkpoint is not None:
            engine.load_replica(replica, run.checkpoint.model, run.checkpoint.optimizer)
            # its tensors are in the engine now
            run.checkpoint = None
    engine.step = first.step
    for tensor in engine.state():
        world.broadcast(tensor)
    engine.waiting_for_data = lambda: clock.spending(TimeKind.data)
    return engine


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


def _record(
    runs: Sequence[PlannedRun | RunState],
    error: BaseException,
    cost: Callable[[RunState], RunCost] | None = None,
    *,
    state: str | None = None,
) -> BaseException:
    """Write down what ended runs that were being trained; return it in the user's terms."""
    known = error
    for run in runs:
        known = user_error(error, run.plan)
        cause = known.cause if isinstance(known, WindTunnelError) else "bug"
        record_end(
            run,
            # whether one window fits is not known yet when the micro-batch is halved
            known if state is None else error,
            cause,
            state=state or STATE_AFTER.get(cause, "failed"),
            cost=cost(run) if cost is not None and isinstance(run, RunState) else None,
        )
    return known
