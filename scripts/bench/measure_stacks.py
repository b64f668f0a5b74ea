"""Eight stacked replicas against eight runs trained one after the other by our own step.

The goals are for the eager step: runs of these sizes are too short to be compiled
(train.engine.compute_policy.COMPILE_FROM_FLOPS). The gain with both sides compiled is reported
beside it, without a goal.
"""

from functools import partial

from bench.figures import Figure
from bench.measure_step import COMPILE_SECONDS
from bench.measurement import Effort, Measurement
from bench.our_step import build_step
from bench.paired_timing import time_in_turn
from bench.sizes import TINY, Size
from train.study.packing import best_stack

REPLICAS = 8

GOALS = {Size(32, 2, 2, 128, 256): 2.3, Size(64, 2, 2, 128, 256): 1.7}
"""Least speed-up of eight stacked replicas over eight runs."""

CHOICES = (
    Size(16, 2, 2, 128, 256),
    Size(32, 2, 2, 128, 1024),
    Size(64, 2, 2, 128, 1024),
    Size(128, 4, 2, 256, 1024),
    Size(128, 4, 2, 256, 4096),
)
"""Further sizes for the automatic choice, from where stacking pays to where it does not."""

LEAST_AUTOMATIC_GAIN = 0.95
"""Least speed-up of the automatically chosen stack: it must never be slower than runs alone."""


def plan_stacks(effort: Effort) -> list[Measurement]:
    """Plan the speed-up of eight replicas, then the automatic choice at more sizes."""
    goals = {TINY: 0.0} if effort.is_tiny else GOALS
    choices = (TINY,) if effort.is_tiny else (*GOALS, *CHOICES)
    seconds = 2 * COMPILE_SECONDS + 2 * effort.contender_seconds
    return [
        *(
            Measurement(
                f"stack, d{size.d_model} {size.name}",
                seconds,
                partial(measure_stack, size, goals[size], effort),
            )
            for size in goals
        ),
        *(
            Measurement(
                f"automatic stack, d{size.d_model} {size.name}",
                seconds,
                partial(measure_choice, size, effort),
            )
            for size in choices
        ),
    ]


def measure_stack(size: Size, goal: float, effort: Effort) -> list[Figure]:
    """Time a stack of eight, eager and, where there is time, compiled."""
    name = f"d{size.d_model} at {size.batch_tokens}: {REPLICAS} stacked, times one by one"
    figures = [Figure(name, gain(size, REPLICAS, effort), "ratio", goal)]
    if effort.may_compile:
        compiled = gain(size, REPLICAS, effort, is_compiled=True)
        figures.append(Figure(f"{name}, both compiled", compiled, "ratio"))
    return figures


def measure_choice(size: Size, effort: Effort) -> list[Figure]:
    """Time the number of replicas, at most eight, that the planner chooses."""
    name = f"d{size.d_model} at {size.batch_tokens}: automatic choice"
    chosen = best_stack(size.default(), REPLICAS)
    rate = gain(size, chosen, effort) if chosen > 1 else 1.0
    return [
        Figure(f"{name}, replicas", chosen, "replicas"),
        Figure(f"{name}, times one by one", rate, "ratio", LEAST_AUTOMATIC_GAIN),
    ]


def gain(size: Size, replicas: int, effort: Effort, *, is_compiled: bool = False) -> float:
    """Speed-up of a stack over as many runs trained one after the other."""
    build = partial(build_step, size.default(), effort.data, is_compiled=is_compiled)
    paired = time_in_turn(
        {"alone": build(), "stacked": build(replicas=replicas)},
        rounds=effort.rounds,
        block_seconds=effort.block_seconds,
    )
    return replicas * paired.ratio("alone", "stacked")
