"""Which further runs narrow the interval of a most for their cost, by the surface's curvature.

Near its optimum a fit's parameters have the covariance sigma**2 M**-1, where M is the sum over runs
of the outer products of d log L / d theta; the variance of a is g' M**-1 g with g = d a / d theta.
A run adds its own product to M wherever it is placed, before it is trained. All variances here are
in units of sigma**2, so only their ratios are used: the noise of one run cancels.
Shapes: R runs, P free parameters, K candidates.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.config import Form
from analysis.parametric.frontier import SIX_ND, CostLaw, Surfaces

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

FREE = {
    Form.chinchilla: ("E", "a", "b", "p", "q"),
    Form.kaplan: ("a", "b", "p", "k"),
    Form.kaplan_e: ("E", "a", "b", "p", "k"),
    Form.skaling: ("E", "a", "b", "p", "q", "k"),
}
"""Parameters of L = E + (A / N**p + B / D**q)**k that a form leaves free, E, A and B as logs."""

LEAST_SHARE = 1e-6
"""An E below this share of every loss is not estimated from them."""

RIDGE = 1e-12
"""Share of the information's diagonal added to it, so that a flat direction is only wide."""

PRICES = np.concatenate([[0.0], np.geomspace(0.03, 300.0, 28)])
"""Log variance that a whole budget must save; tried in turn, the best plan is kept."""


@dataclass(frozen=True)
class Information:
    """What the runs so far say about a surface's parameters."""

    surface: Surfaces
    form: Form
    cost: CostLaw
    centers: tuple[float, float]
    """Log N and log D at which A and B are measured: near the runs, M is well conditioned."""
    free: tuple[str, ...]
    matrix: Floats
    """Shape (P, P)."""
    slope: Floats
    """Shape (P,). d a / d theta."""

    def rows(self, n_params: Floats, tokens: Floats) -> Floats:
        """Return d log L / d theta, shape (R, P)."""
        return _gradients(self.surface, n_params, tokens, self.centers)[:, _columns(self.free)]

    def add(self, n_params: Floats, tokens: Floats) -> "Information":
        """Return the information with further runs."""
        rows = self.rows(n_params, tokens)
        return Information(
            self.surface,
            self.form,
            self.cost,
            self.centers,
            self.free,
            self.matrix + rows.T @ rows,
            self.slope,
        )

    @property
    def covariance(self) -> Floats:
        """M**-1, shape (P, P)."""
        scale = np.sqrt(np.diag(self.matrix))
        scaled = self.matrix / np.outer(scale, scale) + RIDGE * np.eye(len(scale))
        return np.asarray(np.linalg.inv(scaled) / np.outer(scale, scale), dtype=np.float64)

    @property
    def variance(self) -> float:
        """Of a, in units of the variance of one log loss."""
        return float(self.slope @ self.covariance @ self.slope)


@dataclass(frozen=True)
class Candidates:
    """Runs that could be made, shape (K,) each."""

    n_params: Floats
    tokens: Floats
    price: Floats
    """Cost of each, FLOPs or seconds."""


@dataclass(frozen=True)
class Plan:
    """Runs in the order of their worth."""

    chosen: tuple[int, ...]
    """Indices of the candidates."""
    variances: tuple[float, ...]
    """Of a after each, in the unit of Information.variance."""
    price: float


def inform(
    surface: Surfaces, form: Form, n_params: Floats, tokens: Floats, cost: CostLaw = SIX_ND
) -> Information:
    """Return what a design says about a of a surface.

    Args:
        surface: The fitted surface, S = 1.
        form: Its formula, which says what is free.
        n_params: Shape (R,).
        tokens: Shape (R,).
        cost: How C counts, which a depends on.

    Source:
        Atkinson, Donev & Tobias 2007, Optimum Experimental Designs, with SAS, sections 10.2
        (c-optimality) and 17.2 (local linearisation of nonlinear models).
    """
    centers = (float(np.log(n_params).mean()), float(np.log(tokens).mean()))
    rows = _gradients(surface, n_params, tokens, centers)
    free = tuple(
        name for name in FREE[form] if name != "E" or float(rows[:, 0].max()) > LEAST_SHARE
    )
    used = rows[:, _columns(free)]
    p, q, m = float(surface.p[0]), float(surface.q[0]), cost.power
    total = (p + m * q) ** 2
    slope = {"p": -q / total, "q": p / total}  # of a = q / (p + m q)
    return Information(
        surface,
        form,
        cost,
        centers,
        free,
        used.T @ used,
        np.array([slope.get(name, 0.0) for name in free]),
    )


_ALL = ("E", "a", "b", "p", "q", "k")


def _columns(free: tuple[str, ...]) -> list[int]:
    return [_ALL.index(name) for name in free]


def _gradients(
    surface: Surfaces, n_params: Floats, tokens: Floats, centers: tuple[float, float]
) -> Floats:
    """Return d log L by (log E, log A, log B, p, q, k), A and B at the centres, shape (R, 6)."""
    x, y = np.log(n_params), np.log(tokens)
    log_u = surface.log_inner(x, y)[0]
    joint = np.exp(surface.k[0] * log_u)
    loss = surface.floor[0] + joint
    by_u = surface.k[0] * joint / loss
    by_a = by_u * np.exp(surface.log_a[0] - surface.p[0] * x - log_u)
    by_b = by_u * np.exp(surface.log_b[0] - surface.q[0] * y - log_u)
    columns = (
        surface.floor[0] / loss,
        by_a,
        by_b,
        -(x - centers[0]) * by_a,
        -(y - centers[1]) * by_b,
        joint * log_u / loss,
    )
    return np.stack(columns, axis=1)


def choose(
    information: Information, candidates: Candidates, *, budget: float, at_most: int
) -> Plan:
    """Choose runs that lower the variance of a most within a budget.

    Runs are added one at a time, each the one that lowers log variance most less a price on its
    cost; the price that leaves the least variance within the budget is searched. Each candidate is
    taken once, so that neighbours also show whether the surface's shape is right.

    Args:
        information: What there is.
        candidates: What could be run.
        budget: Of the candidates' price, for all of them.
        at_most: Runs.

    Returns:
        The plan; empty when no candidate fits the budget.
    """
    plans = [_greedy(information, candidates, price / budget, budget, at_most) for price in PRICES]
    return min(plans, key=lambda plan: plan.variances[-1] if plan.chosen else np.inf)


def _greedy(
    information: Information, candidates: Candidates, price: float, budget: float, at_most: int
) -> Plan:
    rows = information.rows(candidates.n_params, candidates.tokens)
    covariance, slope = information.covariance, information.slope
    free = np.ones(len(rows), dtype=bool)
    left, chosen, variances = budget, [], []
    for _ in range(at_most):
        spread = rows @ covariance
        variance = float(slope @ covariance @ slope)
        gain = (spread @ slope) ** 2 / (1.0 + (spread * rows).sum(axis=1))
        worth = -np.log1p(-np.minimum(gain / variance, 1 - 1e-12)) - price * candidates.price
        worth[~free | (candidates.price > left)] = -np.inf
        best = int(np.argmax(worth))
        if worth[best] <= 0:
            break
        # Sherman-Morrison: the covariance once this run is in.
        step = spread[best]
        covariance = covariance - np.outer(step, step) / (1.0 + float(step @ rows[best]))
        free[best] = False
        left -= float(candidates.price[best])
        chosen.append(best)
        variances.append(float(slope @ covariance @ slope))
    return Plan(tuple(chosen), tuple(variances), budget - left)
