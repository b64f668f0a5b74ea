"""Contenders timed in turn in one process, so that what disturbs the machine disturbs all alike.

A B A B: a round times a block of steps of each contender, one after the other; the ratio of two
is taken within each round, and the median over the rounds is reported. The clock is the process's
own CPU time: what other processes take does not count, though the caches they share do.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Clock = Callable[[], float]
Work = Callable[[int], object]
"""Takes so many steps of whatever is timed."""


@dataclass(frozen=True)
class Paired:
    """Seconds a step of each contender, one value a round."""

    seconds: dict[str, list[float]]

    def median(self, name: str) -> float:
        """Seconds a step, the median of the rounds."""
        return statistics.median(self.seconds[name])

    def ratio(self, baseline: str, name: str) -> float:
        """How many times as fast as `baseline` the contender is: the median of paired ratios."""
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
    """Time every contender once a round, in the order given.

    Args:
        contenders: What takes steps, by name.
        rounds: Rounds, at least 1.
        block_seconds: Aimed CPU seconds of a block of steps; a block has at least one step.
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
    """Steps that take about so long, by the time of one; at least one."""
    return max(1, round(seconds / max(step_seconds(work, 1, clock), 1e-9)))


def step_seconds(work: Work, steps: int, clock: Clock) -> float:
    """Seconds a step, of a block of them."""
    began = clock()
    work(steps)
    return (clock() - began) / steps


def repeated(call: Callable[[], object]) -> Work:
    """Make calls of a function the steps."""

    def work(steps: int) -> None:
        for _ in range(steps):
            call()

    return work
