"""Contenders timed in turn in one process, so that other load slows all of them alike.

In each round every contender runs one timed block of steps. The ratio of two contenders is taken
within each round; the median over the rounds is reported. The clock is the CPU time of this
process: time taken by other processes does not count, though they still share its caches.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Clock = Callable[[], float]
Work = Callable[[int], object]
"""Takes the given number of training steps."""


@dataclass(frozen=True)
class Paired:
    """Seconds per step of each contender, one value per round."""

    seconds: dict[str, list[float]]

    def median(self, name: str) -> float:
        """Median seconds per step."""
        return statistics.median(self.seconds[name])

    def ratio(self, baseline: str, name: str) -> float:
        """Speed-up of `name` over `baseline`: the median of the rounds' ratios."""
        pairs = zip(self.seconds[baseline], self.seconds[name], strict=True)
        return statistics.median([slow / fast for slow, fast in pairs])


def time_in_turn(
    contenders: Mapping[str, Work],
    *,
    rounds: int,
    block_seconds: float,
    warmup_steps: int = 3,
    clock: Clock = time.process_time,
) -> Paired:
    """Time every contender once per round, in the order given.

    Args:
        contenders: By name.
        rounds: At least 1.
        block_seconds: Target length of a block in CPU seconds; a block has at least one step.
        warmup_steps: Untimed steps before the first round; compilation happens in them.
        clock: Seconds, increasing.
    """
    steps = {}
    for name, work in contenders.items():
        work(warmup_steps)
        steps[name] = steps_for(block_seconds, work, clock)
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, work in contenders.items():
            seconds[name].append(step_seconds(work, steps[name], clock))
    return Paired(seconds)


def steps_for(seconds: float, work: Work, clock: Clock) -> int:
    """Number of steps that take about `seconds`, at least one; times one step to find out."""
    return max(1, round(seconds / max(step_seconds(work, 1, clock), 1e-9)))


def step_seconds(work: Work, steps: int, clock: Clock) -> float:
    """Time one block and return its seconds per step."""
    began = clock()
    work(steps)
    return (clock() - began) / steps


def repeated(call: Callable[[], object]) -> Work:
    """Return a contender whose step is one call of a function."""

    def work(steps: int) -> None:
        for _ in range(steps):
            call()

    return work
