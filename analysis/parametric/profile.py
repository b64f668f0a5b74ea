"""Profile-likelihood intervals of a surface's parameters, and which of them the runs identify.

The profile of a parameter is the objective minimised over all others with that one held. Its 95 %
interval is where the profile is below a threshold; a side on which it never gets there within sane
bounds has no end, and the parameter is not identified. Every constraint used is linear in the free
parameters, so a held fit is the same problem with one parameter fewer.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from analysis.bootstrap import LEVEL
from analysis.config import Form, Loss
from analysis.parametric import newton, surface
from analysis.parametric.crossing import crossings
from analysis.parametric.forms import FULL, Centers, project
from analysis.parametric.identifiable import EXPONENTS, POWERS
from analysis.parametric.newton import Local, Rows
from analysis.parametric.objective import Objective, cost
from analysis.parametric.refits import REFIT_STEPS, Reference

Floats = NDArray[np.float64]

LEAST_E = 1e-6
"""E below this share of the least loss is no irreducible loss."""
LEAST_NOISE = 1e-9
"""Of a log loss. Runs without any, drawn from a formula, have residuals of rounding alone, about
which a profile is rounding too."""
LARGEST_LOG = 650.0
"""Logs beyond are no floating-point numbers."""
A_BOUNDS = (0.005, 0.995)
LOG_COEFFICIENT = 1.5
"""Bound of a coefficient's log as a share of the centre's: A / N**alpha moves little when A takes
this power of N and alpha grows by as much."""
LOG_JOINT = 10.0
"""The same for Kaplan's coefficients, which have the units of N and D."""


@dataclass(frozen=True)
class Profile:
    """One parameter's 95 % profile-likelihood interval."""

    low: float | None
    """None where the profile never rises to the threshold on this side."""
    high: float | None

    @property
    def identified(self) -> bool:
        """Whether the runs bound the parameter on both sides."""
        return self.low is not None and self.high is not None

    @property
    def is_open(self) -> bool:
        """Whether the runs bound the parameter on neither side."""
        return self.low is None and self.high is None

    def of(self, rising: Callable[[float], float]) -> "Profile":
        """Return the profile of a rising function of the parameter: its ends move with it."""
        low, high = (None if end is None else rising(end) for end in (self.low, self.high))
        return Profile(low, high)


@dataclass(frozen=True)
class Held:
    """A value as a constraint: level t is where (row + t turn) @ full = right + t shift."""

    name: str
    is_log: bool
    """Whether t is the value's logarithm."""
    row: Floats
    """Shape (6,), by forms.FULL."""
    turn: Floats
    right: float
    shift: float
    bounds: tuple[float, float]
    """Of t. Beyond them the value means nothing."""


@dataclass(frozen=True)
class _Pinned:
    """The objective with one linear constraint a surface: full theta = base + span @ theta."""

    objective: Objective
    base: Floats
    span: Floats

    @property
    def floor(self) -> float:
        """Fall of the value that is rounding."""
        return self.objective.floor

    def full(self, theta: Floats, rows: Rows) -> Floats:
        """Return all free parameters of the form."""
        return np.asarray(self.base[rows] + (self.span[rows] @ theta[:, :, None])[:, :, 0])

    def at(self, theta: Floats, rows: Rows) -> Local:
        """Expand along the directions that the constraint leaves."""
        return project(self.objective.at(self.full(theta, rows), rows), self.span[rows])


