"""Repeated data and excess parameters: what they are worth, and the surface through them.

D' is the fresh tokens that D tokens over U unique ones are worth, N' what N parameters are worth
when U unique tokens ask for fewer. The surface log L = log(E + A/N'**alpha + B/D'**beta) then has 7
parameters, q = (log E, log A', log B', alpha, beta, log R_D, log R_N), with A' and B' at the
mean of log N and log D. Everything is batched over the first axis.
Shapes: S fits (starts, profile points or resamples), R runs, 7 parameters.

Source: Muennighoff et al. 2023 (arXiv:2305.16264), section 3.1 and appendix A.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

R_BOX = (0.05, 1e6)
"""Values of R_D and R_N that are tried. Ours: at the low end all repeats together are worth 5 %
of an epoch, at the high end 10,000 epochs are worth 9950 fresh ones; both stand for limits."""

EXPONENT_BOX = (0.02, 3.0)
"""Values of alpha and beta that are tried."""

LOW = np.array([-np.inf] * 3 + [EXPONENT_BOX[0]] * 2 + [np.log(R_BOX[0])] * 2)
HIGH = np.array([np.inf] * 3 + [EXPONENT_BOX[1]] * 2 + [np.log(R_BOX[1])] * 2)
"""Ends of the box, by columns of q."""

FIT_NAMES = ("E", "A", "B", "alpha", "beta", "R_D", "R_N")
SURFACE = (0, 1, 2, 3, 4)
R_D, R_N = 5, 6
"""Columns of q."""


@dataclass(frozen=True)
class RepeatedPoints:
    """Centred log N, log D and log U (by the centre of log D), and log loss, each shape (R,)."""

    x: Floats
    y: Floats
    z: Floats
    log_loss: Floats


def make_points(
    n_params: Floats, tokens: Floats, unique_tokens: Floats, nats: Floats
) -> tuple[RepeatedPoints, tuple[float, float]]:
    """Return the runs in centred logs, and the means of log N and log D."""
    log_n, log_d = np.log(n_params), np.log(tokens)
    centers = (float(log_n.mean()), float(log_d.mean()))
    log_u = np.log(np.minimum(unique_tokens, tokens))
    points = RepeatedPoints(
        log_n - centers[0], log_d - centers[1], log_u - centers[1], np.log(nats)
    )
    return points, centers


def to_q(values: Mapping[str, float], centers: tuple[float, float]) -> Floats:
    """Return q, shape (7,), of named values."""
    e, a, b = (float(np.log(values[name])) for name in ("E", "A", "B"))
    r_d, r_n = (float(np.log(np.clip(values[name], 1e-9, 1e12))) for name in ("R_D", "R_N"))
    alpha, beta = values["alpha"], values["beta"]
    return np.array([e, a - alpha * centers[0], b - beta * centers[1], alpha, beta, r_d, r_n])


def to_values(q: Floats, centers: tuple[float, float]) -> dict[str, float]:
    """Return the named values of one q."""
    e, a, b, alpha, beta, r_d, r_n = map(float, q)
    logs = (e, a + alpha * centers[0], b + beta * centers[1])
    named = (*map(float, np.exp(logs)), alpha, beta, float(np.exp(r_d)), float(np.exp(r_n)))
    return dict(zip(FIT_NAMES, named, strict=True))


def effective_tokens(tokens: Floats, unique_tokens: Floats, r_d: float) -> Floats:
    """Return D' = U + U R (1 - exp(-(D/U - 1) / R)), the fresh tokens that D tokens are worth.

    Args:
        tokens: Shape (runs,). Tokens trained on.
        unique_tokens: Shape (runs,). Those of them that differ; more than `tokens` counts as all.
        r_d: Repeats after which a repeat has lost 1 - 1/e of its worth.

    Source:
        Muennighoff et al. 2023 (arXiv:2305.16264), equation 5.
    """
    unique = np.minimum(unique_tokens, tokens)
    return unique * np.exp(grow(np.log(tokens / unique), np.asarray(r_d, dtype=np.float64)).value)


@dataclass(frozen=True)
class Growth:
    """A log size that grows with s, the log of how often something is there, ever more slowly."""

    value: Floats
    by_s: Floats
    by_log_r: Floats
    by_s_twice: Floats
    by_both: Floats
    by_log_r_twice: Floats


def grow(s: Floats, r: Floats) -> Growth:
    """Return log(1 + r (1 - exp(-(e**s - 1) / r))) and its derivatives by s and log r."""
    s = np.minimum(s, 60.0)
    spent = np.expm1(s) / r
    late = np.exp(-spent)
    gained = -r * np.expm1(-spent)
    whole = 1.0 + gained
    by_s = np.exp(s - spent) / whole
    by_log_r = (gained - r * spent * late) / whole
    return Growth(
        value=np.log1p(gained),
        by_s=by_s,
        by_log_r=by_log_r,
        by_s_twice=by_s * (1.0 - np.exp(s) / r) - by_s * by_s,
        by_both=by_s * spent - by_s * by_log_r,
        by_log_r_twice=by_log_r - r * spent * spent * late / whole - by_log_r * by_log_r,
    )


def has_excess(q: Floats, points: RepeatedPoints) -> NDArray[np.bool_]:
    """Mark the runs with more parameters than their unique tokens ask for, shape (S, R)."""
    _, a, b, alpha, beta = (column[:, None] for column in q.T[:5])
    needed = (np.log(alpha / beta) + a - b + beta * points.z) / alpha
    return np.asarray(points.x > needed + 0.01, dtype=bool)
