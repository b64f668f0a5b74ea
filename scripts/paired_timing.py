"""Contenders timed in turn in one process, so that what disturbs the machine disturbs all alike.

A B A B: a round times a block of calls of each contender, one after the other; the ratio of two
is taken within each round, and the median over the rounds is reported. The clock is the process's
own CPU time: what other processes take does not count, though the caches they share do.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Clock = Callable[[], float]
Work = Callable[[], object]


@dataclass(frozen=True)
class Paired:
    """Seconds a call of each contender, one value a round."""

    seconds: dict[str, list[float]]

    def median(self, name: str) -> float:
        """Seconds a call, the median of the rounds."""
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
    warmup_calls: int = 3,
    clock: Clock = time.process_time,
) -> Paired:
    """Time every contender once a round, in the order given.

    Args:
        contenders: What to call, by name.
        rounds: Rounds, at least 1.
        block_seconds: Aimed CPU seconds of a block of calls; a block has at least one call.
        warmup_calls: Untimed calls before the first round; compilation happens in them.
        clock: Seconds, increasing.
    """
    calls = {}
    for name, work in contenders.items():
        for _ in range(warmup_calls):
            work()
        calls[name] = max(1, round(block_seconds / max(block_time(work, 1, clock), 1e-9)))
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, work in contenders.items():
            seconds[name].append(block_time(work, calls[name], clock) / calls[name])
    return Paired(seconds)


def block_time(work: Work, calls: int, clock: Clock) -> float:
    """Seconds of a block of calls."""
    began = clock()
    for _ in range(calls):
        work()
    return clock() - began
