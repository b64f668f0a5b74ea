"""The formulas of L(N, D), all of them cuts through one: L = E + T, with T to the power k inside.

With u_a = a - alpha log N and u_b = b - beta log D, log T = k log(exp(u_a / k) + exp(u_b / k)).
k = 1 is Hoffmann's sum of two powers; k = beta is Kaplan's joint form, whose D enters to the power
-1 inside; k free is Skaling's. A formula's free parameters theta reach
full = (log E, a, b, alpha, beta, k) by an affine map, so derivatives are taken once, for all.

alpha and beta are the loss's exponents where the other term is negligible. The outer power k does
not move the minimum at fixed N D, so a = beta / (alpha + beta) whatever the form.
Shapes: S surfaces, R runs, P free parameters.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.config import Form
from analysis.parametric import surface
from analysis.parametric.newton import Local
from analysis.parametric.surface import Phi, Points

Floats = NDArray[np.float64]
Centers = tuple[float, float, float]
"""Means of log N, log D and log loss, which every theta is relative to."""

FULL = ("e", "a", "b", "alpha", "beta", "k")


@dataclass(frozen=True)
class Formula:
    """One form of the surface."""

    form: Form
    equation: str
    names: tuple[str, ...]
    """Its parameters as published, then a; the columns of its draws."""
    span: Floats
    """Shape (6, P)."""
    base: Floats
    """Shape (6,). full = span @ theta + base."""

    @property
    def n_free(self) -> int:
        """Parameters that are fitted."""
        return int(self.span.shape[1])

    def full(self, theta: Floats) -> Floats:
        """Return (log E, a, b, alpha, beta, k) of each theta, shape (S, 6)."""
        return np.asarray(theta @ self.span.T + self.base)

    def log_prediction(self, theta: Floats, x: Floats, y: Floats) -> Floats:
        """Return log L, shape (S, R), at centred log N and log D."""
        if self.form is Form.chinchilla:
            return surface.log_prediction(theta, x, y)
        return _joint(self.full(theta), x, y).prediction

    def expand(self, theta: Floats, points: Points, counts: Floats, phi: Phi) -> Local:
        """Return the weighted objective with exact gradient and Hessian at each surface."""
        if self.form is Form.chinchilla:
            return surface.expand(theta, points, counts, phi)
        full = self.full(theta)
        return project(_expand_full(full, points, counts, phi), self.span[None])

    def with_floor(self, theta: Floats, log_e: float) -> Floats:
        """Return theta with E raised to log_e: at 0, nothing tells a descent that it could grow."""
        out = theta.copy()
        columns = np.flatnonzero(self.span[0])
        out[:, columns] = np.maximum(out[:, columns], log_e)
        return out

    def named(self, theta: Floats, centers: Centers) -> Floats:
        """Return the published parameters, shape (S, names); inf where one overflows."""
        return np.stack(list(_published(self.form, uncentred(self.full(theta), centers))), axis=1)


def project(local: Local, span: Floats) -> Local:
    """Take derivatives along the columns of span, shape (S or 1, parameters, P)."""
    across = span.transpose(0, 2, 1)
    gradient = (across @ local.gradient[:, :, None])[:, :, 0]
    return Local(local.value, gradient, across @ local.hessian @ span, across @ local.metric @ span)


def uncentred(full: Floats, centers: Centers) -> Floats:
    """Move full parameters from centred logs to the units of N, D and L."""
    out = full.copy()
    out[:, 0] += centers[2]
    out[:, 1] += full[:, 3] * centers[0] + centers[2]
    out[:, 2] += full[:, 4] * centers[1] + centers[2]
    return out


def _published(form: Form, full: Floats) -> tuple[Floats, ...]:
    """Return the columns of the form's names from uncentred full parameters."""
    e, a, b, alpha, beta, k = full.T
    exponent = beta / (alpha + beta)
    with np.errstate(over="ignore"):
        if form is Form.chinchilla:
            return np.exp(e), np.exp(a), np.exp(b), alpha, beta, exponent
        if form is Form.skaling:
            ratio = np.exp((b - a) / k)
            return np.exp(e), np.exp(a), ratio, alpha / k, beta / k, k, exponent
        joint = np.exp(a / alpha), np.exp(b / beta), alpha, beta, exponent
        return joint if form is Form.kaplan else (np.exp(e), *joint)


@dataclass(frozen=True)
class _Joint:
    """A surface at its points: log L, the share of E in L, and the joint term's derivatives."""

    prediction: Floats
    p_e: Floats
    p_t: Floats
    s_a: Floats
    s_b: Floats
    z: Floats
    """Log odds of s_a."""
    entropy: Floats
    """Of (s_a, s_b): the derivative of log T by k."""


