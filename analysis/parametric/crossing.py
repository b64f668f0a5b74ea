"""Where many rising curves first reach a level, each searched outwards from its own foot."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]

MAX_ROUNDS = 25
"""Evaluations of one curve at most; 4 to 6 are usual."""
CLOSE = 1e-3
"""Relative error of the height at which a search stops."""


def crossings(
    height: Callable[[Floats, Rows], Floats],
    foot: Floats,
    step: Floats,
    limit: Floats,
    level: float,
) -> Floats:
    """Return where each curve reaches the level, NaN where it does not before its limit.

    A step outwards follows the line from the foot, and the secant of the bracket follows once there
    is one, so a curve that is nearly straight takes a few evaluations. A height that is not finite
    counts as above; a curve that jumps over the level does not reach it.

    Args:
        height: Heights at t, shape (rows,), of curves `rows`; 0 at the foot.
        foot: Shape (S,). Where each curve is 0.
        step: Shape (S,). First step, towards the limit.
        limit: Shape (S,). Where a search gives up.
        level: Above 0.
    """
    below, above = foot.copy(), np.full(len(foot), np.nan)
    z_below, z_above = np.zeros(len(foot)), np.full(len(foot), np.inf)
    out = np.full(len(foot), np.nan)
    way = np.sign(step)
    t = foot + step
    active = np.flatnonzero(way * (limit - foot) > 0)
    for _ in range(MAX_ROUNDS):
        t = way * np.minimum(way * t, way * limit)
        z = height(t[active], active)
        z = np.where(np.isfinite(z), z, np.inf)
        done = np.abs(z - level) <= CLOSE * level
        under, over = active[z < level], active[z >= level]
        below[under], z_below[under] = t[under], z[z < level]
        above[over], z_above[over] = t[over], z[z >= level]
        tight = np.abs(above[active] - below[active]) <= 1e-10 * (1 + np.abs(below[active]))
        out[active[done]] = t[active[done]]
        lost = (z < level) & (t[active] == limit[active])
        active = active[~(done | tight | lost)]
        if len(active) == 0:
            break
        t[active] = _next(active, foot, t, below, z_below, above, z_above, level)
    return out


def _next(
    rows: Rows,
    foot: Floats,
    t: Floats,
    below: Floats,
    z_below: Floats,
    above: Floats,
    z_above: Floats,
    level: float,
) -> Floats:
    """Return the secant's point inside a bracket, or a step further out."""
    low, high, z_low, z_high = below[rows], above[rows], z_below[rows], z_above[rows]
    bracketed = np.isfinite(high)
    rise = np.where(np.isfinite(z_high), z_high - z_low, np.inf)
    share = np.where(np.isfinite(rise), (level - z_low) / rise, 0.5)
    inside = low + np.clip(share, 0.05, 0.95) * (high - low)
    with np.errstate(divide="ignore"):
        stretch = np.clip(1.05 * level / z_low, 1.2, 3.0)
    return np.where(bracketed, inside, foot[rows] + stretch * (t[rows] - foot[rows]))
