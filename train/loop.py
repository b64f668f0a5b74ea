"""The training loop of one run, from its folder's lock to its result.

Order inside a step: update, log row, evaluation row, sync, checkpoint, status. A checkpoint at step
k therefore implies that every row up to k is on disk.
"""

import contextlib
import math
import warnings
from pathlib import Path

import torch
from torch import Tensor

from train.attempt import STATE_AFTER, close_attempt, known_error
from train.clock import RunClock
from train.config import Config, OnSaveError
from train.device import is_out_of_memory, release_memory
from train.errors import (
    CheckpointError,
    DivergedError,
    LockedError,
    RecordsError,
    StorageError,
    WindTunnelError,
)
from train.planning import RunPlan
from train.progress import RunProgress
from train.recording import (
    complete,
    describe,
    log_evaluation,
    log_row,
    open_records,
    refuse_diverged_end,
    refuse_diverged_evaluation,
    save,
    write_running,
)
from train.records import FINISHED_STATES
from train.resume import find_checkpoint, restore
from train.run import Run, build_run
from train.rundir import RunFolder
from train.schedule import evaluation_steps
from train.signals import StopRequest, stop_requests
from train.step import half_micro_batch, train_step


def train_run(config: Config, plan: RunPlan) -> None:
    """Train one run to its horizon, or go on where it stopped; a finished run is left alone.

    Raises:
        ConfigError: The device is not there, the data has too few tokens, or versions changed and
            machine.strict_versions is set.
        DataError: The data is missing or damaged.
        LockedError: Another process trains this run.
        CheckpointError: Its checkpoints are all damaged, or another run's.
        RecordsError: Rows that its checkpoint vouches for are gone or damaged.
        StorageError: The disk is full, read-only or gone.
        DeviceMemoryError: One window at a time does not fit the device.
        InfrastructureError: The device failed; the same command continues.
        PreemptedError, InterruptedByUserError: A signal stopped it; everything is saved.
        DivergedError: The loss stopped being finite, or ended above its start; recorded as such.
    """
    folder = RunFolder(Path(config.paths.runs) / config.study.name / plan.run_id)
    with stop_requests() as stop, folder.locked():
        if config.restart and folder.state() == "diverged":
            folder.archive()
        if folder.state() in FINISHED_STATES:
            return
        if folder.result.exists():  # killed between the result and the status
            folder.write_status("completed", step=plan.steps, total_steps=plan.steps)
            return
        micro_batch_seqs = None
        while True:
            try:
                micro_batch_seqs = _attempt(config, plan, folder, stop, micro_batch_seqs)
            except (CheckpointError, RecordsError):
                if not config.restart or not folder.checkpoints.exists():
                    raise
                folder.archive()
                continue
            if micro_batch_seqs is None:
                return
            release_memory()


def _attempt(
    config: Config,
    plan: RunPlan,
    folder: RunFolder,
    stop: StopRequest,
    micro_batch_seqs: int | None,
) -> int | None:
    """Train from the newest checkpoint on; None at the end, or a micro-batch to try again with.

    A micro-batch that does not fit is halved and the run restarts from its checkpoint, with the
    same batch: what the failed step left behind is not used.
    """
    attempt = folder.attempt_number() + 1
    run = None
    try:
        run = build_run(config, plan, folder, attempt, most_micro_batch_seqs=micro_batch_seqs)
        is_free = micro_batch_seqs is None and config.machine.micro_batch_seqs is None
        facts, changed = describe(run)
        restore(run, find_checkpoint(run), may_choose_micro_batch=is_free)
        open_records(run, facts, changed)
        train_to_horizon(run, stop)
        return None
    except LockedError:  # another process owns the folder: nothing more is written there
        raise
    except BaseException as error:
        if run is not None and is_out_of_memory(error):
            half = half_micro_batch(run.micro_batch_seqs, batch_seqs=run.batches.batch_seqs)
            if half is not None:
                _record_end(run, folder, plan, attempt, error, "out_of_memory", state="preempted")
                warnings.warn(
                    f"{plan.run_id}: {run.micro_batch_seqs} windows at a time do not fit the "
                    f"memory; going on from the last checkpoint with {half}, the batch unchanged",
                    stacklevel=2,
                )
                return half
        known = known_error(error, plan)
        cause = known.cause if isinstance(known, WindTunnelError) else "bug"
        state = STATE_AFTER.get(cause, "failed")
        _record_end(run, folder, plan, attempt, known, cause, state=state)
        if known is error:
            raise
        raise known from None


