"""One surface, two countings: the local exponent a(C) with and without the embedding, closed form.

Small models are mostly embedding, so N_opt ~ C**a counted without it has an a that falls with C
towards the surface's own beta / (alpha + beta). A study at small scale measures a chord of that
curve, which is how most of Kaplan's .73 arises from Chinchilla's .51.

Everything is a function of N_E, the parameters outside the embedding; N_T is all of them, and
N_T = N_E + omega * N_E**power.
"""

from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from analysis.errors import RefusedError
from analysis.parametric.frontier import surfaces_of
from analysis.parametric.result import SurfaceFit

Floats = NDArray[np.float64]

KAPLAN_SIZES = (768.0, 1.5e9)
"""Kaplan et al. 2020 (arXiv:2001.08361): non-embedding parameters of their smallest and largest."""

MIN_SIZES = 4
"""Sizes below which omega and power cannot be checked against a size left over."""

MIN_SHARE = 1e-3
"""Parameters outside the smaller counting, as a share, below which the countings are one."""

POINTS = 200
"""Points of a curve."""


class Counting(Enum):
    """Which parameters count, in N and in C = 6 N D alike."""

    non_embedding = "non_embedding"
    total = "total"


@dataclass(frozen=True)
class Embedding:
    """N_T = N_E + omega * N_E**power."""

    omega: float
    power: float = 1.0 / 3.0
    scatter: float = 0.0
    """Largest relative error of N_T over the sizes it was fitted to."""

    def total(self, non_embedding: Floats) -> Floats:
        """Return N_T."""
        return np.asarray(non_embedding + self.omega * non_embedding**self.power, np.float64)

    def elasticity(self, non_embedding: Floats) -> tuple[Floats, Floats]:
        """Return eta = dlog N_T / dlog N_E and dlog eta / dlog N_E."""
        r = self.omega * non_embedding ** (self.power - 1.0)
        top, bottom = 1.0 + self.power * r, 1.0 + r
        bend = r * (self.power - 1.0) ** 2 / (bottom * top)
        return np.asarray(top / bottom), np.asarray(bend)


PEARCE = Embedding(omega=47491.0)
"""Pearce & Song 2024 (arXiv:2406.12907), section 3: their fit to the sizes of Hoffmann et al."""


@dataclass(frozen=True)
class Powers:
    """L = E + (A / N**p + B / D**q)**k; E and k do not move the optimum."""

    log_a: float
    log_b: float
    p: float
    q: float


@dataclass(frozen=True)
class CountedCurve:
    """The frontier of one surface in one counting, by ascending size; all shape (points,)."""

    counting: Counting
    flops: Floats
    """6 N D in that counting."""
    n_opt: Floats
    """In that counting."""
    tokens: Floats
    a: Floats
    """Local exponent dlog N_opt / dlog C."""

    @property
    def chord(self) -> float:
        """Slope of the least-squares line of log N_opt on log C, points even in log N_E."""
        x, y = np.log(self.flops), np.log(self.n_opt)
        dx = x - x.mean()
        return float(dx @ (y - y.mean()) / (dx @ dx))


def powers_of(fit: SurfaceFit) -> Powers:
    """Return what of a fitted surface places its optimum."""
    at = surfaces_of(fit)
    return Powers(*(float(v[0]) for v in (at.log_a, at.log_b, at.p, at.q)))


def frontier_by_counting(
    surface: Powers,
    embedding: Embedding,
    *,
    surface_counts: Counting,
    counting: Counting,
    sizes: tuple[float, float] = KAPLAN_SIZES,
    points: int = POINTS,
) -> CountedCurve:
    """Return N_opt(C) and its local exponent with N and C counted as asked.

    Args:
        surface: Whose N is counted as `surface_counts`.
        embedding: The relation between the countings.
        surface_counts: What the surface's N means.
        counting: What N and C of the answer mean.
        sizes: Smallest and largest N_E.
        points: Of the curve, even in log N_E.

    Source:
        Pearce & Song 2024 (arXiv:2406.12907), section 3, their equations for N_T surfaces and
        non-embedding C, in elasticities. With S(N_E) the surface's size, M(N_E) the answer's,
        C = 6 M D and s, m = dlog S, dlog M / dlog N_E, the loss is stationary at fixed C where
        p A S**-p s = q B D**-q m. Taking logs gives D(N_E), and its derivative gives
        a = m / (m + dlog D / dlog N_E).
    """
    n_e = np.geomspace(*sizes, points)
    size_s, s, bend_s = _counted(surface_counts, embedding, n_e)
    size_m, m, bend_m = _counted(counting, embedding, n_e)
    log_d = surface.log_b - surface.log_a + np.log(surface.q / surface.p)
    log_d = (log_d + surface.p * np.log(size_s) + np.log(m) - np.log(s)) / surface.q
    slope_d = (surface.p * s + bend_m - bend_s) / surface.q
    tokens = np.exp(log_d)
    return CountedCurve(counting, 6.0 * size_m * tokens, size_m, tokens, m / (m + slope_d))


