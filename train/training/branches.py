"""Branches: shorter runs that share the first steps of a trunk and then train their own cooldown.

While the trunk is trained it keeps what a branch's records need (run_state.Branch). At the fork
step the branch gets the trunk's rows and a first checkpoint in its own folder, and from there on it
is a run like any other.
"""

import math
from collections.abc import Iterable, Sequence

from train.data.sampler import epochs
from train.engine.engine import Engine
from train.errors import DivergedError, RecordsError, as_storage_error
from train.plan.grouping import trunk_of
from train.plan.planning import PlannedRun
from train.run_folder.accounting import RunClock
from train.run_folder.checkpoint import Checkpoint, committed_steps
from train.run_folder.replay_check import set_aside
from train.run_folder.run_folder import folder_of
from train.storage.records import append_jsonl, read_jsonl
from train.training.completion import record_end, refuse_diverged_end
from train.training.divergence import LossWatch
from train.training.recording import (
    commit,
    cost_of,
    describe,
    log_metrics,
    open_records,
    progress_columns,
    write_status,
)
from train.training.run_state import Branch, RunState, evaluation_steps_of


def find_branches(runs: Sequence[RunState], shorter: Iterable[PlannedRun]) -> None:
    """Attach to each run those of the shorter ones that will fork from it.

    A run with checkpoints of its own resumes from them. One that its trunk's checkpoint does not
    know was added too late, and is trained from its start.
    """
    if not runs[0].config.machine.trunks:
        return
    by_id = {run.run_id: run for run in runs}
    for planned in shorter:
        longest = trunk_of(planned, [run.planned for run in runs])
        if longest is None or committed_steps(folder_of(planned).checkpoints):
            continue
        trunk, branch = by_id[longest.plan.run_id], Branch.new(planned)
        if trunk.checkpoint is None or _restore(branch, trunk.checkpoint):
            trunk.branches.append(branch)


def _restore(branch: Branch, checkpoint: Checkpoint) -> bool:
    """Whether the trunk's checkpoint knows the branch, which then is where it was."""
    state = checkpoint.state.get("branches", {}).get(branch.run_id)
    if state is None:
        # version 0.4 wrote the rows of a branch to its own folder while its trunk was trained
        state = checkpoint.state.get("riders", {}).get(branch.run_id)
        if state is None:
            return False
        rows = read_jsonl(folder_of(branch.planned).evals)
        state = {**state, "evals": [row for row in rows if row["step"] <= checkpoint.step]}
    total_steps = branch.planned.plan.steps
    branch.losses = LossWatch.from_state(state["losses"], total_steps=total_steps)
    branch.evals = list(state["evals"])
    return True


def fork(trunk: RunState, branch: Branch, engine: Engine, clock: RunClock) -> None:
    """Write a branch's rows and its first checkpoint, from which it resumes.

    The cost of the shared steps is charged to the trunk. A branch with a validation loss that was
    not finite gets none: trained from its start, it diverges there as it does alone.

    Raises:
        LockedError: Another process took the branch over.
        StorageError: The disk is full or refuses, or rows of the trunk are damaged.
    """
    due = [step for step in evaluation_steps_of(branch.planned) if step <= trunk.step]
    if [row["step"] for row in branch.evals] != due:
        return
    run = _copy_rows(trunk, branch)
    if run.step == run.plan.steps:
        # a branch without a cooldown ends where it forks
        if run.window:
            log_metrics(run, engine, clock)
        try:
            refuse_diverged_end(run)
        except DivergedError as error:
            _record_diverged(run, error, engine, clock)
            return
    try:
        commit(run, engine, spent=run.spent)
    except DivergedError as error:
        _record_diverged(run, error, engine, clock)
        return
    write_status(
        run,
        "preempted",
        reason=f"its first {run.step} steps are those of {trunk.run_id}; its cooldown waits",
        cost=cost_of(run, engine, clock, is_waiting=True),
    )


def diverge_with_trunk(
    trunk: RunState, branch: Branch, error: DivergedError, engine: Engine, clock: RunClock
) -> None:
    """Record that a branch diverged at a step that it shares with its trunk, as it would alone.

    One with an earlier validation loss that was not finite is left to be trained from its start.
    """
    due = [step for step in evaluation_steps_of(branch.planned) if step < trunk.step]
    if [row["step"] for row in branch.evals] != due:
        return
    _record_diverged(_copy_rows(trunk, branch), error, engine, clock)


def _record_diverged(run: RunState, error: DivergedError, engine: Engine, clock: RunClock) -> None:
    describe(run, engine.compute.name)
    open_records(run, engine, stacked_with=())
    cost = cost_of(run, engine, clock, is_waiting=True)
    record_end(run, error, error.cause, state="diverged", cost=cost)


def _copy_rows(trunk: RunState, branch: Branch) -> RunState:
    """Copy the trunk's rows to a branch's folder; return the branch's state at this step.

    Raises:
        LockedError: Another process took the branch over.
        StorageError: The disk is full or refuses, or rows of the trunk are damaged.
    """
    planned, last = branch.planned, branch.evals[-1] if branch.evals else {}
    folder_of(planned).refuse_other_holder()
    run = RunState(
        planned=planned,
        dataset=trunk.dataset,
        attempt=folder_of(planned).attempt_number() + 1,
        epochs=epochs(
            planned.plan.tokens, trunk.dataset.n_tokens("train"), planned.config.data.seq_len
        ),
        losses=branch.losses,
        replica=trunk.replica,
        step=trunk.step,
        seconds=trunk.seconds,
        window=list(trunk.window),
        loss_train=trunk.loss_train,
        val_loss=last.get("loss", math.nan),
        bits_per_byte=last.get("bits_per_byte", math.nan),
        forked_from=trunk.run_id,
        fork_step=trunk.step,
    )
    try:
        rows = read_jsonl(trunk.folder.metrics) if trunk.folder.metrics.exists() else []
        for row in rows:
            row.update(progress_columns(run.plan, row["step"]))
        # rows of a fork that was killed, or of a start alone that came to no checkpoint
        set_aside(run.folder, {})
        for path, copied in ((run.folder.metrics, rows), (run.folder.evals, branch.evals)):
            if copied:
                append_jsonl(path, copied)
    except ValueError as error:
        raise RecordsError(str(error)) from None
    except OSError as error:
        raise as_storage_error(error) or error from None
    return run
