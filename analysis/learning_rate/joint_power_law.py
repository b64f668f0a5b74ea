"""y = k N**p D**q by least squares on logarithms, and which exponents the points identify."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.bootstrap import Interval, percentile_interval

Floats = NDArray[np.float64]

LEAST_SPAN = 2.0
"""Largest over smallest value of a variable that an exponent needs."""

MOST_SHARED = 0.95
"""Squared correlation of two logs above which they do not vary independently: the variance of an
exponent is then over 20 times what independent variables would leave."""


@dataclass(frozen=True)
class JointLaw:
    """log y = log_center + sum of exponent * (log x - log_pivot), with its draws."""

    names: tuple[str, ...]
    """Of the variables, in the exponents' order."""
    exponents: Floats
    log_pivots: Floats
    log_center: float
    residual_sd: float
    """Natural-log scatter of the points about the law."""
    n_points: int
    heights: Floats
    """Shape (draws,). log_center of each draw."""
    draws: Floats
    """Shape (draws, names). Exponents of each draw; NaN where too few points were left."""

    @property
    def coefficient(self) -> float:
        """Height where every variable is 1."""
        return float(np.exp(self.log_center - self.exponents @ self.log_pivots))

    @property
    def coefficient_ci(self) -> Interval:
        """95 % interval of the coefficient: wide, since 1 is far from any data."""
        return exp_interval(self.heights - self.draws @ self.log_pivots)

    def exponent(self, name: str) -> float:
        """Return one exponent."""
        return float(self.exponents[self.names.index(name)])

    def interval(self, name: str) -> Interval:
        """Return its 95 % interval."""
        return percentile_interval(self.draws[:, self.names.index(name)])

    def at(self, **values: float) -> tuple[float, Interval]:
        """Evaluate the law and its 95 % band at one value of each variable."""
        offset = np.array([np.log(values[name]) for name in self.names]) - self.log_pivots
        log_y = self.heights + self.draws @ offset
        return (
            float(np.exp(self.log_center + self.exponents @ offset)),
            exp_interval(log_y),
        )


def exp_interval(log_draws: Floats) -> Interval:
    """Return the central 95 % of exp(draws), of which single ones may be too large for exp."""
    low, high = percentile_interval(log_draws)
    return float(np.exp(low)), float(np.exp(high))


def identified(variables: dict[str, Floats]) -> tuple[tuple[str, ...], str]:
    """Say which exponents the points determine.

    Args:
        variables: Positive values by name, each of shape (points,).

    Returns:
        The names to fit, and why others are left out ('' when none is).
    """
    varied = [name for name, x in variables.items() if x.max() / x.min() >= LEAST_SPAN]
    fixed = [name for name in variables if name not in varied]
    why = [f"{name} varies by less than a factor of {LEAST_SPAN:g}" for name in fixed]
    if len(varied) == 2:
        first, second = (np.log(variables[name]) for name in varied)
        shared = float(np.corrcoef(first, second)[0, 1] ** 2)
        if shared > MOST_SHARED:
            slope = float(np.polyfit(first, second, 1)[0])
            why.append(
                f"{varied[1]} follows {varied[0]}**{slope:.2f} (r2 {shared:.3f}), so that only "
                "their joint exponent is known"
            )
            varied = varied[:1]
    return tuple(varied), "; ".join(why)


def fit_joint_law(variables: dict[str, Floats], y: Floats, log_y_draws: Floats) -> JointLaw:
    """Fit the law to the points and to every draw of them.

    Args:
        variables: Positive values by name, each of shape (points,).
        y: Shape (points,).
        log_y_draws: Shape (draws, points); NaN marks a point that a draw lacks.
    """
    logs = np.log(np.stack(list(variables.values()), axis=1))
    pivots = logs.mean(axis=0)
    x = np.concatenate([np.ones((len(logs), 1)), logs - pivots], axis=1)
    fitted, *_ = np.linalg.lstsq(x, np.log(y), rcond=None)
    residual = np.log(y) - x @ fitted
    freedom = len(y) - x.shape[1]
    scatter = float(np.sqrt(residual @ residual / freedom)) if freedom > 0 else float("nan")
    drawn = _fit_draws(x, log_y_draws)
    return JointLaw(
        tuple(variables),
        fitted[1:],
        pivots,
        float(fitted[0]),
        scatter,
        len(y),
        drawn[:, 0],
        drawn[:, 1:],
    )


def _fit_draws(x: Floats, log_y: Floats) -> Floats:
    """Refit each row of log_y without its NaN points; NaN where they do not determine the law."""
    have = np.isfinite(log_y)
    gram = np.einsum("rk,ki,kj->rij", have.astype(float), x, x, optimize=True)
    right = np.where(have, log_y, 0.0) @ x
    full = x.T @ x
    # A draw that lost too many points has a small determinant beside that of all points.
    enough = np.linalg.det(gram) > 1e-6 * np.linalg.det(full)
    gram = np.where(enough[:, None, None], gram, full)
    solved = np.linalg.solve(gram, right[:, :, None])[:, :, 0]
    return np.where(enough[:, None], solved, np.nan)
