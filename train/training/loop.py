"""The training loop: a stack of runs from where its checkpoints left it to its horizon.

Order at a step where something is due: log rows, evaluation rows, sync, checkpoint, status. A
checkpoint at step k therefore implies that every row up to k is on disk. Whatever ends one run of a
stack is that run's own end; the others go on.
"""

import math
import warnings
from collections.abc import Callable, Sequence

from train.config.runtime import OnSaveError
from train.engine.engine import Segment
from train.errors import DivergedError, LockedError, StorageError
from train.plan.schedule import evaluation_steps
from train.run_folder.accounting import TimeKind
from train.signals import StopRequest
from train.training.completion import (
    complete,
    record_end,
    refuse_diverged_end,
    refuse_diverged_evaluation,
)
from train.training.progress import RunProgress
from train.training.recording import (
    fork,
    log_evaluation,
    log_row,
    open_records,
    save,
    write_running,
)
from train.training.run_state import Run
from train.training.stack import Stack


def train_to_horizon(stack: Stack, stop: StopRequest) -> None:
    """Train the stack to its horizon.

    A run that diverges ends there, is recorded, and leaves stack.active; its error goes to
    stack.ended. So does a run that another process took over, in whose folder nothing is written.

    Raises:
        PreemptedError, InterruptedByUserError: A signal stopped it; everything is saved.
        StorageError: A checkpoint could not be written.
    """
    engine, clock = stack.engine, stack.clock
    title = stack.runs[0].run_id
    if len(stack.runs) > 1:
        title += f" and {len(stack.runs) - 1} more"
    with RunProgress(title, total_steps=stack.steps, start_step=engine.step) as progress:
        _for_each(stack, stack.runs, lambda run: write_running(run, stack))
        _fork(stack)  # where a kill came between the trunk's checkpoint and theirs
        if engine.step < stack.steps and stack.active:
            if engine.arithmetic.compiled:
                progress.prepare("compiling, or loading what was compiled before")
            stack.warm_up()  # still start-up: no row's tokens per second have it
            progress.begin()
        clock.resume(engine.step)
        while engine.step < stack.steps and stack.active:
            due = _next_boundary(stack)
            segment = stack.advance(due - engine.step, stop)
            is_stop = bool(stop) and engine.step < stack.steps  # once: it may come at any line
            _observe(stack, segment)
            _at_boundary(stack, progress, is_stop=is_stop)
            if is_stop and stack.active:
                raise stop.error(f"after step {engine.step}")
            clock.resume(engine.step)
    with clock.spending(TimeKind.logging):
        _for_each(stack, stack.runs, lambda run: complete(run, stack))


def _for_each(stack: Stack, runs: Sequence[Run], action: Callable[[Run], None]) -> None:
    """Do `action` for those of `runs` that are under way; one that it finds at its end leaves."""
    for run in [run for run in runs if run in stack.active]:
        try:
            action(run)
        except LockedError as error:
            stack.leave(run, error)
        except DivergedError as error:
            stack.leave(run, error)
            if run in stack.riders:  # it ends as if it had been trained alone: with a start
                run.fork_step = run.step
                open_records(run, stack)
            record_end(run, error, error.cause, state="diverged", cost=stack.cost(run))


def _next_boundary(stack: Stack) -> int:
    """The next step after which something is due."""
    step, machine = stack.engine.step, stack.runs[0].config.machine
    steps = [stack.steps, step + machine.log_every - step % machine.log_every]
    if machine.checkpoint_steps:
        steps.append(step + machine.checkpoint_steps - step % machine.checkpoint_steps)
    for run in stack.active:
        steps += [due for due in _evaluations(run) if due > step]
    steps += [rider.rides_to for rider in stack.riders if rider in stack.active]
    return min(steps)


def _evaluations(run: Run) -> tuple[int, ...]:
    return evaluation_steps(run.plan.steps, run.config.eval.points)


