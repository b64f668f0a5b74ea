"""The training loop of one run, from its folder's lock to its result.

Order inside a step: update, log row, evaluation row, sync, checkpoint, status. A checkpoint at step
k therefore implies that every row up to k is on disk.
"""

import contextlib
import math
import time
from pathlib import Path

import torch
from torch import Tensor

from train.config import Config
from train.errors import DivergedError, as_storage_error
from train.planning import RunPlan
from train.progress import RunProgress
from train.recording import complete, log_evaluation, log_row, save, write_running
from train.records import FINISHED_STATES
from train.run import Run, start_run
from train.rundir import RunFolder
from train.schedule import evaluation_steps
from train.signals import StopRequest, stop_requests
from train.step import train_step


def train_run(config: Config, plan: RunPlan) -> None:
    """Train one run to its horizon, or go on where it stopped; a finished run is left alone.

    Raises:
        ConfigError: The device is not there, or the data has too few tokens.
        DataError: The data is missing or damaged.
        LockedError: Another process trains this run.
        CheckpointError: Its checkpoints are all damaged.
        PreemptedError, InterruptedByUserError: A signal stopped it; everything is saved.
        DivergedError: The loss stopped being finite; recorded as the run's result.
    """
    folder = RunFolder(Path(config.paths.runs) / config.study.name / plan.run_id)
    with folder.locked(), stop_requests() as stop:
        if folder.state() in FINISHED_STATES:
            return
        if folder.result.exists():  # killed between the result and the status
            folder.write_status("completed", step=plan.steps, total_steps=plan.steps)
            return
        attempt = folder.attempt_number() + 1
        try:
            run = start_run(config, plan, folder, attempt)
            _train(run, stop)
        except BaseException as error:
            _record_end(folder, plan, attempt, error)
            raise


def _record_end(folder: RunFolder, plan: RunPlan, attempt: int, error: BaseException) -> None:
    """Write down how an attempt ended short of its horizon; a full disk must not hide the cause."""
    storage = as_storage_error(error) if isinstance(error, OSError) else None
    exit_code = getattr(storage or error, "exit_code", 1)
    state = {5: "diverged", 75: "preempted", 130: "preempted"}.get(exit_code, "failed")
    known = folder.read_status()
    with contextlib.suppress(OSError):
        folder.write_status(
            state,
            reason=str(storage or error) or type(error).__name__,
            step=known.get("step", 0),
            total_steps=plan.steps,
            seconds=known.get("seconds", 0.0),
            exit_code=exit_code,
        )
        folder.log_attempt("end", attempt=attempt, state=state, cause=type(error).__name__)


def _train(run: Run, stop: StopRequest) -> None:
    """The loop."""
    plan, machine = run.plan, run.config.machine
    eval_steps = frozenset(evaluation_steps(plan.steps, run.config.eval.points))
    queued: list[tuple[Tensor, Tensor]] = []
    clock = _Clock(run.step)
    with RunProgress(plan.run_id, total_steps=plan.steps, start_step=run.step) as progress:
        write_running(run)
        while run.step < plan.steps:
            lr = plan.lr * plan.schedule.multiplier(run.step)
            losses = train_step(
                run.forward,
                run.optimizer,
                run.batches.train(run.step),
                run.compute,
                lr=lr,
                micro_batch_seqs=run.micro_batch_seqs,
                grad_clip=run.config.optimizer.grad_clip,
            )
            queued.append(losses)
            run.step += 1
            is_last = run.step == plan.steps
            is_log = is_last or run.step % machine.log_every == 0
            is_eval = run.step in eval_steps
            is_stop = bool(stop) and not is_last  # read once: a signal may come at any line
            is_boundary = is_log or is_eval or is_stop
            if is_boundary or not run.compute.is_cuda:  # on CUDA, looking stalls the queue
                _collect(run, queued)
            if not is_boundary:
                continue
            run.seconds += clock.training_seconds()
            if is_log:
                row = log_row(run, lr=lr, tokens_per_second=clock.rate(run.step, plan.batch_tokens))
                progress.update(run.step, row)
            if is_eval:
                log_evaluation(run)
            is_due = is_log and clock.since_save() > 60 * machine.checkpoint_minutes
            if is_stop or (is_due and not is_last):
                save(run)
                clock.saved()
            if is_log or is_stop:
                write_running(run)
            if is_stop:
                run.tracker.finish("preempted", {})
                raise stop.error(f"after step {run.step}")
            clock.resume(run.step)
    complete(run)


class _Clock:
    """Seconds of training proper, between boundaries, and since the last checkpoint."""

    def __init__(self, step: int) -> None:
        self._saved_at = time.monotonic()
        self.resume(step)

    def resume(self, step: int) -> None:
        self._from_step, self._from = step, time.perf_counter()

    def training_seconds(self) -> float:
        self._seconds = time.perf_counter() - self._from
        return self._seconds

    def rate(self, step: int, batch_tokens: int) -> float:
        """Tokens per second of the segment that training_seconds closed."""
        return (step - self._from_step) * batch_tokens / max(1e-9, self._seconds)

    def since_save(self) -> float:
        return time.monotonic() - self._saved_at

    def saved(self) -> None:
        self._saved_at = time.monotonic()


def _collect(run: Run, queued: list[tuple[Tensor, Tensor]]) -> None:
    """Read the queued losses; a non-finite one ends the run as diverged."""
    values = torch.stack([torch.stack(pair) for pair in queued]).double().tolist()
    first = run.step - len(queued) + 1
    queued.clear()
    for offset, (loss, grad_norm) in enumerate(values):
        if not math.isfinite(loss) or not math.isfinite(grad_norm):
            run.tracker.finish("diverged", {"diverged_step": first + offset})
            raise DivergedError(
                f"step {first + offset}: loss {loss:g}, gradient norm {grad_norm:g} "
                f"(learning rate {run.plan.lr:.3g})"
            )
        run.window.append((loss, grad_norm))
