"""A run opened: its data verified, its newest checkpoint found, its records cut to match.

Runs are stacked from the step that they go on from. A kill between two runs' checkpoints leaves one
of them a checkpoint ahead; it goes back to the last that all of them have.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path

from train.data.prepare import prepare
from train.data.shards import Dataset, open_dataset
from train.engine.device import select_device
from train.errors import CheckpointError, RecordsError
from train.plan.grouping import trunk_of
from train.plan.planning import PlannedRun
from train.plan.validate import check_enough_tokens
from train.run_folder.checkpoint import Checkpoint, committed_steps
from train.run_folder.run_folder import folder_of
from train.training.divergence import LossWatch
from train.training.recording import describe
from train.training.resume import find_checkpoint, restore_records
from train.training.run_state import Run


def open_run(planned: PlannedRun) -> Run:
    """The run where its newest checkpoint left it, or at its start.

    Raises:
        ConfigError: The device is not there, the data has too few tokens, or versions changed and
            machine.strict_versions is set.
        DataError: The data is missing or damaged.
        CheckpointError: Its checkpoints are all damaged, or another run's.
        RecordsError: Rows that its checkpoint vouches for are gone or damaged.
    """
    run = _new_run(planned)
    _go_back_to(run, find_checkpoint(run))
    return run


def _go_back_to(run: Run, checkpoint: Checkpoint | None) -> None:
    run.checkpoint = checkpoint
    if checkpoint is None:
        restore_records(run, 0, None)
    else:
        restore_records(run, checkpoint.step, checkpoint.state)


def _new_run(planned: PlannedRun) -> Run:
    """The run at its start, whatever its folder holds; described, nothing written."""
    config, plan = planned.config, planned.plan
    compute = select_device(config.machine)
    dataset = _open_data(planned)
    run = Run(
        config=config,
        plan=plan,
        folder=folder_of(planned),
        attempt=folder_of(planned).attempt_number() + 1,
        dataset=dataset,
        epochs=check_enough_tokens(
            plan,
            n_tokens=dataset.n_tokens("train"),
            seq_len=config.data.seq_len,
            allow_repeat=config.data.allow_repeat,
            name=config.data.name,
        ),
        losses=LossWatch(total_steps=plan.steps),
    )
    describe(run, compute.name)
    return run


def _open_data(planned: PlannedRun) -> Dataset:
    config = planned.config
    return open_dataset(prepare(config.data, Path(config.paths.data), progress=True))


def align(runs: Sequence[Run]) -> list[list[Run]]:
    """Group opened runs by the step that they go on from, after bringing them to a common one.

    Those whose checkpoints were computed in unlike ways are kept apart, as a stack has one way; so
    is one whose checkpoint of the common step is damaged, which goes on from where it is.

    Raises:
        RecordsError: As open_run.
    """
    if len({_step(run) for run in runs}) > 1:
        steps = [set(committed_steps(run.folder.checkpoints)) for run in runs]
        common = max(set.intersection(*steps), default=None)
        for run in runs:
            if common is not None and _step(run) != common:
                _try_to_go_back(run, common)
    groups: dict[tuple[int, str], list[Run]] = {}
    for run in runs:
        way = run.checkpoint.state.get("arithmetic") if run.checkpoint is not None else None
        groups.setdefault((_step(run), repr(way)), []).append(run)
    return list(groups.values())


def _try_to_go_back(run: Run, step: int) -> None:
    try:
        _go_back_to(run, find_checkpoint(run, at_most=step))
    except CheckpointError as error:  # which leaves the later ones as they were
        warnings.warn(
            f"{run.run_id} goes on from step {_step(run)}, apart from its stack: {error}",
            stacklevel=2,
        )


def _step(run: Run) -> int:
    return run.checkpoint.step if run.checkpoint is not None else 0


def find_riders(runs: Sequence[Run], later: Sequence[PlannedRun]) -> list[Run]:
    """Shorter runs that share the trunk of one of `runs` from where that one goes on.

    A run that has checkpoints of its own goes on from them; one that its trunk's checkpoint does
    not know has missed it, and is trained from its start.
    """
    riders: list[Run] = []
    if not runs[0].config.machine.trunks:
        return riders
    hosts = [PlannedRun(overrides=[], config=run.config, plan=run.plan) for run in runs]
    by_id = {run.run_id: run for run in runs}
    for planned in later:
        host = trunk_of(planned, hosts)
        if host is None or committed_steps(folder_of(planned).checkpoints):
            continue
        checkpoint = by_id[host.plan.run_id].checkpoint
        state = None
        if checkpoint is not None:
            state = checkpoint.state["riders"].get(planned.plan.run_id)
            if state is None:
                continue
        rider = _new_run(planned)
        try:
            restore_records(rider, checkpoint.step if checkpoint is not None else 0, state)
        except RecordsError:  # trained from its start instead
            continue
        rider.forked_from = host.plan.run_id  # which the trunk's checkpoint does not say
        rider.rides_to = planned.plan.schedule.fork_step or 0
        riders.append(rider)
    return riders
