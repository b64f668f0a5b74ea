"""How much a loss scatters from run to run: seeds' own scatter, residuals, and what runs share.

Two sources, in one unit, the sd of one run's log loss: replicas over seeds, and residuals about the
valleys' curves. They are pooled when they tell the same story, and the larger is taken when they do
not: residuals also hold what the curve cannot follow. Checkpoints of one run share its luck, and
the share is an intraclass correlation.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import chdtri, fdtri  # scipy.stats takes a second to import

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

TREND_FREEDOM = 12
"""Degrees of freedom below which a trend of noise is not looked for."""

TREND_LEVEL = 0.01
"""Chance at which noise that is the same everywhere would show such a trend."""

SAME_LEVEL = 0.05
"""Chance at which two estimates of one variance would differ so much in that direction."""

OUTLIER_LEVEL = 0.001
"""Chance at which a budget like the others would scatter so much more than they do."""

REPLICAS = "replicas over seeds"
RESIDUALS = "residuals about the curves"
BOTH = "residuals about the curves and replicas over seeds"


@dataclass(frozen=True)
class SeedNoise:
    """Scatter of log loss between runs that differ in their seed alone."""

    sd: float
    """Of one run, at the pivot."""
    freedom: int
    by: str = ""
    """What the scatter depends on: 'loss', 'size', or '' where replicas show no trend."""
    slope: float = 0.0
    """Of log sd against log loss or log N."""
    pivot: float = 0.0
    """Log loss or log N at which sd holds."""
    within: tuple[float, float] = (0.0, 0.0)
    """Range of log loss or log N over the replicas; beyond it the nearest end holds."""

    def at(self, n_params: Floats, losses: Floats) -> Floats:
        """Return the sd of one run's log loss, shape of n_params."""
        if not self.by:
            return np.full(len(n_params), self.sd)
        z = np.clip(np.log(losses if self.by == "loss" else n_params), *self.within)
        return np.asarray(self.sd * np.exp(self.slope * (z - self.pivot)), dtype=np.float64)


@dataclass(frozen=True)
class Part:
    """One budget's curve: what the noise model needs of it."""

    residuals: Floats
    """Shape (sizes,). Log loss minus curve."""
    annihilator: Floats
    """Shape (sizes, sizes). I - H: takes log losses to residuals."""
    variance: Floats
    """Shape (sizes,). Of each log loss, in units of one run's at the pivot of the seeds' trend."""
    clusters: Ints
    """Shape (sizes,). Which run each is a checkpoint of."""


@dataclass(frozen=True)
class Noise:
    """Scatter of log losses about the curves, as the intervals assume it."""

    sd: float
    """Of one run."""
    freedom: float
    source: str
    own: dict[int, tuple[float, float]]
    """Sd and degrees of freedom of budgets, by position, that scatter more than the rest."""
    shared: float
    """Correlation between checkpoints of one run."""
    seeds: SeedNoise | None

    def of(self, budget: int) -> float:
        """Return the sd of one run of a budget."""
        return self.own[budget][0] if budget in self.own else self.sd

    def draw(self, parts: list[Part], resamples: int, seed: int) -> Iterator[Floats]:
        """Yield noise for each budget, shape (resamples, sizes).

        The scale is drawn from its own uncertainty, the same in every budget that shares it, which
        makes intervals Student's. Runs that are in several budgets bring their luck to each.
        """
        rng = np.random.default_rng(seed)
        pooled = self.sd * np.sqrt(self.freedom / rng.chisquare(self.freedom, resamples))
        for k, part in enumerate(parts):
            scale = pooled
            if k in self.own:
                sd, freedom = self.own[k]
                scale = sd * np.sqrt(freedom / rng.chisquare(freedom, resamples))
            normal = rng.standard_normal((resamples, len(part.residuals)))
            if self.shared:
                luck = [
                    np.random.default_rng([seed, int(code)]).standard_normal(resamples)
                    for code in part.clusters
                ]
                normal *= np.sqrt(1.0 - self.shared)
                normal += np.sqrt(self.shared) * np.stack(luck, axis=1)
            yield scale[:, None] * np.sqrt(part.variance) * normal


def measure_seeds(cells: pd.DataFrame) -> SeedNoise | None:
    """Measure the scatter between seeds, and whether it follows the loss or the size.

    Args:
        cells: Columns n_params, loss, seed_squares (of log loss about the cell's mean) and
            seed_freedom.

    Returns:
        None without replicas.

    Source:
        Ours: scale-family regression of the cells' mean squares (their likelihood is a gamma's),
        kept when it beats a constant at 1 %. Porian et al. 2024 (arXiv:2406.19146) let noise
        depend on the loss.
    """
    rows = cells[cells["seed_freedom"] > 0]
    freedom = rows["seed_freedom"].to_numpy(float)
    squares = rows["seed_squares"].to_numpy(float)
    total = int(freedom.sum())
    if total == 0:
        return None
    constant = SeedNoise(float(np.sqrt(squares.sum() / total)), total)
    best, gain = constant, float(chdtri(1.0, TREND_LEVEL))
    if total < TREND_FREEDOM or constant.sd == 0.0:
        return constant
    for by, column in (("loss", "loss"), ("size", "n_params")):
        z = np.log(rows[column].to_numpy(float))
        pivot = float(freedom @ z / total)
        if np.ptp(z) < 0.01:
            continue
        slope, height, gained = _trend(z - pivot, squares, freedom)
        if gained > gain:
            sd, gain = float(np.sqrt(height)), gained
            best = SeedNoise(sd, total, by, 0.5 * slope, pivot, (float(z.min()), float(z.max())))
    return best