def _counted(
    counting: Counting, embedding: Embedding, n_e: Floats
) -> tuple[Floats, Floats, Floats]:
    """Return sizes, their elasticity to N_E, and that elasticity's own."""
    if counting is Counting.non_embedding:
        return n_e, np.ones_like(n_e), np.zeros_like(n_e)
    return embedding.total(n_e), *embedding.elasticity(n_e)


def fit_embedding(non_embedding: Floats, total: Floats) -> Embedding:
    """Fit N_T - N_E = omega * N_E**power by least squares on logs, one point a size.

    Args:
        non_embedding: Shape (runs,). N_E, or the smaller of any two countings.
        total: Shape (runs,). N_T, or the larger.

    Raises:
        RefusedError: The countings do not differ, or there are too few sizes for the relation.
    """
    pairs = np.unique(np.stack([non_embedding, total], axis=1), axis=0)
    rest = pairs[:, 1] - pairs[:, 0]
    thin = rest < MIN_SHARE * pairs[:, 1]
    if thin.any():
        size = pairs[np.argmax(thin)]
        raise RefusedError(
            f"of {size[1]:.4g} parameters {size[0]:.4g} lie outside the embedding: the two "
            "countings are not apart by 0.1 %, so there is no second exponent to show; the runs "
            "table needs both n_params_non_embedding and n_params_total"
        )
    if len(np.unique(pairs[:, 0])) < MIN_SIZES:
        raise RefusedError(
            f"{len(np.unique(pairs[:, 0]))} sizes for the relation between the countings; at "
            f"least {MIN_SIZES} are needed, add runs of other sizes"
        )
    x, y = np.log(pairs[:, 0]), np.log(rest)
    power, height = np.polynomial.polynomial.polyfit(x - x.mean(), y, 1)[::-1]
    found = Embedding(float(np.exp(height - power * x.mean())), float(power))
    error = np.abs(found.total(pairs[:, 0]) / pairs[:, 1] - 1.0)
    return Embedding(found.omega, found.power, float(error.max()))


@dataclass(frozen=True)
class SimulatedStudy:
    """The grid on which Pearce & Song read off an exponent as a study would: none is continuous."""

    sizes: tuple[float, float, int] = (2.9, 9.2, 20)
    """log10 N_E of the smallest and largest model, and how many there are."""
    tokens: tuple[float, float, int] = (6.0, 25.0, 1000)
    """The same of the token counts that a model's loss is read at."""
    flops: tuple[float, float, int] = (12.95, 20.7, 100)
    """The same of the budgets, at each of which the best model is taken."""


SIMULATED = {
    Counting.non_embedding: SimulatedStudy(),
    Counting.total: SimulatedStudy(flops=(14.0, 20.7, 100)),
}
"""github.com/TeaPearce/Reconciling_Kaplan_Chinchilla_Scaling_Laws d189f30, whose numbers are those
of the paper. The grid matters: best models come in 20 steps, and over the same sizes the curve's
own regression gives .7945 where the grid gives .7805."""


def simulate_exponent(
    surface: Powers, embedding: Embedding, counting: Counting, study: SimulatedStudy | None = None
) -> float:
    """Return the regression slope of log N on log C of the best model of each budget.

    Args:
        surface: Its N counts all parameters.
        embedding: The relation between the countings.
        counting: What N and C of the answer mean.
        study: The grid; None takes the published one of that counting.
    """
    study = study or SIMULATED[counting]
    n_e, tokens, flops = (np.logspace(*ends) for ends in (study.sizes, study.tokens, study.flops))
    n_t = embedding.total(n_e)
    size = n_e if counting is Counting.non_embedding else n_t
    nearest = np.abs(6.0 * size[:, None, None] * tokens - flops[:, None]).argmin(axis=2)
    by_n = np.exp(surface.log_a - surface.p * np.log(n_t))[:, None]
    by_d = np.exp(surface.log_b - surface.q * np.log(tokens))[nearest]
    best = size[np.argmin(by_n + by_d, axis=0)]
    x, y = np.log(flops), np.log(best)
    dx = x - x.mean()
    return float(dx @ (y - y.mean()) / (dx @ dx))
