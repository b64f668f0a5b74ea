"""The training loop of one run, from its folder's lock to its result.

Order inside a step: update, log row, evaluation row, sync, checkpoint, status. A checkpoint at step
k therefore implies that every row up to k is on disk.
"""

import hashlib
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor

from train.batches import Batches
from train.checkpoint import load_newest, save_checkpoint
from train.config import Config
from train.data.prepare import prepare
from train.data.shards import Dataset, open_dataset
from train.device import ComputeDevice, measure_peak_flops, select_device
from train.errors import DivergedError, WindTunnelError
from train.evaluate import evaluate
from train.identity import science
from train.model import Transformer
from train.optimizer import build_optimizer
from train.planning import RunPlan
from train.progress import RunProgress
from train.provenance import run_facts, runs_table_row
from train.records import FINISHED_STATES, append_jsonl, write_json
from train.rundir import RunFolder
from train.schedule import evaluation_steps
from train.signals import StopRequest, stop_requests
from train.step import choose_micro_batch, train_step
from train.tracker import Tracker, build_tracker
from train.validate import check_enough_tokens


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
        attempt = folder.attempt_number() + 1
        try:
            run = _start(config, plan, folder, attempt)
            _train(run, stop)
        except BaseException as error:
            state = "preempted" if getattr(error, "exit_code", 1) in (75, 130) else "failed"
            if isinstance(error, DivergedError):
                state = "diverged"
            known = folder.read_status()
            folder.write_status(
                state,
                reason=str(error) or type(error).__name__,
                step=known.get("step", 0),
                total_steps=plan.steps,
                exit_code=getattr(error, "exit_code", 1),
            )
            folder.log_attempt("end", attempt=attempt, state=state, cause=type(error).__name__)
            raise


@dataclass(kw_only=True)
class _Run:
    """What the loop holds between steps."""

    config: Config
    plan: RunPlan
    folder: RunFolder
    attempt: int
    compute: ComputeDevice
    dataset: Dataset
    model: Transformer
    forward: Any
    """The model, compiled if asked for."""
    optimizer: torch.optim.Optimizer
    batches: Batches
    validation: list[tuple[Tensor, Tensor]]
    micro_batch_seqs: int
    tracker: Tracker
    peak_flops: float
    step: int = 0
    """Updates applied."""
    seconds: float = 0.0
    """Training time of all attempts, without evaluation and checkpoints."""
    window: list[tuple[float, float]] = field(default_factory=list)
    """(loss, gradient norm) of the steps since the last row."""
    loss_train: float = math.nan
    """Mean training loss of the last row."""
    val_loss: float = math.nan
    bits_per_byte: float = math.nan


def _start(config: Config, plan: RunPlan, folder: RunFolder, attempt: int) -> _Run:
    """Build everything, restore the newest checkpoint, and write down what is about to run."""
    compute = select_device(config.machine)
    dataset = open_dataset(prepare(config.data, Path(config.paths.data), progress=True))
    seq_len = config.data.seq_len
    check_enough_tokens(
        plan,
        n_tokens=dataset.n_tokens("train"),
        seq_len=seq_len,
        allow_repeat=config.data.allow_repeat,
        name=config.data.name,
    )
    batch_seqs = plan.batch_tokens // seq_len
    model = Transformer(plan.shape, rotary_base=config.model.rotary_base)
    model.initialize(config.seed)
    model.to(compute.device)
    optimizer = build_optimizer(model, config.optimizer, peak_lr=plan.lr)
    micro_batch_seqs = choose_micro_batch(
        plan.shape, compute, batch_seqs=batch_seqs, asked=config.machine.micro_batch_seqs
    )
    batches = Batches(dataset, compute, seed=config.seed, batch_seqs=batch_seqs, seq_len=seq_len)
    run = _Run(
        config=config,
        plan=plan,
        folder=folder,
        attempt=attempt,
        compute=compute,
        dataset=dataset,
        model=model,
        forward=torch.compile(model) if config.machine.compile else model,
        optimizer=optimizer,
        batches=batches,
        validation=batches.validation(config.eval.tokens, max_seqs=max(32, micro_batch_seqs)),
        micro_batch_seqs=micro_batch_seqs,
        tracker=build_tracker(
            config.tracker,
            study=config.study.name,
            run_id=plan.run_id,
            attempt=attempt,
            science=science(config),
            folder=folder.path,
        ),
        peak_flops=measure_peak_flops(compute),
    )
    _restore(run)
    folder.config.write_text(OmegaConf.to_yaml(OmegaConf.structured(config)), encoding="utf-8")
    write_json(folder.run, run_facts(config, plan, dataset, compute.name))
    folder.log_attempt(
        "start",
        attempt=attempt,
        start_step=run.step,
        device=compute.name,
        micro_batch_seqs=micro_batch_seqs,
        wandb_id=run.tracker.attempt_id,
    )
    _write_running(run)
    return run