def profile_intervals(
    reference: Reference, theta: Floats, centers: Centers, clusters: int
) -> dict[str, Profile]:
    """Return the interval of every value of the form.

    Args:
        reference: The certified surface and its runs.
        theta: Shape (P,). Its optimum.
        centers: Means that theta is relative to.
        clusters: Independent runs; fewer than rows where several rows are one run's checkpoints.

    Source:
        For an M-estimator twice the objective's rise over its minimum is distributed as
        E[psi**2] / E[psi'] times chi-square with 1 degree of freedom (Ronchetti 1982; Heritier and
        Ronchetti 1994, section 3). Both means are taken over the runs, with n - p degrees of
        freedom and Student's quantile. Rows that rise and fall together carry the information
        of one, so the scale grows by rows per cluster: exact for identical rows, wide for others.
    """
    phi, scale, unit_sd = _scale(reference, theta)
    dependence = len(reference.points.x) / clusters
    objective = Objective(reference.formula, reference.points, np.ones((1, 1)), phi)
    held = held_values(reference, centers)
    quantile = float(stdtrit(max(clusters - len(theta), 1), 0.5 * (1 + LEVEL)))
    rise = _Rise(objective, theta, held, scale * dependence, reference.least_e)
    t, spread = rise.optimum()
    away = np.repeat([-1.0, 1.0], len(held))
    limits = np.array([item.bounds[0] for item in held] + [item.bounds[1] for item in held])
    step = away * quantile * unit_sd * np.sqrt(dependence) * spread
    ends = crossings(rise, t, step, limits, quantile)
    return {
        item.name: Profile(_end(item, ends[k]), _end(item, ends[len(held) + k]))
        for k, item in enumerate(held)
    }


def _end(item: Held, t: float) -> float | None:
    if not np.isfinite(t) or abs(t) > LARGEST_LOG:
        return None
    return float(np.exp(t)) if item.is_log else float(t)


def _scale(reference: Reference, theta: Floats) -> tuple[surface.Phi, float, float]:
    """Return the cost whose profile is taken, E[psi**2] / E[psi'], and the sd of theta's unit.

    The share of residuals inside delta is a noisy estimate of a density, so it is taken from a
    band at least as wide as a kernel's (Silverman's width); absolute deviations, whose optimum
    passes through as many runs as it has parameters, are profiled with the Huber cost of a fifth of
    their median, whose profile is smooth.
    """
    points, loss = reference.points, reference.loss
    residual = np.abs(reference.residuals)
    n, freedom = len(residual), max(len(residual) - len(theta), 1)
    if loss is Loss.mse:
        phi = cost(loss, reference.delta)
        squares = phi(points.log_loss + reference.residuals, points.log_loss)[0].sum() / freedom
        squares = max(float(squares), (10.0 * LEAST_NOISE) ** 2)
        return phi, 2.0 * squares, float(np.sqrt(squares))
    delta = reference.delta
    if loss is Loss.lad:
        delta = max(0.2 * float(np.median(residual)), 10.0 * LEAST_NOISE)
    phi = surface.huber(delta)
    psi_squared = float((np.minimum(residual, delta) ** 2).sum()) / freedom
    psi_squared = max(psi_squared, LEAST_NOISE**2)
    sd = 1.4826 * float(np.median(residual)) * np.sqrt(n / freedom)
    band = max(delta, 1.06 * sd * n**-0.2)
    inside = max(delta / band * float((residual <= band).mean()), 1.0 / n)
    return phi, psi_squared / inside, float(np.sqrt(psi_squared)) / inside


def held_values(reference: Reference, centers: Centers) -> list[Held]:
    """Return the constraint of each of the form's values."""
    by_n, by_d, by_loss = centers
    log_loss = reference.points.log_loss + by_loss
    form = reference.formula.form
    joint = form in (Form.kaplan, Form.kaplan_e)  # coefficients to the power of their exponents
    a_row, b_row = {"a": 1.0, "alpha": by_n}, {"b": 1.0, "beta": by_d}
    ratio = b_row | {name: -value for name, value in a_row.items()}
    inside = {"k": -1.0} if form is Form.skaling else {}  # exponents inside the power k
    reach = LOG_JOINT if joint else LOG_COEFFICIENT
    n_reach, d_reach = (reach * max(abs(center), 20.0) for center in (by_n, by_d))
    least_e = float(log_loss.min() + np.log(LEAST_E))
    by_name = {
        "E": ({"e": 1.0}, {}, -by_loss, (least_e, float(log_loss.max()))),
        "A": (a_row, {"alpha": -1.0} if joint else {}, -by_loss, (-n_reach, n_reach)),
        "B": (b_row, {"beta": -1.0} if joint else {}, -by_loss, (-d_reach, d_reach)),
        "R": (ratio, {"k": -1.0}, 0.0, (-d_reach, d_reach)),
        "alpha": ({"alpha": 1.0}, inside, 0.0, EXPONENTS),
        "beta": ({"beta": 1.0}, inside, 0.0, EXPONENTS),
        "k": ({"k": 1.0}, {}, 0.0, POWERS),
        "a": ({"beta": 1.0}, {"beta": -1.0, "alpha": -1.0}, 0.0, A_BOUNDS),
    }
    out = []
    for name in reference.formula.names:
        row, turn, right, bounds = by_name[name]
        # Where t does not turn the constraint it shifts it.
        shift = 0.0 if turn else 1.0
        is_log = name in ("E", "A", "B", "R")
        out.append(Held(name, is_log, _six(row), _six(turn), right, shift, bounds))
    return out


