"""y = coefficient * x**exponent by least squares on logarithms."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.bootstrap import Interval, percentile_interval

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class PowerLaw:
    """log y = log_center + exponent * (log x - log_pivot): centred, so the two are uncorrelated."""

    exponent: float
    log_pivot: float
    log_center: float
    residual_sd: float
    """Natural-log scatter of the points about the law, n - 2 degrees of freedom; nan for 2."""

    @property
    def coefficient(self) -> float:
        """Height at x = 1."""
        return float(np.exp(self.log_center - self.exponent * self.log_pivot))

    def at(self, x: Floats) -> Floats:
        """Evaluate the law."""
        return np.exp(self.log_center + self.exponent * (np.log(x) - self.log_pivot))


@dataclass(frozen=True)
class Law:
    """A power law with its 95 % interval, and the bootstrap's draws of it."""

    fit: PowerLaw
    interval: Interval
    exponents: Floats
    """By draw; NaN where a draw left fewer than 3 points."""
    heights: Floats
    """Log of the law at the pivot, by draw."""

    def band(self, flops: Floats) -> tuple[Floats, Floats]:
        """Return the 95 % band of the law."""
        log_y = self.heights[:, None] + self.exponents[:, None] * (
            np.log(flops) - self.fit.log_pivot
        )
        low, high = np.nanpercentile(log_y, [2.5, 97.5], axis=0)
        return np.exp(low), np.exp(high)


def fit_power_law(x: Floats, y: Floats) -> PowerLaw:
    """Fit by unweighted least squares in log-log; needs two distinct x."""
    log_x, log_y = np.log(x), np.log(y)
    pivot, center = log_x.mean(), log_y.mean()
    exponent = (log_x - pivot) @ (log_y - center) / ((log_x - pivot) @ (log_x - pivot))
    residual = log_y - center - exponent * (log_x - pivot)
    freedom = len(x) - 2
    scatter = float(np.sqrt(residual @ residual / freedom)) if freedom > 0 else float("nan")
    return PowerLaw(float(exponent), float(pivot), float(center), scatter)


def fit_many(log_x: Floats, log_y: Floats, at: float) -> tuple[Floats, Floats]:
    """Fit one line to each row of log_y, leaving out its NaN points.

    Args:
        log_x: Shape (points,).
        log_y: Shape (draws, points); NaN marks a point that the draw lacks.
        at: The log x at which the line's height is wanted.

    Returns:
        Exponents and heights at `at`, both shape (draws,); NaN where fewer than 3 points are left.
    """
    have = np.isfinite(log_y)
    count = have.sum(axis=1)
    enough = count >= 3
    safe = np.where(enough, count, 1)
    y = np.where(have, log_y, 0.0)
    mean_x, mean_y = (have @ log_x) / safe, y.sum(axis=1) / safe
    dx = np.where(have, log_x - mean_x[:, None], 0.0)
    spread = (dx * dx).sum(axis=1)
    slope = (dx * y).sum(axis=1) / np.where(enough, spread, 1.0)
    height = mean_y + slope * (at - mean_x)
    return np.where(enough, slope, np.nan), np.where(enough, height, np.nan)


def law_of_draws(fit: PowerLaw, x: Floats, log_y: Floats) -> Law:
    """Refit the law to each draw, shape (draws, points), for its interval."""
    exponents, heights = fit_many(np.log(x), log_y, fit.log_pivot)
    return Law(fit, percentile_interval(exponents), exponents, heights)
