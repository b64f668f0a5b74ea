"""log L = log(E + A/N'**alpha + B/D'**beta) at each run, with exact first and second derivatives.

With terms u = (log E, a - alpha n, b - beta d), n = log N' and d = log D', and shares p of each in
L, the gradient of log L is the mean of the terms' gradients under p, and its Hessian their
covariance under p plus the mean of the terms' Hessians. n depends on A, B, alpha and beta through
m = log U_N, the size for which the unique tokens are compute-optimal.
Shapes: S fits, R runs, 7 parameters (effective.py).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.repetition.effective import R_D, R_N, Growth, RepeatedPoints, grow

Floats = NDArray[np.float64]

A, B, ALPHA, BETA = 1, 2, 3, 4
"""Columns of q."""


@dataclass(frozen=True)
class LogSurface:
    """log L at each run of each fit, and what its derivatives are made of."""

    prediction: Floats
    """Shape (S, R)."""
    shares: tuple[Floats, Floats, Floats]
    """Of E, A/N'**alpha and B/D'**beta in L."""
    by_a: Floats
    """Shape (S, 7, R). Gradient of a - alpha n; that of log E is 1 in its own column."""
    by_b: Floats
    """Shape (S, 7, R). Gradient of b - beta d."""
    m_slopes: Floats
    """Shape (S, 4, R). Of m by a, b, alpha and beta."""
    m_bends: tuple[Floats, Floats, Floats, Floats]
    """Of m by a and alpha (less that by b and alpha), alpha twice, alpha and beta, beta twice."""
    n: Growth
    """Of n = m + f(x - m, log R_N); zero where the run has no excess parameters."""
    d: Growth
    """Of d = z + f(y - z, log R_D)."""
    alpha: Floats
    beta: Floats

    @property
    def slopes(self) -> Floats:
        """Gradient of log L, shape (S, 7, R)."""
        p_e, p_a, p_b = (share[:, None] for share in self.shares)
        out = p_a * self.by_a + p_b * self.by_b
        out[:, :1] += p_e
        return out

    def bend(self, pull: Floats, slopes: Floats) -> Floats:
        """Return the Hessian of log L summed over runs with weights `pull`, shape (S, 7, 7)."""
        p_e, p_a, p_b = self.shares
        pull_a, pull_b = pull * p_a, pull * p_b
        out = _squares(self.by_a, pull_a) + _squares(self.by_b, pull_b) - _squares(slopes, pull)
        out[:, 0, 0] += (pull * p_e).sum(axis=1)
        self._bend_n(out, pull_a)
        d, beta = self.d, self.beta[:, 0]
        cross = -(pull_b * d.by_log_r).sum(axis=1)
        out[:, BETA, R_D] += cross
        out[:, R_D, BETA] += cross
        out[:, R_D, R_D] -= beta * (pull_b * d.by_log_r_twice).sum(axis=1)
        return out

    def _bend_n(self, out: Floats, pull: Floats) -> None:
        """Add the weighted Hessian of a - alpha n."""
        alpha, n = self.alpha, self.n
        first = alpha * pull * n.by_s
        four = slice(A, BETA + 1)
        out[:, four, four] -= _squares(self.m_slopes, alpha * pull * n.by_s_twice)
        by_a_alpha, by_alpha, by_alpha_beta, by_beta = (
            (first * bend).sum(axis=1) for bend in self.m_bends
        )
        for i, j, bend in (
            (A, ALPHA, by_a_alpha),
            (B, ALPHA, -by_a_alpha),
            (ALPHA, BETA, by_alpha_beta),
        ):
            out[:, i, j] -= bend
            out[:, j, i] -= bend
        out[:, ALPHA, ALPHA] -= by_alpha
        out[:, BETA, BETA] -= by_beta
        # The factor alpha itself: once with each slope of n.
        n_slopes = np.einsum("sr,sir->si", pull * n.by_s, self.m_slopes)
        out[:, ALPHA, four] -= n_slopes
        out[:, four, ALPHA] -= n_slopes
        cross = np.einsum("sr,sir->si", alpha * pull * n.by_both, self.m_slopes)
        cross[:, ALPHA - A] += (pull * n.by_log_r).sum(axis=1)
        out[:, four, R_N] -= cross
        out[:, R_N, four] -= cross
        out[:, R_N, R_N] -= (alpha * pull * n.by_log_r_twice).sum(axis=1)


def log_surface(q: Floats, points: RepeatedPoints) -> LogSurface:
    """Return log L at q, shape (S, 7)."""
    e, a, b, alpha, beta, rho, nu = (column[:, None] for column in q.T)
    # U_N solves alpha A / N**alpha = beta B / U**beta.
    top = np.log(alpha / beta) + a - b + beta * points.z
    m = top / alpha
    over = points.x > m
    f = grow(np.maximum(points.x - m, 0.0), np.exp(nu))
    n = np.where(over, m + f.value, points.x)
    # m moves n directly and against the excess; without excess n is the run's own size.
    of_n = Growth(
        n,
        *(
            np.where(over, part, 0.0)
            for part in (1.0 - f.by_s, f.by_log_r, f.by_s_twice, -f.by_both, f.by_log_r_twice)
        ),
    )
    g = grow(points.y - points.z, np.exp(rho))
    d = points.z + g.value
    u_e, u_a, u_b = e + 0.0 * n, a - alpha * n, b - beta * d
    high = np.maximum(np.maximum(u_a, u_b), u_e)
    p_e, p_a, p_b = np.exp(u_e - high), np.exp(u_a - high), np.exp(u_b - high)
    total = p_e + p_a + p_b
    one = np.ones_like(n)
    m_slopes = np.stack(
        [one / alpha, -one / alpha, (1.0 - top) / alpha**2, (points.z - 1.0 / beta) / alpha], axis=1
    )
    by_a, by_b = np.zeros((2, len(q), 7, n.shape[1]))
    by_a[:, A : BETA + 1] = (-alpha * of_n.by_s)[:, None] * m_slopes
    by_a[:, A] += 1.0
    by_a[:, ALPHA] -= n
    by_a[:, R_N] = -alpha * of_n.by_log_r
    by_b[:, B], by_b[:, BETA], by_b[:, R_D] = 1.0, -d, -beta * g.by_log_r
    return LogSurface(
        prediction=high + np.log(total),
        shares=(p_e / total, p_a / total, p_b / total),
        by_a=by_a,
        by_b=by_b,
        m_slopes=m_slopes,
        m_bends=(
            -one / alpha**2,
            (2.0 * top - 3.0) / alpha**3,
            -(points.z - 1.0 / beta) / alpha**2,
            one / (alpha * beta**2),
        ),
        n=of_n,
        d=g,
        alpha=alpha,
        beta=beta,
    )


def _squares(slopes: Floats, weights: Floats) -> Floats:
    """Return the weighted sum over runs of outer products, shape (S, P, P)."""
    return np.asarray((slopes * weights[:, None]) @ slopes.transpose(0, 2, 1))
