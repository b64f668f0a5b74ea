"""Eight stacked replicas against eight runs of our own step, one after the other.

What is judged is the step that such runs take: not compiled, as they are by far too short for it
(COMPILE_FROM_FLOPS of engine). What compiling both would leave of the gain stands beside it.
"""

from functools import partial

from benchmark_figures import Figure
from engine_sizes import TINY, Size
from measure_step import COMPILE_SECONDS
from measurement import Effort, Measurement
from our_step import build_step
from paired_timing import time_in_turn

from train.study.stacking import best_stack

REPLICAS = 8

GOALS = {Size(32, 2, 2, 128, 256): 2.3, Size(64, 2, 2, 128, 256): 1.7}
"""Of eight replicas against eight runs."""

CHOICES = (
    Size(16, 2, 2, 128, 256),
    Size(32, 2, 2, 128, 1024),
    Size(64, 2, 2, 128, 1024),
    Size(128, 4, 2, 256, 1024),
    Size(128, 4, 2, 256, 4096),
)
"""Where the automatic choice is tried, besides: from where stacking pays to where it does not."""

FEWEST_OF_ALONE = 0.95
"""Of the rate of runs alone, wherever the choice is automatic."""


def plan_stacks(effort: Effort) -> list[Measurement]:
    """The asked shapes, then the automatic choice on a grid of them."""
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
    """Time a stack of eight."""
    name = f"d{size.d_model} at {size.batch_tokens}: {REPLICAS} stacked, times one by one"
    figures = [Figure(name, gain(size, REPLICAS, effort), "ratio", goal)]
    if effort.may_compile:
        compiled = gain(size, REPLICAS, effort, is_compiled=True)
        figures.append(Figure(f"{name}, both compiled", compiled, "ratio"))
    return figures


def measure_choice(size: Size, effort: Effort) -> list[Figure]:
    """Ask for the best stack of eight runs or fewer, and time what was chosen."""
    name = f"d{size.d_model} at {size.batch_tokens}: automatic choice"
    chosen = best_stack(size.default(), REPLICAS)
    rate = gain(size, chosen, effort) if chosen > 1 else 1.0  # alone is alone
    return [
        Figure(f"{name}, replicas", chosen, "replicas"),
        Figure(f"{name}, times one by one", rate, "ratio", FEWEST_OF_ALONE),
    ]


def gain(size: Size, replicas: int, effort: Effort, *, is_compiled: bool = False) -> float:
    """How many times as fast a stack trains as many runs one after the other."""
    build = partial(build_step, size.default(), effort.data, is_compiled=is_compiled)
    paired = time_in_turn(
        {"alone": build(), "stacked": build(replicas=replicas)},
        rounds=effort.rounds,
        block_seconds=effort.block_seconds,
    )
    return replicas * paired.ratio("alone", "stacked")
