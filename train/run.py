"""One run in a process: what the loop holds, built from the plan, at step 0."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from train.batches import Batches
from train.config import Compile, Config
from train.data.prepare import prepare
from train.data.shards import Dataset, open_dataset
from train.device import ComputeDevice, select_device
from train.divergence import LossWatch
from train.model import Transformer
from train.optimizer import build_optimizer
from train.peak import measure_peak_flops
from train.planning import RunPlan
from train.rundir import RunFolder
from train.step import choose_micro_batch
from train.tracker import NullTracker, Tracker
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
    eval_seqs: int
    """Windows per forward pass of an evaluation."""
    peak_flops: float
    epochs: float
    """How often the run reads the training split."""
    losses: LossWatch
    tracker: Tracker = field(default_factory=NullTracker)
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


def build_run(
    config: Config,
    plan: RunPlan,
    folder: RunFolder,
    attempt: int,
    *,
    most_micro_batch_seqs: int | None = None,
) -> Run:
    """Build everything that the plan says, at its start.

    Args:
        config: The job's config.
        plan: Its plan.
        folder: The run's folder, locked.
        attempt: Number of this start, from 1.
        most_micro_batch_seqs: Windows per forward pass that are known to fit, after a larger
            number did not; null when nothing is known.

    Raises:
        ConfigError: The device is not there, or the data has too few tokens.
        DataError: The data is missing or damaged.
    """
    compute = select_device(config.machine)
    dataset, epochs = _open_data(config, plan)
    seq_len = config.data.seq_len
    batch_seqs = plan.batch_tokens // seq_len
    model = Transformer(plan.shape, rotary_base=config.model.rotary_base)
    model.initialize(config.seed)
    model.to(compute.device)
    micro_batch_seqs = most_micro_batch_seqs or choose_micro_batch(
        plan.shape, compute, batch_seqs=batch_seqs, asked=config.machine.micro_batch_seqs
    )
    batches = Batches(dataset, compute, seed=config.seed, batch_seqs=batch_seqs, seq_len=seq_len)
    eval_seqs = most_micro_batch_seqs or max(EVAL_TOKENS_AT_ONCE // seq_len, micro_batch_seqs)
    return Run(
        config=config,
        plan=plan,
        folder=folder,
        attempt=attempt,
        compute=compute,
        dataset=dataset,
        model=model,
        forward=torch.compile(model) if config.machine.compile is Compile.always else model,
        optimizer=build_optimizer(model, config.optimizer, peak_lr=plan.lr),
        batches=batches,
        validation=batches.validation(config.eval.tokens, max_seqs=eval_seqs),
        micro_batch_seqs=micro_batch_seqs,
        eval_seqs=eval_seqs,
        peak_flops=measure_peak_flops(
            compute, torch.bfloat16 if compute.is_cuda else torch.float32
        ),
        epochs=epochs,
        losses=LossWatch(total_steps=plan.steps),
    )


def _open_data(config: Config, plan: RunPlan) -> tuple[Dataset, float]:
    """The run's data, verified, and how often the run reads its training split."""
    dataset = open_dataset(prepare(config.data, Path(config.paths.data), progress=True))
    epochs = check_enough_tokens(
        plan,
        n_tokens=dataset.n_tokens("train"),
        seq_len=config.data.seq_len,
        allow_repeat=config.data.allow_repeat,
        name=config.data.name,
    )
    return dataset, epochs
