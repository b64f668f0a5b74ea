"""The training loop: the runs of a stack, from the step they resume from to their last.

Every boundary, in this order: log, evaluate, checkpoint, stop. A checkpoint of step k therefore
implies that every row up to k is on disk. All ranks run the loop; rank 0 alone reads and writes run
folders. What ends one run of a stack leaves the others training.
"""

import math
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

from train.config.runtime import OnSaveError
from train.engine.engine import Engine, Segment
from train.engine.evaluate import Evaluation, evaluate
from train.errors import DivergedError, LockedError, StorageError
from train.run_folder.accounting import RunClock, TimeKind
from train.signals import StopRequest
from train.training.branches import diverge_with_trunk, fork
from train.training.completion import (
    complete,
    record_end,
    refuse_diverged_end,
    refuse_diverged_evaluation,
)
from train.training.progress import RunProgress
from train.training.recording import (
    cost_of,
    log_evaluation,
    log_metrics,
    save,
    write_running,
)
from train.training.run_state import Branch, RunState, active


def train_to_last_step(
    runs: list[RunState], engine: Engine, clock: RunClock, stop: StopRequest
) -> None:
    """Train the runs of a stack to their last step.

    A run that diverges is recorded and no longer active, its error on `RunState.error`; so is a run
    that another process took over, in whose folder nothing more is written.

    Raises:
        PreemptedError, InterruptedByUserError: A signal stopped it; everything is saved.
        StorageError: A checkpoint could not be written.
    """
    world, steps = engine.world, runs[0].plan.steps
    title = runs[0].run_id + (f" and {len(runs) - 1} more" if len(runs) > 1 else "")
    with RunProgress(
        title, total_steps=steps, start_step=engine.step, is_shown=world.rank == 0
    ) as progress:
        _on_rank_0(_begin, runs, engine, clock)
        if engine.step < steps and active(runs):
            if engine.policy.compiled:
                progress.prepare("compiling, or loading what was compiled before")
            # still start-up: no row's tokens per second include it
            with engine.collective():
                engine.warm_up()
            progress.begin()
        clock.start_segment(engine.step)
        while engine.step < steps and active(runs):
            n_steps = _next_boundary(runs, engine.step) - engine.step
            with engine.collective():
                segment = engine.advance(n_steps, should_stop=lambda: world.any_stop(stop))
            clock.end_segment()
            is_stop = world.any_stop(stop) and engine.step < steps
            _on_rank_0(_log, runs, engine, clock, segment, progress)
            _evaluate(runs, engine, clock)
            _on_rank_0(_checkpoint, runs, engine, clock, is_stop)
            if is_stop and active(runs):
                raise stop.error(f"after step {engine.step}")
            clock.start_segment(engine.step)
    with clock.spending(TimeKind.logging):
        _on_rank_0(_complete, runs, engine, clock)


def _on_rank_0(
    work: Callable[..., None],
    runs: list[RunState],
    engine: Engine,
    *rest: Any,  # noqa: ANN401
) -> None:
    """Do `work(runs, engine, *rest)` on rank 0; every rank learns which runs are still active."""

    def work_and_list() -> list[str]:
        work(runs, engine, *rest)
        return [run.run_id for run in active(runs)]

    names = engine.world.on_rank_0(work_and_list)
    for run in active(runs):
        if run.run_id not in names:
            run.error = DivergedError(f"{run.run_id} ended on rank 0")


def _for_each(
    runs: list[RunState],
    engine: Engine,
    clock: RunClock,
    action: Callable[[RunState], None],
) -> None:
    """Do `action` for those of `runs` that are active; one that it finds at its end leaves."""
    for run in active(runs):
        try:
            action(run)
        except (LockedError, DivergedError) as error:
            # without its frames, which would keep the engine's memory
            run.error = error.with_traceback(None)
            clock.divide_among(max(1, clock.replicas - 1))
            if isinstance(error, DivergedError):
                cost = cost_of(run, engine, clock)
                record_end(run, error, error.cause, state="diverged", cost=cost)


def _begin(runs: list[RunState], engine: Engine, clock: RunClock) -> None:
    """Mark the runs as running, and repeat forks that a kill cut short after the checkpoint."""
    _for_each(runs, engine, clock, lambda run: write_running(run, engine, clock))
    _for_each(runs, engine, clock, lambda run: _fork(run, engine, clock))


def _next_boundary(runs: list[RunState], step: int) -> int:
    """The next step after which something is due."""
    machine = runs[0].config.machine
    due = [runs[0].plan.steps, step + machine.log_every - step % machine.log_every]
    if machine.checkpoint_steps:
        due.append(step + machine.checkpoint_steps - step % machine.checkpoint_steps)
    return min(due + [run.next_due(step) for run in active(runs)])


