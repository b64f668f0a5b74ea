"""The compute-optimal N of a fitted surface at C = 6 N D, with its band; D is C / 6N."""

import numpy as np
from numpy.typing import NDArray

from analysis.parametric import NAMES, ParametricFit

Floats = NDArray[np.float64]


def optimal_size(fit: ParametricFit, flops: Floats) -> Floats:
    """Return N that minimises the surface at C = 6 N D (Hoffmann et al. 2022, equation 4)."""
    values = np.array([[fit.values[name] for name in NAMES]])
    return np.asarray(np.exp(_log_optimal_size(values, flops)[0]), dtype=np.float64)


def _log_optimal_size(values: Floats, flops: Floats) -> Floats:
    """Return log N_opt of each surface, shape (surfaces, flops); columns of values are NAMES."""
    _, a, b, alpha, beta, _ = (column[:, None] for column in values.T)
    ratio = np.log(alpha * a) - np.log(beta * b)
    log_n = (ratio + beta * np.log(flops / 6.0)) / (alpha + beta)
    return np.asarray(log_n, dtype=np.float64)


def optimal_band(fit: ParametricFit, flops: Floats, what: str) -> tuple[Floats, Floats]:
    """Return the 95 % band of the surface's optimum."""
    sane = fit.draws[(fit.draws[:, 3] > 0) & (fit.draws[:, 4] > 0)]
    log_n = _log_optimal_size(sane, flops)
    low, high = np.percentile(log_n, [2.5, 97.5], axis=0)
    if what == "N":
        return np.exp(low), np.exp(high)
    return flops / (6.0 * np.exp(high)), flops / (6.0 * np.exp(low))
