"""Newton's method for many small problems at once, damped in each problem's own metric.

A problem gives its value, exact gradient and Hessian, and a positive semi-definite metric; what it
models is its own business. Everything is batched over the first axis.
Shapes: S problems (starts, resamples, points of a profile), P parameters.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Rows = NDArray[np.intp]

MAX_STEPS = 1000
"""From starts that may be poor; 20 are usual."""
EIGENVALUE_FLOOR = 1e-7
"""Least curvature believed, as a share of the metric's."""
NO_EFFECT = 1e-6
"""Rms change of log loss, by a change of one in the log of a coefficient, that is none."""
RIDGE = 1e-12
"""Added to the metric's correlation matrix: above rounding, below any curvature that matters."""


@dataclass
class Local:
    """Value and derivatives at each problem's point."""

    value: Floats
    gradient: Floats
    hessian: Floats
    metric: Floats
    """Gauss-Newton matrix of squared log residuals: the scale-free ruler for steps."""


class Problem(Protocol):
    """What can be minimised."""

    @property
    def floor(self) -> float:
        """Fall of the value that is rounding, whatever the value."""

    def at(self, theta: Floats, rows: Rows) -> Local:
        """Expand problems `rows` at theta, shape (rows, P)."""


@dataclass(frozen=True)
class Solved:
    """Where the solver stopped."""

    theta: Floats
    value: Floats
    converged: Mask


def solve(theta: Floats, problem: Problem, max_steps: int = MAX_STEPS) -> Solved:
    """Minimise from every start.

    The Hessian is exact and indefinite where the cost is flat, so eigenvalues are taken by size and
    damping grows until the value falls. A problem has converged when a full Newton step would
    lower its value by less than one part in 1e13. A start at which nothing is finite stays there,
    not converged.

    Args:
        theta: Shape (S, P). Starts.
        problem: What is minimised.
        max_steps: Steps after which a path is given up.

    Returns:
        The end of every path, and whether it converged.
    """
    with np.errstate(all="ignore"):  # a step that overflows is not finite, and so is not taken
        return _solve(theta.copy(), problem, max_steps)


def _solve(theta: Floats, problem: Problem, max_steps: int) -> Solved:
    now = problem.at(theta, np.arange(len(theta)))
    damping = np.full(len(theta), 1e-3)
    converged = np.zeros(len(theta), dtype=bool)
    now.value = np.where(_finite(now), now.value, np.inf)
    active = np.flatnonzero(np.isfinite(now.value))
    for _ in range(max_steps):
        if len(active) == 0:
            break
        step, gain, decrement = _newton(now, active, damping[active])
        done = decrement <= 1e-13 * now.value[active] + problem.floor
        converged[active[done]] = True
        theta[active[done]] += step[done]  # the last Newton step doubles the digits at no cost
        active, step, gain = active[~done], step[~done], gain[~done]
        if len(active) == 0:
            break
        trial = problem.at(theta[active] + step, active)
        fall = now.value[active] - trial.value
        better = (fall > 0) & _finite(trial)
        ratio = np.where(better, fall / gain, -1.0)
        damping[active] *= np.where(ratio > 0.75, 0.1, np.where(ratio < 0.25, 4.0, 1.0))
        stuck = ~better & (np.abs(fall) <= 1e-14 * now.value[active]) & (damping[active] > 1e4)
        _accept(now, theta, active[better], trial, better, step)
        active = active[~(stuck | (damping[active] > 1e14))]
    return Solved(theta, now.value, converged)


def _finite(local: Local) -> Mask:
    """Return which problems have finite value and derivatives."""
    matrices = np.isfinite(local.hessian) & np.isfinite(local.metric)
    vectors = np.isfinite(local.gradient).all(axis=1)
    return np.asarray(np.isfinite(local.value) & vectors & matrices.all(axis=(1, 2)))


def _accept(now: Local, theta: Floats, to: Rows, trial: Local, rows: Mask, step: Floats) -> None:
    theta[to] += step[rows]
    now.value[to], now.gradient[to] = trial.value[rows], trial.gradient[rows]
    now.hessian[to], now.metric[to] = trial.hessian[rows], trial.metric[rows]


def _newton(now: Local, rows: Rows, damping: Floats) -> tuple[Floats, Floats, Floats]:
    """Return damped steps, the fall each predicts, and the fall of the undamped step."""
    unruler = whitening(now.metric[rows])
    white = unruler @ now.hessian[rows] @ unruler.transpose(0, 2, 1)
    values, vectors = np.linalg.eigh(0.5 * (white + white.transpose(0, 2, 1)))
    pull = np.einsum("sji,sjk,sk->si", vectors, unruler, now.gradient[rows])
    size = np.maximum(np.abs(values), EIGENVALUE_FLOOR)
    move = -pull / (size + damping[:, None])
    step = np.einsum("sji,sjk,sk->si", unruler, vectors, move)
    gain = -(move * pull).sum(axis=1) - 0.5 * (values * move * move).sum(axis=1)
    return step, gain, 0.5 * (pull * pull / size).sum(axis=1)


def whitening(metric: Floats) -> Floats:
    """Return matrices W with W metric W' = 1, shape (S, P, P).

    The metric is brought to a unit diagonal first, so that no choice of units makes it singular.
    """
    diagonal = np.einsum("sii->si", metric)
    widest = diagonal.max(axis=1, keepdims=True)
    scale = 1.0 / np.sqrt(diagonal + 1e-30 * widest + 1e-300)
    correlation = metric * scale[:, :, None] * scale[:, None, :]
    ruler = _cholesky(correlation, RIDGE)
    return np.asarray(np.linalg.inv(ruler) * scale[:, None, :])


def _cholesky(correlation: Floats, ridge: float) -> Floats:
    """Factor matrices of unit diagonal; those that rounding left indefinite get a wider ridge."""
    try:
        return np.asarray(np.linalg.cholesky(correlation + ridge * np.eye(correlation.shape[1])))
    except np.linalg.LinAlgError:
        return _cholesky(correlation, 10.0 * ridge)


def acting(metric: Floats, weight: float) -> Mask:
    """Return which parameters of one problem, shape (P,), move its predictions at all.

    Args:
        metric: Shape (P, P).
        weight: Sum of the weights in it.
    """
    return np.asarray(np.diag(metric) > NO_EFFECT**2 * weight)
