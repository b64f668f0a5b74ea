"""Our training step against the reference's, and its model FLOPs utilisation."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch

from bench.figures import Figure
from bench.measurement import Effort, Measurement
from bench.our_step import build_step, shard
from bench.paired_timing import Work, repeated, time_in_turn
from bench.reference_step import ReferenceStep
from bench.same_function import TOLERANCE, losses
from bench.sizes import TINY, Size
from train.engine.peak_flops import CPU_SIZE
from train.plan.planning import PlannedRun

GOALS = {
    Size(64, 2, 2, 128, 1024): (1.7, 1.4, 0.35),
    Size(128, 4, 2, 256, 4096): (1.9, 1.6, 0.55),
    Size(256, 6, 4, 256, 2048): (2.0, 1.8, 0.70),
}
"""Least speed-up of the compiled and of the eager step, and least share of the bf16 peak."""

COMPILE_SECONDS = 30.0
"""Upper estimate of compiling one shape."""


def plan_steps(effort: Effort) -> list[Measurement]:
    """Plan one measurement per size; --quick leaves out our default block."""
    goals = {TINY: (0.0, 0.0, 0.0)} if effort.is_tiny else GOALS
    blocks = 1 if effort.is_quick else 2
    seconds = blocks * COMPILE_SECONDS + 2 * (1 + blocks) * effort.contender_seconds
    return [
        Measurement(
            f"step, {size.name}", seconds, partial(measure_size, size, *goals[size], effort)
        )
        for size in goals
    ]


def measure_size(
    size: Size, compiled_goal: float, eager_goal: float, share_goal: float, effort: Effort
) -> list[Figure]:
    """Time the reference, our step on the same model, and our default block on as many tokens.

    A bfloat16 matmul is one of the contenders: so the share of the peak is, like the other ratios,
    taken between blocks timed within the same seconds.
    """
    run, data = size.gpt2(), effort.data
    blocks = {"": run} if effort.is_quick else {"": run, "default block, ": size.default()}
    own, theirs = losses(run.plan.shape, seed=0)
    paired = time_in_turn(
        {
            "reference": reference(run, data),
            **_eager_and_compiled(blocks, effort),
            "product": bf16_product(),
        },
        rounds=effort.rounds,
        block_seconds=effort.block_seconds,
    )
    goals = {"compiled": compiled_goal, "eager": eager_goal}
    ours = [name for name in paired.seconds if name not in ("reference", "product")]
    step_flops = run.plan.token_flops.train * size.batch_tokens
    product_flops = 2 * CPU_SIZE**3
    share = paired.ratio("product", "compiled") * step_flops / product_flops
    peak = product_flops / paired.median("product")
    return [
        Figure(
            f"{size.name}: loss in float32, ours and the reference's apart",
            abs(own - theirs),
            "nats",
            TOLERANCE,
            "max",
        ),
        Figure(f"{size.name}: reference step", 1e3 * paired.median("reference"), "ms"),
        *(
            Figure(
                f"{size.name}: {name}, times the reference",
                paired.ratio("reference", name),
                "ratio",
                goals.get(name, 0.0),
            )
            for name in ours
        ),
        Figure(f"{size.name}: compiled, share of the bf16 peak", share, "ratio", share_goal),
        Figure(f"{size.name}: bf16 peak", peak / 1e9, "GFLOP/s"),
    ]


def reference(run: PlannedRun, data: Path) -> ReferenceStep:
    """The reference step with the run's shape and batch size, on the same token file."""
    return ReferenceStep(run.plan.shape, shard(run, data), batch_tokens=run.plan.batch_tokens)


def _eager_and_compiled(blocks: Mapping[str, PlannedRun], effort: Effort) -> dict[str, Work]:
    """Our eager and compiled step of each block, by the name used in the figures."""
    return {
        f"{block}{way}": build_step(run, effort.data, is_compiled=is_compiled)
        for block, run in blocks.items()
        for way, is_compiled in (("eager", False), ("compiled", effort.may_compile))
    }


def bf16_product() -> Work:
    """A bfloat16 matmul of the size at which the CPU reaches its peak; one call is one step."""
    a, b = (torch.randn(CPU_SIZE, CPU_SIZE).to(torch.bfloat16) for _ in range(2))
    out = torch.empty_like(a)
    return repeated(lambda: torch.mm(a, b, out=out))