def _train(run: _Run, stop: StopRequest) -> None:
    """The loop."""
    plan, machine = run.plan, run.config.machine
    eval_steps = frozenset(evaluation_steps(plan.steps, run.config.eval.points))
    saved_at = time.monotonic()
    with RunProgress(plan.run_id, total_steps=plan.steps, start_step=run.step) as progress:
        segment_start, segment_step = time.perf_counter(), run.step
        queued: list[tuple[Tensor, Tensor]] = []
        while run.step < plan.steps:
            lr = plan.lr * plan.schedule.multiplier(run.step)
            queued.append(
                train_step(
                    run.forward,
                    run.optimizer,
                    run.batches.train(run.step),
                    run.compute,
                    lr=lr,
                    micro_batch_seqs=run.micro_batch_seqs,
                    grad_clip=run.config.optimizer.grad_clip,
                )
            )
            run.step += 1
            is_last = run.step == plan.steps
            is_log = is_last or run.step % machine.log_every == 0
            is_eval = run.step in eval_steps
            is_due = is_log and time.monotonic() - saved_at > 60 * machine.checkpoint_minutes
            if not (is_log or is_eval or stop) and run.compute.is_cuda:
                continue  # nothing to look at: let the queue run ahead
            _collect(run, queued)
            if is_log or is_eval or stop:
                run.seconds += time.perf_counter() - segment_start
                rate = (run.step - segment_step) * plan.batch_tokens
                rate /= max(1e-9, time.perf_counter() - segment_start)
                if is_log:
                    row = _log_row(run, lr=lr, tokens_per_second=rate)
                    progress.update(
                        run.step, loss=row["loss"], tokens_per_second=rate, mfu=row["mfu"]
                    )
                if is_eval:
                    _evaluate(run)
                if (stop or is_due) and not is_last:
                    _save(run)
                    saved_at = time.monotonic()
                if is_log:
                    _write_running(run)
                if stop and not is_last:
                    run.tracker.finish("preempted", {})
                    raise stop.error(f"after step {run.step}")
                segment_start, segment_step = time.perf_counter(), run.step
    _complete(run)


def _collect(run: _Run, queued: list[tuple[Tensor, Tensor]]) -> None:
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


def _log_row(run: _Run, *, lr: float, tokens_per_second: float) -> dict[str, Any]:
    """Append a row of metrics: means over the steps since the last row."""
    losses, grad_norms = zip(*run.window, strict=True)
    run.loss_train = math.fsum(losses) / len(losses)
    flops_per_second = tokens_per_second * run.plan.token_flops.train
    row = {
        **_progress(run),
        "loss": run.loss_train,
        "lr": lr,
        "grad_norm": math.fsum(grad_norms) / len(grad_norms),
        "tokens_per_second": round(tokens_per_second, 1),
        "mfu": round(flops_per_second / run.peak_flops, 5),
        "seconds": round(run.seconds, 3),
    }
    run.window.clear()
    append_jsonl(run.folder.metrics, [row])
    run.tracker.log_metrics(row)
    return row


