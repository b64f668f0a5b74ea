"""What a plan costs on this device: seconds by timed steps, memory and disk by counting."""

from collections.abc import Sequence

from train.arithmetic import DTYPES, resolve_dtype
from train.attention import LONGEST_PLAIN
from train.config import AttentionKernel, Config
from train.device import select_device
from train.manifest import PlannedRun
from train.micro_batch import activation_bytes
from train.peak import measure_peak_flops
from train.planning import RunPlan
from train.schedule import evaluation_steps
from train.shape import ModelShape
from train.timing import seconds_per_step

LONGEST_STEP_SECONDS = 2.0
"""A step that should take longer is not taken to price a plan, but reckoned from FLOPs."""

ASSUMED_SHARE = 0.3
"""Share of the measured matrix-product peak that a step is taken to reach before one was timed:
what steps of 0.1 to 1 million parameters reach on a CPU core (ours)."""


def seconds_per_run(runs: Sequence[PlannedRun]) -> dict[str, float]:
    """Seconds of each run alone on this device, evaluations included, by run_id.

    Every distinct (shape, batch) is timed for three steps on random tokens, smallest first. Steps
    of over LONGEST_STEP_SECONDS are reckoned at the rate of the largest one timed.
    """
    compute = select_device(runs[0].config.machine)
    per_step: dict[tuple[ModelShape, int], float] = {}
    dtype = resolve_dtype(runs[0].config.machine, compute)
    rate = ASSUMED_SHARE * measure_peak_flops(compute, DTYPES[dtype])
    for run in sorted(runs, key=_step_flops):
        key = (run.plan.shape, run.plan.batch_tokens)
        if key not in per_step and _step_flops(run) / rate <= LONGEST_STEP_SECONDS:
            per_step[key] = seconds_per_step(
                run.plan.shape,
                run.config.machine,
                compute,
                schedule=run.plan.schedule,
                batch_seqs=run.plan.batch_tokens // run.plan.shape.seq_len,
            )
            rate = _step_flops(run) / per_step[key]
        per_step.setdefault(key, _step_flops(run) / rate)
    return {
        run.plan.run_id: per_step[run.plan.shape, run.plan.batch_tokens] * _steps_worth(run)
        for run in runs
    }


def _step_flops(run: PlannedRun) -> int:
    return run.plan.token_flops.train * run.plan.batch_tokens


def _steps_worth(run: PlannedRun) -> float:
    """Steps of the run, and its evaluations, whose forward pass is a third of a step per token."""
    evaluations = len(evaluation_steps(run.plan.steps, run.config.eval.points))
    return run.plan.steps + evaluations * run.config.eval.tokens / run.plan.batch_tokens / 3


def memory_bytes(config: Config, plan: RunPlan) -> int:
    """Weights, gradients and two moments in float32, and the activations of one micro-batch.

    An upper estimate; without machine.micro_batch_seqs the whole batch is counted, which is split
    when it does not fit.
    """
    batch_seqs = plan.batch_tokens // config.data.seq_len
    seqs = config.machine.micro_batch_seqs or batch_seqs
    may_be_plain = (
        config.machine.attention is not AttentionKernel.sdpa and plan.shape.seq_len <= LONGEST_PLAIN
    )
    activations = activation_bytes(plan.shape, seqs=seqs, is_plain=may_be_plain)
    return 16 * plan.params.total + activations


def checkpoint_bytes(plan: RunPlan) -> int:
    """One checkpoint: weights and two moments in float32."""
    return 12 * plan.params.total


def disk_bytes(config: Config, plan: RunPlan) -> int:
    """Checkpoints of a run, one more than kept while it is written."""
    return checkpoint_bytes(plan) * (config.machine.checkpoint_keep + 1)
