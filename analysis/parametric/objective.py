"""What the surface's parameters minimise: a weighted sum over runs of the chosen cost."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.config import Loss
from analysis.parametric import newton, surface
from analysis.parametric.forms import Formula
from analysis.parametric.newton import Local, Rows, Solved
from analysis.parametric.surface import Phi, Points

Floats = NDArray[np.float64]

SINGULAR = 1e16
"""Condition number that stands for all above it: float64 cannot tell them apart."""

LAD_DELTAS = (1e-3, 1e-5, 1e-7, 1e-9)
"""Huber thresholds on the way to absolute deviations."""


@dataclass(frozen=True)
class Objective:
    """One form's cost on one set of runs, under one or many weightings of them."""

    formula: Formula
    points: Points
    counts: Floats
    """Shape (S, R), or (1, R) for all surfaces. How often each run counts."""
    phi: Phi

    @property
    def floor(self) -> float:
        """Fall of the value that is rounding."""
        return 1e-24 * float(self.counts.sum(axis=1).max())

    def at(self, theta: Floats, rows: Rows) -> Local:
        """Expand surfaces `rows` at theta."""
        counts = self.counts if len(self.counts) == 1 else self.counts[rows]
        return self.formula.expand(theta, self.points, counts, self.phi)


def cost(loss: Loss, delta: float) -> Phi:
    """Return the cost of a residual; for lad, a Huber so sharp that its optimum is lad's."""
    if loss is Loss.mse:
        return surface.squares_in_nats
    return surface.huber(delta if loss is Loss.huber else LAD_DELTAS[-1])


def descend(
    theta: Floats, formula: Formula, points: Points, counts: Floats, loss: Loss, delta: float
) -> Solved:
    """Minimise the chosen cost; absolute deviations are the limit of ever sharper Huber costs.

    Args:
        theta: Shape (S, P). Starts.
        formula: The form.
        points: The runs.
        counts: Shape (S, R) or (1, R). How often each run counts.
        loss: Cost of a residual.
        delta: For huber, nats of log loss.

    Returns:
        The end of every path; values are sums of Huber terms, of absolute log residuals, or of
        squares relative to the mean log loss that `points` were centred by.
    """
    if loss is not Loss.lad:
        return newton.solve(theta, Objective(formula, points, counts, cost(loss, delta)))
    for sharp in LAD_DELTAS:
        solved = newton.solve(theta, Objective(formula, points, counts, surface.huber(sharp)))
        theta = solved.theta
    # Outside delta a Huber term is delta * (|r| - delta / 2).
    value = solved.value / LAD_DELTAS[-1] + 0.5 * LAD_DELTAS[-1] * counts.sum(axis=1)
    return Solved(theta, value, solved.converged)


def lower(one: Solved, other: Solved) -> Solved:
    """Take the lower converged end of each pair."""
    first = np.where(one.converged, one.value, np.inf)
    second = np.where(other.converged, other.value, np.inf)
    take = second < first
    return Solved(
        np.where(take[:, None], other.theta, one.theta),
        np.where(take, other.value, one.value),
        one.converged | other.converged,
    )


def certificate(theta: Floats, problem: Objective) -> tuple[float, float]:
    """Return how far theta, shape (P,), is from stationary, and how well it is determined.

    The projected gradient is the length of the runs' scores along the surface's tangent space,
    as a share of their whole length: the cosine that MINPACK's gtol bounds. It is 0 at an
    optimum, at most 1, and the same in any units, weights or parametrisation. The condition number
    is that of the Gauss-Newton matrix in centred logs, at most SINGULAR.
    """
    local = problem.at(theta[None], np.arange(1))
    points = problem.points
    prediction = problem.formula.log_prediction(theta[None], points.x, points.y)
    slope = problem.phi(prediction, points.log_loss)[1]
    # Scores below rounding of the losses themselves have no direction.
    size = np.sqrt((problem.counts * slope * slope).sum())
    rounding = 1e-12 * np.sqrt(problem.counts.sum())
    # A parameter without effect is a coefficient at its bound, 0: the gradient is projected off it.
    acts = newton.acting(local.metric[0], float(problem.counts.sum()))
    metric = local.metric[0][np.ix_(acts, acts)]
    along = newton.whitening(metric[None])[0] @ local.gradient[0][acts]
    values = np.linalg.eigvalsh(local.metric[0])
    condition = values[-1] / max(values[0], values[-1] / SINGULAR)
    return float(np.sqrt(along @ along) / max(size, rounding)), float(condition)
