"""The exponent of one surface under many weightings of its runs, NaN where a refit is no answer.

Shapes: S weightings, R runs.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.bootstrap import ELEMENTS_PER_BATCH
from analysis.parametric.refits import Reference, refit

Floats = NDArray[np.float64]

SANE = (1e-3, 10.0)
"""Exponents of the loss outside are no answer, as in the certified fit."""


@dataclass(frozen=True)
class Reweighted:
    """What every weighting of the runs gives."""

    a: Floats
    """Shape (S,). Exponent of N_opt ~ C**a."""
    floor: Floats
    """Shape (S,). E, nats; 0 in a form without one."""
    theta: Floats
    """Shape (S, P). Free parameters."""


def refit_reweighted(reference: Reference, log_loss_center: float, counts: Floats) -> Reweighted:
    """Refit the surface under every row of counts, in batches of bounded memory.

    Args:
        reference: What refits start from.
        log_loss_center: The mean log loss that the reference's points are relative to.
        counts: Shape (S, R). How often each run counts; 0 leaves it out.
    """
    size = max(1, ELEMENTS_PER_BATCH // len(reference.points.x))
    parts = []
    for at in range(0, len(counts), size):
        ends = refit(reference, counts[at : at + size])
        parts.append(np.where(ends.converged[:, None], ends.theta, np.nan))
    theta = np.concatenate(parts)
    full = reference.formula.full(theta)
    alpha, beta = full[:, 3], full[:, 4]
    low, high = SANE
    with np.errstate(invalid="ignore"):
        sane = (alpha > low) & (alpha < high) & (beta > low) & (beta < high)
        a = np.where(sane, beta / (alpha + beta), np.nan)
        floor = np.where(sane, np.exp(full[:, 0] + log_loss_center), np.nan)
    return Reweighted(a, floor, np.where(sane[:, None], theta, np.nan))