def _joint(full: Floats, x: Floats, y: Floats) -> _Joint:
    e, a, b, alpha, beta, k = (column[:, None] for column in full.T)
    u_a, u_b = a - alpha * x, b - beta * y
    z = (u_a - u_b) / np.where(k > 0, k, np.nan)
    log_a, log_b = -np.logaddexp(0.0, -z), -np.logaddexp(0.0, z)
    log_t = np.maximum(u_a, u_b) - k * np.maximum(log_a, log_b)
    prediction = np.logaddexp(e, log_t)
    s_a, s_b = np.exp(log_a), np.exp(log_b)
    entropy = -(s_a * log_a + s_b * log_b)
    p_e, p_t = np.exp(e - prediction), np.exp(log_t - prediction)
    return _Joint(prediction, p_e, p_t, s_a, s_b, z, entropy)


def _expand_full(full: Floats, points: Points, counts: Floats, phi: Phi) -> Local:
    """Return value and derivatives by the six full parameters.

    With d the gradient of log T by (a, b, alpha, beta, k), the gradient of log L is
    (p_e, p_t d); its Hessian is p_e p_t (1, -d)(1, -d)' + p_t s_a s_b / k w w', where
    w = (1, -1, -x, y, -z).
    """
    at = _joint(full, points.x, points.y)
    x, y, k = points.x, points.y, full[:, 5, None]
    cost, slope, curve = phi(at.prediction, points.log_loss)
    pull, bend = counts * slope, counts * curve
    d = np.stack([at.s_a, at.s_b, -x * at.s_a, -y * at.s_b, at.entropy], axis=1)
    one = np.ones_like(at.s_a)
    w = np.stack([one, -one, -x * one, y * one, -at.z], axis=1)
    mixed = at.p_e * at.p_t
    gradient = np.empty((len(full), 6))
    gradient[:, 0] = (pull * at.p_e).sum(axis=1)
    gradient[:, 1:] = (d @ (pull * at.p_t)[:, :, None])[:, :, 0]
    hessian = _blocks(
        d,
        bend * at.p_e * at.p_e + pull * mixed,
        (bend - pull) * mixed,
        bend * at.p_t * at.p_t + pull * mixed,
    )
    hessian[:, 1:, 1:] += (w * (pull * at.p_t * at.s_a * at.s_b / k)[:, None]) @ w.transpose(
        0, 2, 1
    )
    metric = _blocks(d, counts * at.p_e * at.p_e, counts * mixed, counts * at.p_t * at.p_t)
    return Local((counts * cost).sum(axis=1), gradient, hessian, metric)


def _blocks(d: Floats, corner: Floats, edge: Floats, inner: Floats) -> Floats:
    """Sum [[corner, edge d'], [edge d, inner d d']] over runs, shape (S, 6, 6)."""
    out = np.empty((len(d), 6, 6))
    out[:, 0, 0] = corner.sum(axis=1)
    out[:, 0, 1:] = out[:, 1:, 0] = (d @ edge[:, :, None])[:, :, 0]
    out[:, 1:, 1:] = (d * inner[:, None]) @ d.transpose(0, 2, 1)
    return out


def _formula(
    form: Form, equation: str, names: tuple[str, ...], free: str, k_is: str | None
) -> Formula:
    """Build the affine map from the names of the free parameters and what k is."""
    columns = free.split()
    span = np.zeros((len(FULL), len(columns)))
    for column, name in enumerate(columns):
        span[FULL.index(name), column] = 1.0
        if name == k_is:
            span[FULL.index("k"), column] = 1.0
    base = np.zeros(len(FULL))
    if "e" not in columns:
        base[0] = -np.inf
    if "k" not in columns and k_is is None:
        base[5] = 1.0
    return Formula(form, equation, names, span, base)


FORMULAS = {
    Form.chinchilla: _formula(
        Form.chinchilla,
        "E + A / N**alpha + B / D**beta",
        ("E", "A", "B", "alpha", "beta", "a"),
        "e a b alpha beta",
        None,
    ),
    Form.kaplan: _formula(
        Form.kaplan,
        "((A / N)**(alpha / beta) + B / D)**beta",
        ("A", "B", "alpha", "beta", "a"),
        "a b alpha beta",
        "beta",
    ),
    Form.kaplan_e: _formula(
        Form.kaplan_e,
        "E + ((A / N)**(alpha / beta) + B / D)**beta",
        ("E", "A", "B", "alpha", "beta", "a"),
        "e a b alpha beta",
        "beta",
    ),
    Form.skaling: _formula(
        Form.skaling,
        "E + A (N**-alpha + R D**-beta)**k",
        ("E", "A", "R", "alpha", "beta", "k", "a"),
        "e a b alpha beta k",
        None,
    ),
}
"""Hoffmann et al. 2022 (arXiv:2203.15556) equation 10; Kaplan et al. 2020 (arXiv:2001.08361)
equation 1.5, without and with an irreducible loss; the joint form with a free outer power."""
