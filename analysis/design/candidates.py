"""Runs that could be made next: sizes around and between those there are, at their budgets.

What lies far outside is left alone even where the surface says it would tell most: there the
surface is least known, and losses follow other laws.
"""

from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from analysis.design.c_optimal import Candidates
from analysis.design.ladder import Ladder
from analysis.isoflop.budgets import group_budgets
from analysis.parametric.frontier import CostLaw

Floats = NDArray[np.float64]

MAX_VALUES = 24
"""Sizes, and budgets, that candidates are made of."""

WIDEN_SIZE = 2.0
"""Factor beyond the smallest and largest size."""

WIDEN_RATIO = 2.0
"""Factor beyond the smallest and largest D / N."""

WIDEN_FLOPS = 4.0
"""Factor beyond the largest C; smaller budgets than the smallest are not proposed."""

SAME = 0.03
"""Natural log: a run within this of another in N and in D is that run with another seed."""

MIN_TIMED = 6
"""Rows with `seconds` that a law of time needs: twice its parameters."""


class By(Enum):
    """What a run costs."""

    flops = "flops"
    seconds = "seconds"


@dataclass(frozen=True)
class TimeLaw:
    """seconds = exp(intercept) * N**by_n * D**by_d."""

    intercept: float
    by_n: float
    by_d: float
    scatter: float
    """Sd of log seconds about the law."""

    def seconds(self, n_params: Floats, tokens: Floats) -> Floats:
        """Return the time of a run on the device of those that were timed."""
        log = self.intercept + self.by_n * np.log(n_params) + self.by_d * np.log(tokens)
        return np.asarray(np.exp(log), dtype=np.float64)


def fit_time(n_params: Floats, tokens: Floats, seconds: Floats) -> TimeLaw | None:
    """Fit the time of a run by least squares on logs; None where fewer than MIN_TIMED have one."""
    have = np.isfinite(seconds) & (seconds > 0)
    if have.sum() < MIN_TIMED:
        return None
    x, y = np.log(n_params[have]), np.log(tokens[have])
    design = np.stack([np.ones_like(x), x, y], axis=1)
    log_time = np.log(seconds[have])
    terms = np.linalg.pinv(design) @ log_time
    residual = log_time - design @ terms
    freedom = max(1, len(x) - 3)
    intercept, by_n, by_d = map(float, terms)
    return TimeLaw(intercept, by_n, by_d, float(np.sqrt(residual @ residual / freedom)))


def propose(
    n_params: Floats,
    tokens: Floats,
    flops: Floats,
    cost: CostLaw,
    ladder: Ladder | None,
    time: TimeLaw | None,
) -> Candidates:
    """Return the runs that could be made, without those that were.

    Args:
        n_params: Shape (runs,). Of the runs there are.
        tokens: Shape (runs,).
        flops: Shape (runs,).
        cost: How C counts.
        ladder: Shapes there can be; None allows any size.
        time: Prices runs in seconds instead of FLOPs.
    """
    sizes = _sizes(n_params, ladder)
    budgets = budget_values(flops)
    n, c = (grid.ravel() for grid in np.meshgrid(sizes, budgets, indexing="ij"))
    d = cost.tokens(c, n)
    ratio, there = d / n, tokens / n_params
    keep = (ratio >= there.min() / WIDEN_RATIO) & (ratio <= there.max() * WIDEN_RATIO)
    keep &= ~is_there(n, d, n_params, tokens)
    n, d, c = n[keep], d[keep], c[keep]
    return Candidates(n, d, c if time is None else time.seconds(n, d))


def is_there(n: Floats, d: Floats, n_params: Floats, tokens: Floats) -> NDArray[np.bool_]:
    """Return which (N, D) were run already, shape (candidates,)."""
    by_n = np.abs(np.log(n)[:, None] - np.log(n_params)) < SAME
    by_d = np.abs(np.log(d)[:, None] - np.log(tokens)) < SAME
    return np.asarray((by_n & by_d).any(axis=1))


def _sizes(n_params: Floats, ladder: Ladder | None) -> Floats:
    low, high = n_params.min() / WIDEN_SIZE, n_params.max() * WIDEN_SIZE
    if ladder is not None:
        rungs = ladder.sizes
        return np.asarray(rungs[(rungs >= low) & (rungs <= high)])
    distinct = _distinct(n_params)
    if len(distinct) > MAX_VALUES // 2:
        return np.geomspace(low, high, MAX_VALUES)
    middles = np.sqrt(distinct[1:] * distinct[:-1])
    return np.sort(np.concatenate([distinct, middles, [low, high]]))


def budget_values(flops: Floats) -> Floats:
    """Return the budgets there are and the next ones, or a grid where runs share none, ascending.

    Budgets between are left out: a few runs at one would be a valley that is not bracketed.
    """
    labels = group_budgets(flops)
    shared = np.array([np.median(flops[labels == k]) for k in range(labels.max() + 1)])
    counts = np.bincount(labels[labels >= 0], minlength=len(shared))
    shared = shared[counts > 1]
    low, high = float(flops.min()), float(flops.max())
    if len(shared) < 2 or len(shared) > MAX_VALUES // 2:
        return np.geomspace(low, high * WIDEN_FLOPS, MAX_VALUES // 2)
    step = min(WIDEN_FLOPS, float(np.exp(np.median(np.diff(np.log(shared))))))
    further = [high * step**k for k in (1, 2) if step**k <= WIDEN_FLOPS * (1 + SAME)]
    return np.sort(np.concatenate([shared, further]))


def _distinct(values: Floats) -> Floats:
    """Return the values that differ by more than SAME, ascending."""
    ordered = np.unique(values)
    new = np.concatenate([[True], np.diff(np.log(ordered)) > SAME])
    return np.asarray(ordered[new])
