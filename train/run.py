"""One run in a process: what the loop holds, built from the plan and the newest checkpoint."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor

from train.batches import Batches
from train.checkpoint import load_newest
from train.config import Config
from train.data.prepare import prepare
from train.data.shards import Dataset, open_dataset
from train.device import ComputeDevice, measure_peak_flops, select_device
from train.errors import CheckpointError
from train.identity import science
from train.model import Transformer
from train.optimizer import build_optimizer
from train.planning import RunPlan
from train.provenance import run_facts
from train.records import write_json
from train.rundir import RunFolder
from train.step import choose_micro_batch
from train.tracker import Tracker, build_tracker
from train.validate import check_enough_tokens

EVAL_TOKENS_AT_ONCE = 8_192
"""Tokens per forward pass of an evaluation: enough to fill a small model's matrix products, and
1 GB of float32 logits at a vocabulary of 32 thousand."""


@dataclass(kw_only=True)
class Run:
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


def start_run(config: Config, plan: RunPlan, folder: RunFolder, attempt: int) -> Run:
    """Build everything, restore the newest checkpoint, and write down what is about to run."""
    compute = select_device(config.machine)
    dataset = open_dataset(prepare(config.data, Path(config.paths.data), progress=True))
    seq_len = config.data.seq_len
    epochs = check_enough_tokens(
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
    max_seqs = max(EVAL_TOKENS_AT_ONCE // seq_len, micro_batch_seqs)
    run = Run(
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
        validation=batches.validation(config.eval.tokens, max_seqs=max_seqs),
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
    write_json(folder.run, run_facts(config, plan, dataset, device=compute.name, epochs=epochs))
    folder.log_attempt(
        "start",
        attempt=attempt,
        start_step=run.step,
        device=compute.name,
        micro_batch_seqs=micro_batch_seqs,
        wandb_id=run.tracker.attempt_id,
    )
    return run


def _restore(run: Run) -> None:
    """Go back to the newest checkpoint, or to the start, and set later rows aside."""
    found = load_newest(run.folder.checkpoints)
    if found is not None:
        run.step, model, optimizer, state = found
        if state["data_sha256"] != run.dataset.sha256:
            raise CheckpointError(
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
