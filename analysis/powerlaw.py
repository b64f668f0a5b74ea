"""y = coefficient * x**exponent by least squares on logarithms.

Points of unequal precision are weighted by `sd`, the standard deviation of log y, and by nothing
else: there is no argument that takes 1 / sd or 1 / variance, and values that can only be one of
those are refused.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.bootstrap import Interval, percentile_interval

Floats = NDArray[np.float64]

ABSURD_SD = 2.0
"""Natural-log sd, a factor of 7, beyond which a point says nothing about y."""


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


def fit_power_law(x: Floats, y: Floats, *, sd: Floats | None = None) -> PowerLaw:
    """Fit in log-log; needs two distinct x.

    Args:
        x: Shape (points,).
        y: Shape (points,).
        sd: Shape (points,). Standard deviation of log y; each squared residual is divided by its
            square. None weights all points alike.

    Raises:
        ValueError: `sd` is not positive and finite, or exceeds both 2 and the whole range of log y,
            as 1 / sd and 1 / variance do.

    Source:
        Porian et al. 2024 (arXiv:2406.19146) fit their exponents so. Their released code passes
        1 / variance where SciPy's curve_fit takes standard deviations, for another fit: the
        mistake that the check is for.
    """
    log_x, log_y = np.log(x), np.log(y)
    weights = weights_of(sd, log_y)
    share = weights / weights.sum()
    pivot, center = share @ log_x, share @ log_y
    dx = log_x - pivot
    exponent = (share * dx) @ (log_y - center) / ((share * dx) @ dx)
    residual = log_y - center - exponent * dx
    freedom = len(x) - 2
    squares = float((weights * residual) @ residual)
    scatter = float(np.sqrt(squares / freedom)) if freedom > 0 else float("nan")
    return PowerLaw(float(exponent), float(pivot), float(center), scatter)


def weights_of(sd: Floats | None, log_y: Floats) -> Floats:
    """Return 1 / variance with mean 1, or ones.

    Raises:
        ValueError: See fit_power_law.
    """
    if sd is None:
        return np.ones_like(log_y)
    if sd.shape != log_y.shape or not (np.isfinite(sd) & (sd > 0)).all():
        raise ValueError(f"sd must be {len(log_y)} positive standard deviations of log y, not {sd}")
    span = float(np.ptp(log_y))
    if float(np.median(sd)) > max(span, ABSURD_SD):
        raise ValueError(
            f"the median sd, {float(np.median(sd)):.3g}, exceeds the range of log y, {span:.3g}: "
            "give standard deviations of log y, not 1 / sd and not 1 / variance"
        )
    weights = sd**-2.0
    return np.asarray(weights / weights.mean(), dtype=np.float64)


def fit_many(
    log_x: Floats, log_y: Floats, at: float, sd: Floats | None = None
) -> tuple[Floats, Floats]:
    """Fit one line to each row of log_y, leaving out its NaN points.

    Args:
        log_x: Shape (points,).
        log_y: Shape (draws, points); NaN marks a point that the draw lacks.
        at: The log x at which the line's height is wanted.
        sd: Shape (points,). As in fit_power_law.

    Returns:
        Exponents and heights at `at`, both shape (draws,); NaN where fewer than 3 points are left.
    """
    have = np.isfinite(log_y)
    enough = have.sum(axis=1) >= 3
    weights = np.where(have, 1.0 if sd is None else sd**-2.0 / (sd**-2.0).mean(), 0.0)
    total = np.where(enough, weights.sum(axis=1), 1.0)
    y = np.where(have, log_y, 0.0)
    mean_x, mean_y = (weights @ log_x) / total, (weights * y).sum(axis=1) / total
    dx = weights * (log_x - mean_x[:, None])
    spread = dx @ log_x
    slope = (dx * y).sum(axis=1) / np.where(enough, spread, 1.0)
    height = mean_y + slope * (at - mean_x)
    return np.where(enough, slope, np.nan), np.where(enough, height, np.nan)


def law_of_draws(fit: PowerLaw, x: Floats, log_y: Floats, sd: Floats | None = None) -> Law:
    """Refit the law to each draw, shape (draws, points), for its interval."""
    exponents, heights = fit_many(np.log(x), log_y, fit.log_pivot, sd)
    return Law(fit, percentile_interval(exponents), exponents, heights)
