"""The surface log L = log(E + A/N**alpha + B/D**beta): costs of a residual, objective, derivatives.

Parameters are theta = (log E, log A', log B', alpha, beta), with A' and B' at the mean of log N and
log D, which takes the near-singularity out of (A, alpha) and (B, beta). Everything is batched over
the first axis: many starts of one fit, or one start of many resamples, are the same call.
Shapes: S surfaces (starts or resamples), R runs, 5 parameters.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.parametric.newton import Local

Floats = NDArray[np.float64]
Phi = Callable[[Floats, Floats], tuple[Floats, Floats, Floats]]
"""(log prediction, log loss) -> cost of each run and its two derivatives by the log prediction."""


@dataclass(frozen=True)
class Points:
    """What is fitted: centred log N and log D, and log loss, each shape (R,)."""

    x: Floats
    y: Floats
    log_loss: Floats


def huber(delta: float) -> Phi:
    """Return the Huber cost of log residuals: squares inside delta, absolute values outside."""

    def phi(prediction: Floats, log_loss: Floats) -> tuple[Floats, Floats, Floats]:
        residual = prediction - log_loss
        slope = np.clip(residual, -delta, delta)
        return slope * (residual - 0.5 * slope), slope, (slope == residual).astype(np.float64)

    return phi


def squares_in_nats(prediction: Floats, log_loss: Floats) -> tuple[Floats, Floats, Floats]:
    """Return the squared error in nats, (L_predicted - L)**2."""
    predicted = np.exp(prediction)
    error = predicted - np.exp(log_loss)
    slope = 2.0 * error * predicted
    return error * error, slope, 2.0 * predicted * predicted + slope


def log_prediction(theta: Floats, x: Floats, y: Floats) -> Floats:
    """Return log L for each surface and point, shape (S, R)."""
    return _shares(theta, x, y)[0]


def _shares(theta: Floats, x: Floats, y: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """Return log L and the shares of E, of A/N**alpha and of B/D**beta in L."""
    e, a, b, alpha, beta = (column[:, None] for column in theta.T)
    u_a, u_b = a - alpha * x, b - beta * y
    top = np.maximum(np.maximum(u_a, u_b), e)
    p_e, p_a, p_b = np.exp(e - top), np.exp(u_a - top), np.exp(u_b - top)
    total = p_e + p_a + p_b
    return top + np.log(total), p_e / total, p_a / total, p_b / total


def expand(theta: Floats, points: Points, weights: Floats, phi: Phi) -> Local:
    """Return the weighted objective with exact gradient and Hessian at each surface.

    With u = (log E, a - alpha x, b - beta y) and shares p, the gradient of log L is M'p and its
    Hessian M'(diag p - p p')M, where M = du/dtheta has entries 1, -x and -y.
    """
    prediction, p_e, p_a, p_b = _shares(theta, points.x, points.y)
    cost, slope, curve = phi(prediction, points.log_loss)
    pull = weights * slope
    moments = _Moments.of(points)
    pull_e, pull_a, pull_b = pull * p_e, pull * p_a, pull * p_b
    by_a, by_b = pull_a @ moments.x, pull_b @ moments.y
    gradient = np.stack(
        [pull_e.sum(axis=1), by_a[:, 0], by_b[:, 0], by_a[:, 1], by_b[:, 1]], axis=1
    )
    hessian = _outer(weights * curve - pull, p_e, p_a, p_b, moments)
    hessian[:, 0, 0] += gradient[:, 0]
    _add_block(hessian, (1, 3), by_a)
    _add_block(hessian, (2, 4), by_b)
    metric = _outer(weights, p_e, p_a, p_b, moments)
    return Local((weights * cost).sum(axis=1), gradient, hessian, metric)


@dataclass(frozen=True)
class _Moments:
    """Columns 1, -x, x**2; 1, -y, y**2; 1, -x, -y, xy."""

    x: Floats
    y: Floats
    xy: Floats

    @staticmethod
    def of(points: Points) -> "_Moments":
        x, y, one = points.x, points.y, np.ones_like(points.x)
        return _Moments(
            np.stack([one, -x, x * x], axis=1),
            np.stack([one, -y, y * y], axis=1),
            np.stack([one, -x, -y, x * y], axis=1),
        )


def _add_block(matrix: Floats, at: tuple[int, int], sums: Floats) -> None:
    """Add [[s0, s1], [s1, s2]] to the rows and columns `at` of each matrix."""
    i, j = at
    matrix[:, i, i] += sums[:, 0]
    matrix[:, i, j] += sums[:, 1]
    matrix[:, j, i] += sums[:, 1]
    matrix[:, j, j] += sums[:, 2]


def _outer(weights: Floats, p_e: Floats, p_a: Floats, p_b: Floats, moments: _Moments) -> Floats:
    """Return the weighted sum of outer products of the gradient of log L, shape (S, 5, 5)."""
    w_e, w_a, w_b = weights * p_e, weights * p_a, weights * p_b
    out = np.zeros((len(p_e), 5, 5))
    out[:, 0, 0] = (w_e * p_e).sum(axis=1)
    e_a, e_b = (w_e * p_a) @ moments.x[:, :2], (w_e * p_b) @ moments.y[:, :2]
    out[:, 0, [1, 3]], out[:, 0, [2, 4]] = e_a, e_b
    out[:, [1, 3], 0], out[:, [2, 4], 0] = e_a, e_b
    _add_block(out, (1, 3), (w_a * p_a) @ moments.x)
    _add_block(out, (2, 4), (w_b * p_b) @ moments.y)
    cross = (w_a * p_b) @ moments.xy
    for column, (i, j) in zip(cross.T, ((1, 2), (3, 2), (1, 4), (3, 4)), strict=True):
        out[:, i, j], out[:, j, i] = column, column
    return out
