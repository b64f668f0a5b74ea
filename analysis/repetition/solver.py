"""Minimise the repetition objective from many starts at once, with any of its parameters held.

Unlike newton.py's, these problems have a box: R_D and R_N often belong at infinity, where a step
has no end.

Shapes as in effective.py: S fits, R runs, 7 parameters.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.parametric.newton import EIGENVALUE_FLOOR, Local, Rows, whitening
from analysis.repetition.effective import HIGH, LOW, RepeatedPoints
from analysis.repetition.log_surface import log_surface

Floats = NDArray[np.float64]

DELTAS = (1.0, 1e-1, 1e-2)
"""Huber thresholds on the way to the one asked for: least squares of logs had one basin wherever it
was tried, and crosses flat ridges on which sharp costs crawl."""

ELEMENTS = 500_000
"""Fits x runs solved at once; bounds the memory to about half a GB."""

MAX_STEPS = 200

CONVERGED = 1e-11
"""A fit has converged when a full Newton step would lower its objective by less than this share."""

FLOOR = 1e-24
"""Squared nats a run by which the objective can fall and that be rounding."""


@dataclass(frozen=True)
class Task:
    """What is fitted, and how."""

    points: RepeatedPoints
    delta: float
    """Nats of log loss at which Huber terms turn from squares to absolute values."""
    held: tuple[int, ...] = ()
    """Columns of q that keep their starting values."""


@dataclass(frozen=True)
class Ends:
    """Where the solver stopped."""

    q: Floats
    value: Floats
    converged: NDArray[np.bool_]


def expand(q: Floats, points: RepeatedPoints, weights: Floats, delta: float) -> Local:
    """Return the weighted sum of Huber terms of log residuals, with exact derivatives at each q."""
    surface = log_surface(q, points)
    slopes = surface.slopes
    residual = surface.prediction - points.log_loss
    slope = np.clip(residual, -delta, delta)
    pull, across = weights * slope, slopes.transpose(0, 2, 1)
    inside = (weights * (slope == residual))[:, None]
    return Local(
        value=(pull * (residual - 0.5 * slope)).sum(axis=1),
        gradient=(pull[:, None] @ across)[:, 0],
        hessian=(slopes * inside) @ across + surface.bend(pull, slopes),
        metric=(slopes * weights[:, None]) @ across,
    )


def objective(q: Floats, task: Task) -> Floats:
    """Return the sum of Huber terms of log residuals, shape (S,)."""
    size = max(1, ELEMENTS // len(task.points.x))
    values = []
    for first in range(0, len(q), size):
        residual = (
            log_surface(q[first : first + size], task.points).prediction - task.points.log_loss
        )
        slope = np.clip(residual, -task.delta, task.delta)
        values.append((slope * (residual - 0.5 * slope)).sum(axis=1))
    return np.concatenate(values)


def descend(
    q: Floats,
    task: Task,
    weights: Floats | None = None,
    *,
    through: tuple[float, ...] = DELTAS,
) -> Ends:
    """Minimise from every start.

    Args:
        q: Shape (S, 7). Starts.
        task: What is fitted.
        weights: Shape (S, R). How often each run counts; None is once.
        through: Larger thresholds that are solved first, each from the end of the one before.

    Returns:
        The end of every path, and whether it converged.
    """
    points, delta = task.points, task.delta
    weights = np.ones((1, len(points.x))) if weights is None else weights
    free = tuple(k for k in range(7) if k not in task.held)
    size = max(1, ELEMENTS // len(points.x))
    ends = []
    for first in range(0, len(q), size):
        part = q[first : first + size]
        rows = weights if len(weights) == 1 else weights[first : first + size]
        for threshold in (*(step for step in through if step > delta), delta):
            end = _descend(part, points, rows, threshold, free)
            part = end.q
        ends.append((end.q, end.value, end.converged))
    return Ends(*(np.concatenate(column) for column in zip(*ends, strict=True)))


def _descend(
    q: Floats, points: RepeatedPoints, weights: Floats, delta: float, free: tuple[int, ...]
) -> Ends:
    """Minimise one batch at one threshold."""
    q = np.clip(q, LOW, HIGH)
    now = expand(q, points, weights, delta)
    damping = np.full(len(q), 1e-3)
    converged = np.zeros(len(q), dtype=bool)
    active = np.arange(len(q))
    floor = FLOOR * float(weights.sum(axis=1).max())
    fixed = ~np.isin(np.arange(7), free)
    for _ in range(MAX_STEPS):
        step, decrement = _newton(q, now, active, damping[active], fixed)
        done = decrement <= CONVERGED * now.value[active] + floor
        converged[active[done]] = True
        active, step = active[~done], step[~done]
        if len(active) == 0:
            break
        rows = weights if len(weights) == 1 else weights[active]
        trial = np.clip(q[active] + step, LOW, HIGH)
        there = expand(trial, points, rows, delta)
        better = there.value < now.value[active]
        damping[active] *= np.where(better, 0.2, 8.0)
        to = active[better]
        q[to] = trial[better]
        now.value[to], now.gradient[to] = there.value[better], there.gradient[better]
        now.hessian[to], now.metric[to] = there.hessian[better], there.metric[better]
        active = active[damping[active] < 1e12]
    return Ends(q, now.value, converged)


def _newton(
    q: Floats, now: Local, rows: Rows, damping: Floats, fixed: NDArray[np.bool_]
) -> tuple[Floats, Floats]:
    """Return damped steps, and the fall of the undamped ones.

    Coordinates at a side of the box that would leave it downhill do not move.
    """
    frozen = fixed | leaving(q[rows], now.gradient[rows])
    still = frozen[:, :, None] | frozen[:, None, :]
    unruler = whitening(np.where(still, np.eye(7), now.metric[rows]))
    hessian = np.where(still, 0.0, now.hessian[rows])
    pull = np.where(frozen, 0.0, now.gradient[rows])
    values, vectors = np.linalg.eigh(unruler @ hessian @ unruler.transpose(0, 2, 1))
    along = np.einsum("sji,sjk,sk->si", vectors, unruler, pull)
    size = np.maximum(np.abs(values), EIGENVALUE_FLOOR)
    step = np.einsum("sji,sjk,sk->si", unruler, vectors, -along / (size + damping[:, None]))
    return np.where(frozen, 0.0, step), 0.5 * (along * along / size).sum(axis=1)


def leaving(q: Floats, gradient: Floats) -> NDArray[np.bool_]:
    """Mark coordinates at a side of the box that would leave it downhill."""
    return ((q <= LOW) & (gradient > 0)) | ((q >= HIGH) & (gradient < 0))
