"""The lower convex hull of many curves, for many subsets of the curves at once.

The hull is found through its slopes: the line of a slope, raised from below, first touches the run
that is on the hull there. For each slope the runs are ranked once by where the line touches them; a
subset of runs is then touched at the first in rank that it holds. This costs nothing like building
a hull for every resample (ours).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SLOPES = 768
"""Slopes tried, equally spaced in their logarithm."""

BEYOND = 1.5
"""How far slopes reach beyond those of the whole hull, as a factor: subsets have others."""

RANKS = 40
"""Runs kept at a slope. A resample lacks a given run with probability 1/e, so it lacks all of
them with e**-40."""

ELEMENTS = 1_000_000
"""Numbers held at once while slopes are ranked."""


@dataclass(frozen=True)
class Ranking:
    """Runs by slope, from the steepest fall to the gentlest."""

    run: Ints
    """Shape (slopes, ranks). The run touched, best first."""
    x: Floats
    """Shape (slopes, ranks). Where it is touched."""


def lower_hull(x: Floats, y: Floats) -> Ints:
    """Return the vertices of the lower convex hull, by ascending x.

    Source:
        Andrew 1979, Information Processing Letters 9(5): the monotone chain.
    """
    order = np.lexsort((y, x))
    hull: list[int] = []
    for k in order.tolist():
        if hull and x[hull[-1]] == x[k]:
            continue
        while len(hull) > 1:
            i, j = hull[-2], hull[-1]
            if (x[j] - x[i]) * (y[k] - y[i]) > (y[j] - y[i]) * (x[k] - x[i]):
                break
            hull.pop()
        hull.append(k)
    return np.array(hull, dtype=np.int64)


def falling(x: Floats, y: Floats) -> Ints:
    """Return the hull's vertices up to the lowest: beyond it more compute does not help."""
    hull = lower_hull(x, y)
    return hull[: int(np.argmin(y[hull])) + 1]


def rank_runs(x: list[Floats], y: list[Floats]) -> Ranking | None:
    """Rank runs by where lines of each slope touch them.

    Args:
        x: By run, shape (points,). Log FLOPs.
        y: By run, shape (points,). Log loss.

    Returns:
        The ranking, or None where the hull of all runs falls nowhere.
    """
    corners = [
        falling(*run) if len(run[0]) > 1 else np.array([0]) for run in zip(x, y, strict=True)
    ]
    x = [run[kept] for run, kept in zip(x, corners, strict=True)]
    y = [run[kept] for run, kept in zip(y, corners, strict=True)]
    flat_x, flat_y = np.concatenate(x), np.concatenate(y)
    whole = falling(flat_x, flat_y)
    if len(whole) < 2:
        return None
    edges = -np.diff(flat_y[whole]) / np.diff(flat_x[whole])
    slopes = -np.geomspace(edges[0] * BEYOND, edges[-1] / BEYOND, SLOPES)
    begins = np.concatenate([[0], np.cumsum([len(run) for run in x])[:-1]])
    ranks = min(RANKS, len(x))
    chunk = max(1, ELEMENTS // len(flat_x))
    best = []
    for start in range(0, SLOPES, chunk):
        height = flat_y - slopes[start : start + chunk, None] * flat_x
        lowest = np.minimum.reduceat(height, begins, axis=1) if len(flat_x) > len(x) else height
        first = np.argpartition(lowest, ranks - 1, axis=1)[:, :ranks]
        order = np.argsort(np.take_along_axis(lowest, first, axis=1), axis=1, kind="stable")
        best.append(np.take_along_axis(first, order, axis=1))
    run = np.concatenate(best)
    at = np.empty(run.shape)
    for k in np.unique(run):
        where = np.nonzero(run == k)
        at[where] = _where_sloped(x[k], y[k], slopes[where[0]])
    return Ranking(run.astype(np.int64), at)


def _where_sloped(x: Floats, y: Floats, slopes: Floats) -> Floats:
    """Return where a convex curve has a slope: a chord's is that of the curve at its middle.

    The curve's ends are met by all slopes beyond those of its first and last chords.
    """
    if len(x) == 1:
        return np.full(len(slopes), x[0])
    chords, middles = np.diff(y) / np.diff(x), 0.5 * (x[1:] + x[:-1])
    return np.asarray(np.interp(slopes, chords, middles, left=x[0], right=x[-1]))


def touched(ranking: Ranking, present: NDArray[np.bool_]) -> tuple[Ints, Floats]:
    """Return the run on each subset's hull at each slope, and where it is touched.

    Args:
        ranking: Of all runs.
        present: Shape (subsets, runs).

    Returns:
        Runs and log FLOPs, both shape (subsets, slopes).
    """
    slopes, ranks = ranking.run.shape
    chosen = np.zeros((len(present), slopes), dtype=np.int64)
    found = present[:, ranking.run[:, 0]]
    for k in range(1, ranks):
        if found.all():
            break
        hit = ~found & present[:, ranking.run[:, k]]
        chosen[hit] = k
        found |= hit
    return ranking.run[np.arange(slopes), chosen], ranking.x[np.arange(slopes), chosen]