def _evaluate(run: _Run) -> None:
    """Append a row of evaluations."""
    measured = evaluate(
        run.forward,
        run.validation,
        run.compute,
        bytes_per_token=run.dataset.bytes_per_token("validation"),
    )
    run.val_loss, run.bits_per_byte = measured.loss, measured.bits_per_byte
    row = {
        **_progress(run),
        "split": "validation",
        "loss": measured.loss,
        "bits_per_byte": measured.bits_per_byte,
        "n_tokens": measured.n_tokens,
        "data_sha256": run.dataset.sha256,
    }
    append_jsonl(run.folder.evals, [row], sync=True)
    run.tracker.log_eval(row)


def _progress(run: _Run) -> dict[str, int]:
    tokens = run.step * run.plan.batch_tokens
    return {"step": run.step, "tokens": tokens, "flops": tokens * run.plan.flops_per_token}


def _write_running(run: _Run) -> None:
    run.folder.write_status(
        "running", step=run.step, total_steps=run.plan.steps, seconds=round(run.seconds, 3)
    )


def _save(run: _Run) -> None:
    """Commit a checkpoint; the rows before it are on disk first."""
    append_jsonl(run.folder.metrics, [], sync=True)
    save_checkpoint(
        run.folder.checkpoints,
        run.step,
        model=run.model.state_dict(),
        optimizer=run.optimizer.state_dict(),
        state={
            "seconds": run.seconds,
            "window": run.window,
            "loss_train": run.loss_train if math.isfinite(run.loss_train) else None,
            "data_sha256": run.dataset.sha256,
        },
        keep=run.config.machine.checkpoint_keep,
    )


def _restore(run: _Run) -> None:
    """Go back to the newest checkpoint, or to the start, and set later rows aside."""
    found = load_newest(run.folder.checkpoints)
    if found is not None:
        run.step, model, optimizer, state = found
        if state["data_sha256"] != run.dataset.sha256:
            raise WindTunnelError(
                f"{run.folder.path}: the checkpoint was trained on data "
                f"{state['data_sha256'][:12]}, and {run.config.data.name} is now "
                f"{run.dataset.sha256[:12]}"
            )
        run.model.load_state_dict(model)
        run.optimizer.load_state_dict(optimizer)
        run.seconds = state["seconds"]
        run.window = [(loss, grad_norm) for loss, grad_norm in state["window"]]
        run.loss_train = math.nan if state["loss_train"] is None else state["loss_train"]
    run.folder.rewind(run.step)


def _complete(run: _Run) -> None:
    """Write the result, once, and close the run."""
    if not math.isfinite(run.val_loss):
        run.tracker.finish("diverged", {})
        raise DivergedError(f"step {run.step}: the validation loss is {run.val_loss:g}")
    row = runs_table_row(
        run.config,
        run.plan,
        run.dataset,
        state="completed",
        measured={
            "loss": run.val_loss,
            "bits_per_byte": run.bits_per_byte,
            "loss_train": run.loss_train,
            "tokens_per_second": round(run.plan.tokens / max(1e-9, run.seconds), 1),
            "seconds": round(run.seconds, 3),
            "device": run.compute.name,
        },
    )
    folder = run.folder
    append_jsonl(folder.metrics, [], sync=True)
    write_json(
        folder.result,
        {
            "schema": 1,
            "run_id": run.plan.run_id,
            "state": "completed",
            "data_sha256": run.dataset.sha256,
            "row": row,
            "files": {
                path.name: hashlib.sha256(path.read_bytes()).hexdigest()
                for path in (folder.metrics, folder.evals)
            },
        },
    )
    folder.log_attempt("end", attempt=run.attempt, state="completed", cause=None)
    folder.write_status("completed", step=run.step, total_steps=run.plan.steps)
    run.tracker.finish("completed", row)