def _observe(stack: Stack, segment: Segment) -> None:
    """Take the losses of the steps since the last boundary; a non-finite one ends its run."""
    first = stack.engine.step - len(segment) + 1

    def observe(run: Run) -> None:
        values = zip(segment.losses_SR, segment.grad_norms_SR, strict=True)
        for step, (losses_R, grad_norms_R) in enumerate(values, start=first):
            loss, grad_norm = losses_R[run.replica], grad_norms_R[run.replica]
            run.step = step
            if not math.isfinite(loss) or not math.isfinite(grad_norm):
                last = "none" if run.losses.last is None else f"{run.losses.last:.6g}"
                raise DivergedError(
                    f"step {step}: loss {loss:g}, gradient norm {grad_norm:g} "
                    f"(learning rate {run.plan.lr:.3g}, last finite loss {last})"
                )
            run.window.append((loss, grad_norm))
            run.losses.observe(step, loss)

    _for_each(stack, stack.active, observe)


def _at_boundary(stack: Stack, progress: RunProgress, *, is_stop: bool) -> None:
    """Do what is due at this step, for each run that is under way."""
    clock, machine, step = stack.clock, stack.runs[0].config.machine, stack.engine.step
    seconds = clock.training_seconds()
    _for_each(stack, stack.active, lambda run: run.folder.refuse_other_holder())
    for run in stack.active:
        run.seconds += seconds
    ending = [run for run in stack.active if run.plan.steps == step]  # riders without a cooldown
    due = stack.active if step % machine.log_every == 0 else ending
    is_log = bool(due)
    if is_log:
        with clock.spending(TimeKind.logging):
            _log(stack, due, progress)
    _evaluate(stack)
    _for_each(stack, ending, refuse_diverged_end)
    is_save = step % (machine.checkpoint_steps or stack.steps) == 0 or step == stack.steps
    if is_save or is_stop or (is_log and clock.save_is_due(machine.checkpoint_minutes)):
        with clock.saving():
            _for_each(stack, stack.runs, lambda run: _keep(run, stack, save))
    _fork(stack)
    if is_log or is_stop:
        with clock.spending(TimeKind.logging):
            _for_each(stack, stack.runs, lambda run: write_running(run, stack))


def _fork(stack: Stack) -> None:
    """Let the riders go whose cooldown begins here, each with a checkpoint of its own."""
    leaving = [rider for rider in stack.riders if rider.rides_to == stack.engine.step]
    with stack.clock.spending(TimeKind.checkpoint):
        _for_each(stack, leaving, lambda rider: _keep(rider, stack, fork))
    stack.active = [run for run in stack.active if run not in leaving]


def _log(stack: Stack, due: Sequence[Run], progress: RunProgress) -> None:
    """Append a row of metrics to those of the runs that are due."""
    step, rate = stack.engine.step, stack.clock.rate(stack.engine.step, stack.batch_tokens)
    for number, run in enumerate(due):
        row = log_row(run, stack, tokens_per_second=rate)
        if number == 0:
            progress.update(step, row)


def _evaluate(stack: Stack) -> None:
    """Measure the validation loss where a run's evaluations are due, once for all of them."""
    due = [run for run in stack.active if stack.engine.step in _evaluations(run)]
    if not due:
        return
    with stack.clock.spending(TimeKind.evaluation):
        measured = stack.evaluate()
        for run in due:
            log_evaluation(run, measured[run.replica])
        _for_each(stack, due, refuse_diverged_evaluation)


def _keep(run: Run, stack: Stack, commit: Callable[[Run, Stack], None]) -> None:
    """Commit a checkpoint, and go on without it if that fails and the config says so."""
    try:
        commit(run, stack)
    except StorageError as error:
        if run.config.machine.on_save_error is OnSaveError.stop:
            raise StorageError(f"{error}; free some, and the same command continues") from None
        warnings.warn(f"{error}; training goes on without this checkpoint", stacklevel=2)
