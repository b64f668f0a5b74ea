"""How far R_D or R_N can be moved before the runs object: profiles of the repetition objective."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf

from analysis.bootstrap import Interval
from analysis.repetition.effective import R_BOX, R_D, R_N
from analysis.repetition.solver import Task, descend, objective

Floats = NDArray[np.float64]

CHI2 = 3.841458820694124
"""95 % quantile of chi-squared with one degree of freedom."""

GRID = np.geomspace(*R_BOX, 37)
"""Values of R at which the rest is refitted, beside that of the best fit."""

REFINED, BETWEEN = 2, 8
"""Times the cells in which the deviance crosses CHI2 are divided, by how many values each time."""

PARTNERS = (1.0, 1000.0)
"""Values of the other R from which every point starts, beside that of the best fit."""

SCAN = np.geomspace(*R_BOX, 73)
"""Values of the other R that are tried where the surface is held: with nothing else to give way,
the objective has many small basins in it."""

SCANNED = 3
"""Lowest of them that are starts."""


@dataclass(frozen=True)
class Profile:
    """The best objective at each value of one R, everything else refitted."""

    r: Floats
    objective: Floats
    deviance: Floats
    """Twice the fall of the log likelihood from its maximum; 3.84 bounds the 95 % interval."""
    q: Floats
    """Shape (values of R, 7). The fits."""
    interval: Interval
    """Where the deviance is below 3.84; an end that is not reached is 0 or infinity."""


def profile_r(column: int, best: tuple[Floats, float], task: Task) -> Profile:
    """Refit everything else at every value of one R.

    Args:
        column: Of R in q.
        best: q and objective of the whole fit.
        task: The whole fit's.
    """
    delta, freedom = task.delta, len(task.points.x) - (7 - len(task.held))
    r = np.unique(np.append(GRID, np.clip(np.exp(best[0][column]), *R_BOX)))
    q, value = _refit(r, column, best[0], task)
    for _ in range(REFINED):
        lowest = min(best[1], float(value.min()))
        cells = np.flatnonzero(np.diff(deviance(value, lowest, freedom, delta) < CHI2))
        between = [np.geomspace(r[k], r[k + 1], BETWEEN + 2)[1:-1] for k in cells]
        if between:
            finer = np.concatenate(between)
            more = _refit(finer, column, best[0], task)
            order = np.argsort(np.append(r, finer))
            r, value = np.append(r, finer)[order], np.append(value, more[1])[order]
            q = np.concatenate([q, more[0]])[order]
    lowest = min(best[1], float(value.min()))
    fall = deviance(value, lowest, freedom, delta)
    return Profile(r, value, fall, q, _interval(r, fall))


def deviance(objective: Floats, lowest: float, freedom: int, delta: float) -> Floats:
    """Return twice the fall of the log likelihood, its scale at the best value each time.

    The likelihood is the one whose negative logarithm is the Huber cost over a scale: normal for
    residuals inside delta, Laplace outside.

    Args:
        objective: Sums of Huber terms.
        lowest: The least of them.
        freedom: Runs less parameters.
        delta: Nats of log loss.
    """
    return (
        2.0
        * freedom
        * (_log_scale(objective / freedom, delta) - _log_scale(lowest / freedom, delta))
    )


def _log_scale(mean: Floats | float, delta: float) -> Floats:
    """Return min over tau of mean / tau + log Z(tau), Z the integral of exp(-huber / tau).

    Z is sqrt(2 pi tau) for tau far below delta**2 and 2 tau / delta far above, so the best tau lies
    between `mean` and twice that; it is found by golden sections.
    """
    mean = np.maximum(np.asarray(mean, dtype=np.float64), 1e-300)

    def cost(tau: Floats) -> Floats:
        inside = np.sqrt(2.0 * np.pi * tau) * erf(delta / np.sqrt(2.0 * tau))
        outside = 2.0 * tau / delta * np.exp(-delta * delta / (2.0 * tau))
        return np.asarray(mean / tau + np.log(inside + outside), dtype=np.float64)

    golden = 0.5 * (np.sqrt(5.0) - 1.0)
    low, high = mean, 2.0 * mean
    for _ in range(40):
        left, right = high - golden * (high - low), low + golden * (high - low)
        falls = cost(left) > cost(right)
        low, high = np.where(falls, left, low), np.where(falls, high, right)
    return cost(0.5 * (low + high))


def _refit(r: Floats, column: int, best: Floats, task: Task) -> tuple[Floats, Floats]:
    """Return the best fit and objective at each value of R."""
    other = R_D + R_N - column
    partners = _scan(r, column, best, task) if task.held else np.log(PARTNERS)[:, None] + 0.0 * r
    starts = np.repeat(best[None], len(r) * (1 + len(partners)), axis=0)
    starts[:, column] = np.tile(np.log(r), 1 + len(partners))
    starts[len(r) :, other] = partners.ravel()
    held = Task(task.points, task.delta, (*task.held, column))
    ends = descend(starts, held, through=(1e-2,))
    values = ends.value.reshape(-1, len(r))
    pick = values.argmin(axis=0) * len(r) + np.arange(len(r))
    return ends.q[pick], ends.value[pick]


def _scan(r: Floats, column: int, best: Floats, task: Task) -> Floats:
    """Return log of the other R where the objective is lowest, shape (SCANNED, len(r))."""
    q = np.repeat(best[None], len(r) * len(SCAN), axis=0)
    q[:, column] = np.repeat(np.log(r), len(SCAN))
    q[:, R_D + R_N - column] = np.tile(np.log(SCAN), len(r))
    value = objective(q, task).reshape(len(r), len(SCAN))
    padded = np.pad(value, ((0, 0), (1, 1)), constant_values=np.inf)
    is_low = (value <= padded[:, :-2]) & (value <= padded[:, 2:])
    order = np.argsort(np.where(is_low, value, np.inf), axis=1)[:, :SCANNED]
    return np.log(SCAN)[order].T


def _interval(r: Floats, fall: Floats) -> Interval:
    """Return where the deviance crosses CHI2 on either side of its least value."""
    inside = np.flatnonzero(fall < CHI2)
    first, last = int(inside[0]), int(inside[-1])

    def cross(out: int, within: int) -> float:
        share = (CHI2 - fall[within]) / (fall[out] - fall[within])
        return float(np.exp(np.log(r[within]) + share * np.log(r[out] / r[within])))

    low = 0.0 if first == 0 else cross(first - 1, first)
    high = np.inf if last == len(r) - 1 else cross(last + 1, last)
    return low, float(high)
