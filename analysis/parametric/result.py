"""What a fit of the surface came to: its optimum with its certificate, then its intervals."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.bootstrap import Interval
from analysis.config import Form, Loss
from analysis.parametric.forms import FORMULAS, Centers, Formula
from analysis.parametric.profile import Profile

Floats = NDArray[np.float64]

PAIRS_FROM = 100
"""Runs from which a bounded cost (Huber, absolute deviations) is resampled in pairs. Pairs leave
out a third of the runs, and with few runs whole corners of the grid, so that such costs, which
behave as medians, scatter by half as much again as between studies: on 20 runs they covered 100 %
where Bayesian-bootstrap weights covered 97 %. On the 240 runs of Hoffmann et al. the two agree
within 4 %. Squared errors need pairs: there the weights covered 84 % (docs/results/coverage.md)."""


@dataclass(frozen=True)
class SurfaceFit:
    """The surface at its certified optimum."""

    form: Form
    values: dict[str, float]
    """The form's published parameters (FORMULAS[form].names), last a of N_opt ~ C**a."""
    loss: Loss
    delta: float
    objective: float
    """Sum over runs of Huber terms, absolute log residuals, or squared nats."""
    converged: bool
    """Whether a full Newton step would lower the objective by less than one part in 1e13."""
    gradient: float
    """Cosine between the runs' scores and the surface's tangent space: 0 at an optimum, at most 1,
    whatever the units."""
    condition: float
    """Condition number of the Gauss-Newton matrix at the optimum, in centred logs."""
    n_starts: int
    starts_moved: int
    """Starts that left their place and reached this optimum."""
    starts_reached: int
    """Starts whose end is this optimum."""
    n_basins: int
    """Distinct optima that the starts reached, of those within a factor 2 of the best."""
    n_runs: int
    residuals: Floats
    """Shape (runs,). Log prediction minus log loss, in the order of the runs."""
    theta: Floats
    """Shape (P,). The form's free parameters, in logs relative to `centers`."""
    centers: Centers
    """Means of log N, log D and log loss."""

    @property
    def formula(self) -> Formula:
        """The form's equation, names and derivatives."""
        return FORMULAS[self.form]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the values, in the order of the draws' columns."""
        return self.formula.names

    @property
    def b(self) -> float:
        """Exponent of D_opt ~ C**b, which is 1 - a."""
        return 1.0 - self.values["a"]

    @property
    def residual_sd(self) -> float:
        """Sd of log residuals, one degree of freedom spent on each parameter."""
        return float(np.sqrt(self.residuals @ self.residuals / (self.n_runs - len(self.theta))))

    def predict(self, n_params: Floats, tokens: Floats) -> Floats:
        """Return the surface's loss in nats."""
        log_n, log_d = np.broadcast_arrays(np.log(n_params), np.log(tokens))
        x, y = (log_n - self.centers[0]).ravel(), (log_d - self.centers[1]).ravel()
        log_loss = self.formula.log_prediction(self.theta[None], x, y)[0] + self.centers[2]
        return np.asarray(np.exp(log_loss).reshape(log_n.shape), dtype=np.float64)


@dataclass(frozen=True)
class ParametricFit(SurfaceFit):
    """The certified surface, and the bootstrap's draws of it."""

    intervals: dict[str, Interval]
    """95 % bootstrap intervals of the values."""
    draws: Floats
    """Shape (resamples that converged, names). The values of each draw."""
    n_failed: int
    """Resamples whose refit did not converge; they are in no interval."""
    n_clusters: int
    """What was resampled: runs, or runs' clusters of checkpoints."""
    profiles: dict[str, Profile]
    """Profile-likelihood interval of every value, and whether it is identified."""

    @property
    def resampling(self) -> str:
        """How runs were resampled: pairs, or weights (bootstrap.resample_weights)."""
        return "pairs" if in_pairs(self.loss, self.n_clusters) else "weights"

    @property
    def not_identified(self) -> tuple[str, ...]:
        """Names of the values that these runs do not bound on both sides."""
        return tuple(name for name, item in self.profiles.items() if not item.identified)


def in_pairs(loss: Loss, n_clusters: int) -> bool:
    """Return whether runs are resampled in pairs (else by weights)."""
    return loss is Loss.mse or n_clusters >= PAIRS_FROM