def _six(entries: dict[str, float]) -> Floats:
    return np.array([entries.get(name, 0.0) for name in FULL])


class _Rise:
    """How far the profile has risen at t, in standard errors: the root of its likelihood ratio."""

    def __init__(
        self, objective: Objective, optimum: Floats, held: list[Held], scale: float, least_e: float
    ) -> None:
        best = newton.solve(optimum[None], objective)
        self._objective, self._scale, self._least = objective, scale, float(best.value[0])
        self._least_e = least_e
        self._near = np.repeat(best.theta, 2 * len(held), axis=0)  # the held fit last found
        metric = objective.at(best.theta, np.arange(1)).metric[0]
        acts = newton.acting(metric, len(objective.points.x))
        whiten = newton.whitening(metric[np.ix_(acts, acts)][None])[0]
        # What has no effect at the optimum says nothing about the way from there.
        self._cover = np.eye(len(acts))
        self._cover[np.ix_(acts, acts)] = whiten.T @ whiten
        sides = [*held, *held]
        self._row = np.stack([item.row for item in sides])
        self._turn = np.stack([item.turn for item in sides])
        self._right = np.array([item.right for item in sides])
        self._shift = np.array([item.shift for item in sides])
        self._base = np.where(np.isfinite(objective.formula.base), objective.formula.base, 0.0)

    def optimum(self) -> tuple[Floats, Floats]:
        """Return every value's t at the optimum, and its standard error per unit of sd."""
        span = self._objective.formula.span
        full = self._near[0] @ span.T + self._base
        pace = self._shift - self._turn @ full
        t = (self._row @ full - self._right) / pace
        across = (self._row + t[:, None] * self._turn) @ span
        spread = np.sqrt(np.einsum("sp,pq,sq->s", across, self._cover, across))
        return t, spread / np.abs(pace)

    def __call__(self, t: Floats, sides: Rows) -> Floats:
        """Return the rise of `sides` at t; not finite where no held fit is."""
        normal = self._row[sides] + t[:, None] * self._turn[sides]
        right = self._right[sides] + t * self._shift[sides] - normal @ self._base
        normal = normal @ self._objective.formula.span
        cover, near = self._cover, self._near[sides]
        along = normal @ cover
        miss = right - (normal * near).sum(axis=1)
        near = near + along * (miss / (along * normal).sum(axis=1))[:, None]
        # The constraint is solved for the parameter that it bounds most tightly.
        pivot = (np.abs(normal) * np.sqrt(np.diag(cover))).argmax(axis=1)
        others = np.array([np.delete(np.arange(normal.shape[1]), p) for p in pivot])
        each = np.arange(len(sides))
        divisor = normal[each, pivot]
        base, span = np.zeros_like(normal), np.zeros((*normal.shape, normal.shape[1] - 1))
        base[each, pivot] = right / divisor
        for column, kept in enumerate(others.T):
            span[each, kept, column] = 1.0
            span[each, pivot, column] = -normal[each, kept] / divisor
        pinned = _Pinned(self._objective, base, span)
        near = self._objective.formula.with_floor(near, self._least_e)
        solved = newton.solve(np.take_along_axis(near, others, axis=1), pinned, REFIT_STEPS)
        self._near[sides] = pinned.full(solved.theta, each)
        rise = np.maximum(solved.value - self._least, 0.0)
        return np.asarray(np.sqrt(2.0 * rise / self._scale))
