"""What a plan costs on this device: seconds by timed steps, memory and disk by counting."""

import time
from collections.abc import Sequence

import torch

from train.config import Config
from train.device import ComputeDevice, select_device
from train.manifest import PlannedRun
from train.model import Transformer
from train.optimizer import build_optimizer
from train.planning import RunPlan
from train.shape import ModelShape
from train.step import activation_bytes, choose_micro_batch, train_step

TIMED_STEPS = 3
LONGEST_STEP_SECONDS = 5.0
"""A shape whose step should take longer is priced by the rate of the largest one timed."""


def seconds_per_run(runs: Sequence[PlannedRun]) -> dict[str, float]:
    """Training seconds of each run alone on this device, by run_id.

    Every distinct (shape, batch) is timed for three steps on random tokens, smallest first.
    """
    compute = select_device(runs[0].config.machine)
    per_step: dict[tuple[ModelShape, int], float] = {}
    rate = 0.0
    for run in sorted(runs, key=lambda run: run.plan.token_flops.train * run.plan.batch_tokens):
        key = (run.plan.shape, run.plan.batch_tokens)
        if key in per_step:
            continue
        step_flops = run.plan.token_flops.train * run.plan.batch_tokens
        if rate and step_flops / rate > LONGEST_STEP_SECONDS:
            per_step[key] = step_flops / rate
            continue
        per_step[key] = _time_step(run.config, run.plan, compute)
        rate = step_flops / per_step[key]
    return {
        run.plan.run_id: per_step[run.plan.shape, run.plan.batch_tokens] * run.plan.steps
        for run in runs
    }


def memory_bytes(config: Config, plan: RunPlan) -> int:
    """Weights, gradients and two moments in float32, and the activations of one micro-batch.

    An upper estimate; without machine.micro_batch_seqs the whole batch is counted, which a GPU
    splits when it does not fit.
    """
    batch_seqs = plan.batch_tokens // config.data.seq_len
    seqs = config.machine.micro_batch_seqs or batch_seqs
    return 16 * plan.params.total + activation_bytes(plan.shape, seqs=seqs)


def disk_bytes(config: Config, plan: RunPlan) -> int:
    """Checkpoints (weights and two moments in float32), one more than kept while it is written."""
    return 12 * plan.params.total * (config.machine.checkpoint_keep + 1)


def _time_step(config: Config, plan: RunPlan, compute: ComputeDevice) -> float:
    """Median seconds of a step after one that warms up."""
    model = Transformer(plan.shape)
    model.initialize(0)
    model.to(compute.device)
    optimizer = build_optimizer(model, config.optimizer, peak_lr=plan.lr)
    batch_seqs = plan.batch_tokens // plan.shape.seq_len
    micro = choose_micro_batch(
        plan.shape, compute, batch_seqs=batch_seqs, asked=config.machine.micro_batch_seqs
    )
    size = (batch_seqs, plan.shape.seq_len)
    tokens = torch.randint(plan.shape.vocab_size, size, device=compute.device)
    times = []
    for _ in range(TIMED_STEPS + 1):
        compute.synchronize()
        start = time.perf_counter()
        train_step(
            model,
            optimizer,
            (tokens, tokens),
            compute,
            lr=0.0,
            micro_batch_seqs=micro,
            grad_clip=1.0,
        )
        compute.synchronize()
        times.append(time.perf_counter() - start)
    return sorted(times[1:])[TIMED_STEPS // 2]