def _log(
    runs: list[RunState], engine: Engine, clock: RunClock, segment: Segment, progress: RunProgress
) -> None:
    """Take the losses of the segment, and append a row of metrics where one is due."""
    machine, steps = runs[0].config.machine, runs[0].plan.steps
    _for_each(runs, engine, clock, lambda run: _observe(run, engine, clock, segment))
    _for_each(runs, engine, clock, lambda run: run.folder.refuse_other_holder())
    for run in active(runs):
        run.seconds += clock.segment_seconds
    if engine.step % machine.log_every == 0 or engine.step == steps:
        with clock.spending(TimeKind.logging):
            rows = [log_metrics(run, engine, clock) for run in active(runs)]
        if rows:
            progress.update(engine.step, rows[0])


def _observe(run: RunState, engine: Engine, clock: RunClock, segment: Segment) -> None:
    """Take a run's losses of the steps since the last boundary.

    Raises:
        DivergedError: One of them, or a gradient norm, is not finite.
    """
    first = engine.step - len(segment) + 1
    values = zip(segment.losses_SR, segment.grad_norms_SR, strict=True)
    for step, (losses_R, grad_norms_R) in enumerate(values, start=first):
        loss, grad_norm = losses_R[run.replica], grad_norms_R[run.replica]
        run.step = step
        if not math.isfinite(loss) or not math.isfinite(grad_norm):
            last = "none" if run.losses.last is None else f"{run.losses.last:.6g}"
            error = DivergedError(
                f"step {step}: loss {loss:g}, gradient norm {grad_norm:g} "
                f"(learning rate {run.plan.lr:.3g}, last finite loss {last})"
            )
            for branch in run.pending(step):
                _for_branch(branch, partial(diverge_with_trunk, run, branch, error, engine, clock))
            raise error
        run.window.append((loss, grad_norm))
        for watch in (run.losses, *(branch.losses for branch in run.pending(step))):
            watch.observe(step, loss)


def _evaluate(runs: list[RunState], engine: Engine, clock: RunClock) -> None:
    """Measure the validation loss where it is due for a run or a branch, once for all of them."""
    due = [run for run in active(runs) if run.evaluates_at(engine.step)]
    if not due:
        return
    with clock.spending(TimeKind.evaluation):
        with engine.collective():
            measured = evaluate(engine)
        _on_rank_0(_log_evaluations, due, engine, clock, measured)


def _log_evaluations(
    due: list[RunState], engine: Engine, clock: RunClock, measured: list[Evaluation]
) -> None:
    def log(run: RunState) -> None:
        log_evaluation(run, measured[run.replica])
        refuse_diverged_evaluation(run)

    _for_each(due, engine, clock, log)


def _checkpoint(runs: list[RunState], engine: Engine, clock: RunClock, is_stop: bool) -> None:
    """Save where it is due, let branches fork, and write the status."""
    machine, step, steps = runs[0].config.machine, engine.step, runs[0].plan.steps
    if step == steps:
        _for_each(runs, engine, clock, refuse_diverged_end)
    is_log = step % machine.log_every == 0 or step == steps
    is_due = step % (machine.checkpoint_steps or steps) == 0 or step == steps
    if is_due or is_stop or (is_log and clock.save_is_due(machine.checkpoint_minutes)):
        with clock.saving():
            _for_each(runs, engine, clock, lambda run: _save(run, engine, clock))
    with clock.spending(TimeKind.checkpoint):
        _for_each(runs, engine, clock, lambda run: _fork(run, engine, clock))
    if is_log or is_stop:
        with clock.spending(TimeKind.logging):
            _for_each(runs, engine, clock, lambda run: write_running(run, engine, clock))


def _fork(run: RunState, engine: Engine, clock: RunClock) -> None:
    """Give the branches that fork here their checkpoints; they are trained after this stack."""
    for branch in run.branches:
        if branch.fork_step == engine.step:
            write = partial(fork, run, branch, engine, clock)
            _for_branch(branch, partial(_or_warn, run, write))


def _for_branch(branch: Branch, write: Callable[[], None]) -> None:
    """Write to a branch's folder, unless another process took it over."""
    try:
        write()
    except LockedError as error:
        # without its frames, which would keep the engine's memory
        branch.error = error.with_traceback(None)


def _save(run: RunState, engine: Engine, clock: RunClock) -> None:
    _or_warn(run, lambda: save(run, engine, clock))


def _or_warn(run: RunState, write: Callable[[], None]) -> None:
    """Write a checkpoint; go on without it if that fails and machine.on_save_error says so."""
    try:
        write()
    except StorageError as error:
        if run.config.machine.on_save_error is OnSaveError.stop:
            raise StorageError(f"{error}; free some, and the same command continues") from None
        warnings.warn(f"{error}; training goes on without this checkpoint", stacklevel=2)


def _complete(runs: list[RunState], engine: Engine, clock: RunClock) -> None:
    _for_each(runs, engine, clock, lambda run: complete(run, engine, clock))