def _trend(z: Floats, squares: Floats, freedom: Floats) -> tuple[float, float, float]:
    """Return slope of log variance, variance at z = 0, and twice the log likelihood gained.

    With z centred the profile likelihood is convex, log sum(squares exp(-slope z)): Newton.
    """
    slope = 0.0
    for _ in range(50):
        share = squares * np.exp(-slope * z)
        share /= share.sum()
        mean = float(share @ z)
        spread = float(share @ (z - mean) ** 2)
        step = mean / max(spread, 1e-12)
        step = float(np.clip(step, -2.0 / np.ptp(z), 2.0 / np.ptp(z)))
        slope += step
        if abs(step) * np.ptp(z) < 1e-10:
            break
    total = freedom.sum()
    tilted = float((squares * np.exp(-slope * z)).sum())
    return slope, tilted / total, float(total * np.log(squares.sum() / tilted))


def measure_noise(parts: list[Part], seeds: SeedNoise | None) -> Noise:
    """Pool residuals over budgets, and with the seeds' scatter where the two agree.

    Args:
        parts: Every budget that has a curve.
        seeds: What replicas say; None without any.
    """
    squares = np.array([part.residuals @ part.residuals for part in parts])
    expected = np.array([np.diag(part.annihilator) @ part.variance for part in parts])
    freedom = np.array([round(float(np.trace(part.annihilator))) for part in parts], dtype=float)
    wild = _find_outliers(squares / expected, freedom)
    calm = ~wild
    variance = float(squares[calm].sum() / expected[calm].sum())
    free = float(freedom[calm].sum())
    shared, pairs = _share(parts, variance)
    free = free * free / (free + shared * shared * pairs)
    own = {
        int(k): (float(np.sqrt(squares[k] / expected[k])), float(freedom[k]))
        for k in np.flatnonzero(wild)
    }
    source = RESIDUALS
    if seeds is not None and seeds.sd > 0:
        variance, free, source = _weigh(variance, free, seeds)
    return Noise(float(np.sqrt(variance)), free, source, own, shared, seeds)


def _find_outliers(mean_squares: Floats, freedom: Floats) -> NDArray[np.bool_]:
    """Mark budgets that scatter more than the others' pooled scatter allows."""
    out = np.zeros(len(freedom), dtype=bool)
    if len(freedom) < 3:
        return out
    for k in range(len(freedom)):
        rest = np.arange(len(freedom)) != k
        of_rest = float(np.median(mean_squares[rest])), float(freedom[rest].sum())
        pooled = float((mean_squares * freedom)[rest].sum() / of_rest[1])
        limit = float(fdtri(freedom[k], of_rest[1], 1.0 - OUTLIER_LEVEL))
        out[k] = mean_squares[k] > limit * pooled
    return out


def _share(parts: list[Part], variance: float) -> tuple[float, float]:
    """Return the correlation within runs, and the trace that its effect on freedom needs.

    With residuals r = M e, cov(e) = variance (I + rho S) and S the pairs of one run, the sum of
    r_i r_j over such pairs has mean variance rho tr(S M S M).
    """
    products, trace = 0.0, 0.0
    for k, one in enumerate(parts):
        for other in parts[k + 1 :]:
            same = (one.clusters[:, None] == other.clusters[None, :]).astype(float)
            if not same.any():
                continue
            scale = np.sqrt(np.outer(one.variance, other.variance))
            products += 2.0 * float(one.residuals @ same @ other.residuals)
            same *= scale
            trace += 2.0 * float(
                (one.annihilator * (same @ other.annihilator @ (same > 0).T)).sum()
            )
    if trace <= 0 or variance <= 0:
        return 0.0, 0.0
    return float(np.clip(products / (variance * trace), 0.0, 1.0)), trace


def _weigh(variance: float, free: float, seeds: SeedNoise) -> tuple[float, float, str]:
    """Pool residuals with seeds where neither is significantly larger; else take the larger."""
    of_seeds, freedom = seeds.sd**2, float(seeds.freedom)
    if variance > of_seeds * float(fdtri(free, freedom, 1.0 - SAME_LEVEL)):
        return variance, free, RESIDUALS
    if of_seeds > variance * float(fdtri(freedom, free, 1.0 - SAME_LEVEL)):
        return of_seeds, freedom, REPLICAS
    total = free + freedom
    return (free * variance + freedom * of_seeds) / total, total, BOTH