def _record_end(
    run: Run | None,
    folder: RunFolder,
    plan: RunPlan,
    attempt: int,
    error: BaseException,
    cause: str,
    *,
    state: str,
) -> None:
    """Write down how an attempt ended short of its horizon; a full disk must not hide the cause."""
    known = folder.read_status()
    with contextlib.suppress(OSError, ValueError, StorageError):
        folder.write_status(
            state,
            reason=str(error) or type(error).__name__,
            step=known.get("step", 0),
            total_steps=plan.steps,
            seconds=known.get("seconds", 0.0),
            exit_code=error.exit_code if isinstance(error, WindTunnelError) else 1,
        )
        if run is not None:
            close_attempt(run, state, cause=cause)
        else:
            folder.log_attempt("end", attempt=attempt, state=state, cause=cause)


def train_to_horizon(run: Run, stop: StopRequest) -> None:
    """The loop."""
    plan, machine = run.plan, run.config.machine
    eval_steps = frozenset(evaluation_steps(plan.steps, run.config.eval.points))
    queued: list[tuple[Tensor, Tensor]] = []
    clock = RunClock(run.step)
    with RunProgress(plan.run_id, total_steps=plan.steps, start_step=run.step) as progress:
        write_running(run)
        while run.step < plan.steps:
            lr = plan.lr * plan.schedule.multiplier(run.step)
            queued.append(_update(run, lr))
            run.step += 1
            is_last = run.step == plan.steps
            is_log = is_last or run.step % machine.log_every == 0
            is_eval = run.step in eval_steps
            is_save = is_last or run.step % (machine.checkpoint_steps or plan.steps) == 0
            is_stop = bool(stop) and not is_last  # read once: a signal may come at any line
            is_boundary = is_log or is_eval or is_save or is_stop
            if is_boundary or not run.compute.is_cuda:  # on CUDA, looking stalls the queue
                _collect(run, queued)
            if not is_boundary:
                continue
            run.folder.refuse_other_holder()
            run.seconds += clock.training_seconds()
            if is_log:
                row = log_row(run, lr=lr, tokens_per_second=clock.rate(run.step, plan.batch_tokens))
                progress.update(run.step, row)
            if is_eval:
                log_evaluation(run)
                refuse_diverged_evaluation(run)
            if is_last:
                refuse_diverged_end(run)
            is_due = is_log and clock.save_is_due(machine.checkpoint_minutes)
            if is_save or is_stop or is_due:
                with clock.saving():
                    _save(run)
            if is_log or is_stop:
                write_running(run)
            if is_stop:
                raise stop.error(f"after step {run.step}")
            clock.resume(run.step)
    complete(run)


def _update(run: Run, lr: float) -> tuple[Tensor, Tensor]:
    """Take the run's next step; its loss and gradient norm stay on the device."""
    return train_step(
        run.forward,
        run.optimizer,
        run.batches.train(run.step),
        run.compute,
        lr=lr,
        micro_batch_seqs=run.micro_batch_seqs,
        grad_clip=run.config.optimizer.grad_clip,
    )


def _save(run: Run) -> None:
    """Save, and go on without it if that fails and the config says so."""
    try:
        save(run)
    except StorageError as error:
        if run.config.machine.on_save_error is OnSaveError.stop:
            raise StorageError(f"{error}; free some, and the same command continues") from None
        warnings.warn(f"{error}; training goes on without this checkpoint", stacklevel=2)


def _collect(run: Run, queued: list[tuple[Tensor, Tensor]]) -> None:
    """Read the queued losses; a non-finite one ends the run as diverged."""
    values = torch.stack([torch.stack(pair) for pair in queued]).double().tolist()
    first = run.step - len(queued) + 1
    queued.clear()
    for step, (loss, grad_norm) in enumerate(values, start=first):
        if not math.isfinite(loss) or not math.isfinite(grad_norm):
            last = "none" if run.losses.last is None else f"{run.losses.last:.6g}"
            raise DivergedError(
                f"step {step}: loss {loss:g}, gradient norm {grad_norm:g} "
                f"(learning rate {run.plan.lr:.3g}, last finite loss {last})"
            )
        run.window.append((loss, grad_norm))
        run.losses.observe(step, loss)
