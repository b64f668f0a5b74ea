"""The order of jobs, and how far groups of runs are taken apart so that no slot stands idle."""

import heapq
from collections.abc import Sequence

from train.plan.grouping import RunGroup

LEAST_GAIN = 0.05
"""Share of the makespan that taking a group apart must save: parts lose what they shared."""


def pack(groups: Sequence[RunGroup], n_parallel: int) -> list[RunGroup]:
    """Order groups longest first, and take the largest apart while that ends the launch earlier.

    Longest first is at most 4/3 of the best makespan (Graham 1969, Bounds on multiprocessing timing
    anomalies, theorem 2). A group's cost is its shared FLOPs: a trunk counts once, and parts of a
    group each train their own.

    Args:
        groups: What one job each would train.
        n_parallel: Jobs that compute at the same time without slowing each other.
    """
    best = packed = sorted(groups, key=_cost, reverse=True)
    n_tried = 0
    while packed and n_tried < n_parallel:  # as many equal ones may have to be taken apart
        target = makespan(best, n_parallel)[0] * (1 - LEAST_GAIN)
        if sum(map(_cost, packed)) / n_parallel > target:  # no packing is that short
            break
        divided = _divided(packed, n_parallel)
        if divided is None:
            break
        packed, n_tried = divided, n_tried + 1
        if makespan(packed, n_parallel)[0] <= target:
            best, n_tried = packed, 0
    return best


def _divided(packed: Sequence[RunGroup], n_parallel: int) -> list[RunGroup] | None:
    """Take apart the largest group of the slot that ends last, in the way that is best."""
    largest = max(makespan(packed, n_parallel)[1], key=_cost)
    rest = [group for group in packed if group is not largest]
    candidates = [sorted([*rest, *parts], key=_cost, reverse=True) for parts in _parts_of(largest)]
    return min(candidates, key=lambda each: _price(each, n_parallel), default=None)


def makespan(groups: Sequence[RunGroup], n_parallel: int) -> tuple[int, list[RunGroup]]:
    """FLOPs of the slot that ends last when groups start in this order, and what it trains."""
    loads = [(0, slot) for slot in range(n_parallel)]
    placed: list[list[RunGroup]] = [[] for _ in loads]
    for group in groups:
        load, slot = heapq.heappop(loads)
        placed[slot].append(group)
        heapq.heappush(loads, (load + _cost(group), slot))
    longest, slot = max(loads)
    return longest, placed[slot]


def _cost(group: RunGroup) -> int:
    return group.shared_flops


def _price(groups: Sequence[RunGroup], n_parallel: int) -> tuple[int, int]:
    """What is best is shortest, and among those the one with the fewest FLOPs."""
    return makespan(groups, n_parallel)[0], sum(map(_cost, groups))


def _parts_of(group: RunGroup) -> list[tuple[RunGroup, RunGroup]]:
    """Ways to take a group apart: half of its replicas, or its longest horizons from the others."""
    parts = []
    half = (len(group.replicas) + 1) // 2
    if half < len(group.replicas):
        parts.append((group.replicas[:half], group.replicas[half:]))
    for cut in range(1, len(group.stacks)):
        longest = tuple(horizons[:cut] for horizons in group.replicas)
        parts.append((longest, tuple(horizons[cut:] for horizons in group.replicas)))
    return [(RunGroup(replicas=first), RunGroup(replicas=second)) for first, second in parts]
