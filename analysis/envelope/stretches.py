"""Where the envelope of training curves follows one size, and which such stretches are optima.

Between two common tangents the lower convex hull of log loss over log FLOPs follows one size's
curve; the middle of that stretch is where the size is the best. Not every stretch is an optimum:
at the ends of the hull no smaller or no larger size competes, and a run may begin or end while it
is the best. What a stretch is worth is judged from the runs at hand, in every resample anew.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.bootstrap import resample_counts
from analysis.envelope.hull import SLOPES, Ranking, rank_runs, touched
from analysis.errors import RefusedError
from analysis.intake.curves import Curve

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

MIN_DRAWN = 2
"""Stretches that a resample needs for a law."""

SAME_SIZE = 1e-3
"""Relative; sizes that differ by less are one."""

SAME_FLOPS = 0.02
"""Natural log; compute that differs by less is the same, as between the runs of a budget."""

ELEMENTS = 1_000_000
"""Resamples x slopes held at once."""

USED, NO_SMALLER, NO_LARGER, BEGAN, ENDED = range(5)

WHY = {
    NO_SMALLER: "no smaller size was still in training where it becomes the best",
    NO_LARGER: "no larger size was in training where it is the best",
    BEGAN: "it is the best already where its curve begins, and no larger size's had begun",
    ENDED: "it ended while it was the best, and every smaller size had ended",
}


@dataclass(frozen=True)
class Design:
    """The runs by ascending size, and how they rank on hulls."""

    curves: list[Curve]
    ranking: Ranking
    size: Ints
    """Shape (runs,). Which size a run has, from 0."""
    log_n: Floats
    """Shape (sizes,)."""
    log_cost: Floats
    """Shape (runs,). Log FLOPs per token."""
    begin: Floats
    """Shape (runs,). Log FLOPs where the curve begins."""
    end: Floats
    """Shape (runs,). Log FLOPs where it ends."""


@dataclass(frozen=True)
class Stretches:
    """Where the hulls of many subsets of runs follow one size; all of shape (stretches,)."""

    subset: Ints
    run: Ints
    """The run in the middle of the stretch."""
    log_c: Floats
    log_n: Floats
    log_d: Floats
    verdict: Ints
    """USED, or a key of WHY."""


def arrange(curves: list[Curve]) -> Design:
    """Sort runs by size and rank them.

    Raises:
        RefusedError: More compute lowers no loss.
    """
    curves = sorted(curves, key=lambda curve: curve.n_params)
    log_c = [np.log(curve.flops) for curve in curves]
    ranking = rank_runs(log_c, [np.log(curve.loss) for curve in curves]) if curves else None
    if ranking is None:
        raise RefusedError(
            f"the lowest loss of {len(curves)} runs is at their lowest compute, so no envelope "
            "falls; add runs of several sizes at more compute"
        )
    log_n = np.log([curve.n_params for curve in curves])
    new = _first_of_sizes(log_n)
    return Design(
        curves=curves,
        ranking=ranking,
        size=np.asarray(np.cumsum(new) - 1, dtype=np.int64),
        log_n=log_n[new],
        log_cost=np.log([curve.flops[-1] / curve.tokens[-1] for curve in curves]),
        begin=np.array([x[0] for x in log_c]),
        end=np.array([x[-1] for x in log_c]),
    )


def _first_of_sizes(log_n: Floats) -> Bools:
    """Mark where a size begins in ascending log N; a size does not grow by chaining."""
    new = np.zeros(len(log_n), dtype=np.bool_)
    at = 0
    while at < len(log_n):
        new[at] = True
        at = int(np.searchsorted(log_n, log_n[at] + SAME_SIZE, side="right"))
    return new


def find_stretches(design: Design, present: Bools) -> Stretches:
    """Find and judge the stretches of every subset's hull.

    Args:
        design: All runs.
        present: Shape (subsets, runs). Which of them a subset holds.
    """
    run, x = touched(design.ranking, present)
    size = design.size[run]
    new = np.ones(size.shape, dtype=np.bool_)
    new[:, 1:] = size[:, 1:] != size[:, :-1]
    subset, first = np.nonzero(new)
    last = np.append(first[1:], 0) - 1
    last[np.append(np.diff(subset) != 0, True)] = size.shape[1] - 1
    size, low, high = size[subset, first], x[subset, first], x[subset, last]
    verdict, log_c = _judge(design, present, subset, size, low, high)
    middle = run[subset, (first + last) // 2]
    log_d = log_c - design.log_cost[middle]
    return Stretches(subset, middle, log_c, design.log_n[size], log_d, verdict)


def _judge(
    design: Design, present: Bools, subset: Ints, size: Ints, low: Floats, high: Floats
) -> tuple[Ints, Floats]:
    """Return verdicts, and log FLOPs at which each size is taken to be the best.

    That is the stretch's middle. A stretch that the end of a run cuts short has no middle, but at
    the cut itself the size is the best of those that were compared there: the valley of a budget.
    """
    firsts = np.flatnonzero(np.diff(design.size, prepend=-1))
    begin = np.minimum.reduceat(np.where(present, design.begin, np.inf), firsts, axis=1)
    end = np.maximum.reduceat(np.where(present, design.end, -np.inf), firsts, axis=1)
    nothing = np.full((len(present), 1), np.inf)
    smaller_end = np.hstack([-nothing, np.maximum.accumulate(end, axis=1)])[subset, size]
    from_above = np.hstack([np.maximum.accumulate(end[:, ::-1], axis=1)[:, ::-1], -nothing])
    larger_end = from_above[subset, size + 1]
    from_above = np.hstack([np.minimum.accumulate(begin[:, ::-1], axis=1)[:, ::-1], nothing])
    larger_begin = from_above[subset, size + 1]
    ended = high >= end[subset, size] - SAME_FLOPS
    began = (low <= begin[subset, size] + SAME_FLOPS) & ~ended
    tests = {
        NO_SMALLER: smaller_end < low - SAME_FLOPS,
        NO_LARGER: (larger_begin > high + SAME_FLOPS) | (larger_end < high - SAME_FLOPS),
        ENDED: ended & (smaller_end < high - SAME_FLOPS),
        BEGAN: began & (larger_begin > low + SAME_FLOPS),
    }
    verdict = np.select(list(tests.values()), list(tests), USED)
    log_c = np.where(ended, high, np.where(began, low, 0.5 * (low + high)))
    return verdict.astype(np.int64), log_c


def resample_laws(design: Design, resamples: int, seed: int, pivot: float) -> Floats:
    """Draw runs and fit the laws anew.

    Args:
        design: All runs; whole runs are drawn.
        resamples: How often.
        seed: Seeds the draws.
        pivot: Log FLOPs at which the laws' heights are wanted.

    Returns:
        Exponent and height of N, then of D, shape (4, resamples); NaN where a resample leaves
        fewer than MIN_DRAWN stretches.
    """
    drawn = []
    chunk = max(1, ELEMENTS // SLOPES)
    for weights in resample_counts(len(design.curves), resamples, seed):
        for start in range(0, len(weights), chunk):
            present = weights[start : start + chunk] > 0
            found = find_stretches(design, present)
            used = found.verdict == USED
            row, x = found.subset[used], found.log_c[used] - pivot
            laws = (_lines(row, x, y[used], len(present)) for y in (found.log_n, found.log_d))
            drawn.append(np.vstack([part for law in laws for part in law]))
    return np.hstack(drawn)


def _lines(row: Ints, x: Floats, y: Floats, n_rows: int) -> tuple[Floats, Floats]:
    """Fit y = height + slope x by row."""
    count = np.bincount(row, minlength=n_rows)
    safe = np.maximum(count, 1)
    mean_x, mean_y = (np.bincount(row, v, n_rows) / safe for v in (x, y))
    dx = x - mean_x[row]
    spread = np.bincount(row, dx * dx, n_rows)
    enough = (count >= MIN_DRAWN) & (spread > 0)
    slope = np.bincount(row, dx * y, n_rows) / np.where(enough, spread, 1.0)
    return np.where(enough, slope, np.nan), np.where(enough, mean_y - slope * mean_x, np.nan)
