"""Runs made ready to train: opened, stacked by the step they resume from, loaded into an engine."""

from collections.abc import Sequence
from typing import Any

from train.distributed import World, this_world
from train.engine.build import build_engine
from train.engine.device import select_device
from train.engine.engine import Engine
from train.errors import CheckpointError, DataError, LockedError, RecordsError, WindTunnelError
from train.plan.planning import PlannedRun
from train.run_folder.accounting import RunClock, TimeKind
from train.run_folder.run_folder import folder_of
from train.training.branches import find_branches
from train.training.completion import record_end, record_interruption
from train.training.divergence import LossWatch
from train.training.recording import describe
from train.training.resume import (
    align,
    find_checkpoint,
    new_run,
    open_data,
    recorded_policy,
    restore,
)
from train.training.run_state import Branch, RunState


def open_stacks(
    world: World,
    planned: Sequence[PlannedRun],
    shorter: Sequence[PlannedRun],
    errors: list[WindTunnelError],
) -> list[list[RunState]]:
    """Open runs and stack them by the step they resume from, the same on every rank."""
    stacks: list[list[RunState]] = []

    def open_on_rank_0() -> list[Any]:
        opened = [run for each in planned if (run := _open_run(each, errors)) is not None]
        stacks.extend(align(opened))
        for runs in stacks:
            find_branches(runs, shorter)
        return [
            [(run.run_id, run.step, [branch.run_id for branch in run.branches]) for run in runs]
            for runs in stacks
        ]

    described = world.on_rank_0(open_on_rank_0)
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


def open_run(planned: PlannedRun) -> RunState:
    """The run at its newest checkpoint, or at its start; its records are cut back to that step.

    Raises:
        ConfigError: The device is not there, the data has too few tokens, or versions changed and
            machine.strict_versions is set; nothing was written.
        DataError: The data is missing or damaged.
        CheckpointError: Its checkpoints are all damaged, or another run's.
        RecordsError: Rows that its checkpoint vouches for are gone or damaged.
    """
    run = new_run(planned)
    describe(run, select_device(planned.config.machine).name)
    restore(run, find_checkpoint(run))
    return run


def _open_run(planned: PlannedRun, errors: list[WindTunnelError]) -> RunState | None:
    """Open a run; None, with the error noted, when its own files are damaged."""
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
            raise record_interruption([planned], error) from None


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
    # measured now: a full memory or a lost device would hide the cause that a record gives
    world.on_rank_0(lambda: engine.peak.measured)
    engine.waiting_for_data = lambda: clock.spending(TimeKind.data)
    return engine
