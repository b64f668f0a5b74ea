"""Approach 3: fit a surface L(N, D), with its intervals, or say why not.

What is fitted is the global minimum: starts from every basin of a grid, then exact Newton steps.
N and D are the arrays handed in; which convention they count is the caller's business.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.bootstrap import Interval, percentile_interval, resample_counts, resample_weights
from analysis.config import Form, Loss
from analysis.errors import InputError, RefusedError
from analysis.parametric import newton, surface
from analysis.parametric.forms import FORMULAS, Centers, Formula
from analysis.parametric.identifiable import check_design, check_optimum, check_runs
from analysis.parametric.newton import Solved
from analysis.parametric.objective import Objective, certificate, cost, descend
from analysis.parametric.profile import Profile, profile_intervals
from analysis.parametric.refits import Reference, refit_resamples
from analysis.parametric.starts import find_starts
from analysis.parametric.surface import Points

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Progress = Callable[[int], None]

SMOOTH_DELTA = 1.0
"""Nats of log loss below which every residual lies: Huber is then plain least squares."""

LIKELY_WEIGHTS = (0.01, 100.0)
"""Mean of weights that count runs. 1 / variance of a loss is 1e4 and more."""


PAIRS_FROM = 100
"""Runs from which a bounded cost (Huber, absolute deviations) is resampled in pairs. Pairs leave
out a third of the runs, and with few runs whole corners of the grid, so that such costs, which
behave as medians, scatter by half as much again as between studies: on 20 runs they covered 100 %
where Bayesian-bootstrap weights covered 97 %. On the 240 runs of Hoffmann et al. the two agree
within 4 %. Squared errors need pairs: there the weights covered 84 % (docs/results/coverage.md)."""


UNBOUNDED = 0.5
"""Width of an interval of a, half of all values, that with an open profile is no answer."""


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
        return "pairs" if _in_pairs(self.loss, self.n_clusters) else "weights"

    @property
    def not_identified(self) -> tuple[str, ...]:
        """Names of the values that these runs do not bound on both sides."""
        return tuple(name for name, item in self.profiles.items() if not item.identified)


def _in_pairs(loss: Loss, n_clusters: int) -> bool:
    return loss is Loss.mse or n_clusters >= PAIRS_FROM


def fit_surface(
    n_params: Floats,
    tokens: Floats,
    nats: Floats,
    *,
    form: Form = Form.chinchilla,
    loss: Loss = Loss.huber,
    delta: float = 1e-3,
    weights: Floats | None = None,
) -> SurfaceFit:
    """Fit the surface's global optimum, without resampling.

    Args:
        n_params: Shape (runs,). Parameters per run.
        tokens: Shape (runs,). Training tokens per run.
        nats: Shape (runs,). Final loss, nats per token.
        form: The surface's formula.
        loss: Cost of a residual.
        delta: For huber, nats of log loss.
        weights: Shape (runs,). How often each run counts: 2 is the run given twice, 0 is the run
            left out. Not standard deviations and not their inverses.

    Returns:
        The converged global fit.

    Raises:
        InputError: A value is not positive, or the weights cannot be counts.
        RefusedError: The runs do not identify the surface, or no start converged on one.

    Source:
        Hoffmann et al. 2022 (arXiv:2203.15556), section 3.3. The objective is the *sum* of Huber
        terms: with their mean, default tolerances stop at the second iteration.
    """
    return certify(n_params, tokens, nats, form, loss, delta, weights)[0]


def certify(
    n_params: Floats,
    tokens: Floats,
    nats: Floats,
    form: Form,
    loss: Loss,
    delta: float,
    weights: Floats | None = None,
) -> tuple[SurfaceFit, Reference]:
    """Return the fit, and what its refits start from."""
    check_runs(n_params, tokens, nats)
    counts = _counts(weights, len(nats))
    used = counts > 0
    formula = FORMULAS[form]
    check_design(n_params[used], tokens[used], formula.n_free)
    logs = np.log(n_params), np.log(tokens), np.log(nats)
    centers: Centers = tuple(float(values[used].mean()) for values in logs)  # type: ignore[assignment]
    points = Points(*(values - center for values, center in zip(logs, centers, strict=True)))
    seen = Points(points.x[used], points.y[used], points.log_loss[used])
    ends, moved = _descend_from_all(formula, seen, counts[None, used], loss, delta)
    best, reached, basins = _choose(ends)
    starts_moved = int((reached & moved).sum())
    if starts_moved == 0:
        raise RefusedError(
            f"no start of {len(moved)} left its place and reached the optimum, so the optimum is "
            "not certified; look for runs whose loss is far from their neighbours'"
        )
    theta = ends.theta[best]
    values = formula.named(theta[None], centers)[0]
    check_optimum(formula, formula.full(theta[None])[0], values)
    problem = Objective(formula, points, counts[None], cost(loss, delta))
    gradient, condition = certificate(theta, problem)
    fit = SurfaceFit(
        form=form,
        values=dict(zip(formula.names, map(float, values), strict=True)),
        loss=loss,
        delta=delta,
        # Squares are relative to the mean log loss that the points were centred by.
        objective=float(ends.value[best] * (np.exp(2 * centers[2]) if loss is Loss.mse else 1.0)),
        converged=bool(ends.converged[best]),
        gradient=gradient,
        condition=condition,
        n_starts=len(moved),
        starts_moved=starts_moved,
        starts_reached=int(reached.sum()),
        n_basins=len(basins),
        n_runs=int(used.sum()),
        residuals=formula.log_prediction(theta[None], points.x, points.y)[0] - points.log_loss,
        theta=theta,
        centers=centers,
    )
    return fit, Reference(formula, points, ends.theta[basins], loss, delta, fit.residuals)


def _counts(weights: Floats | None, n_runs: int) -> Floats:
    """Return how often each run counts.

    Raises:
        InputError: The weights are not as many as the runs, are negative, or are no counts.
    """
    if weights is None:
        return np.ones(n_runs)
    if weights.shape != (n_runs,):
        raise InputError(f"{weights.shape} weights for {n_runs} runs; give one a run")
    if not (np.isfinite(weights) & (weights >= 0)).all():
        raise InputError("weights must be finite and not negative: they count runs")
    mean = float(weights.mean())
    if not LIKELY_WEIGHTS[0] <= mean <= LIKELY_WEIGHTS[1]:
        raise InputError(
            f"weights average {mean:.3g}, but a weight is how often a run counts, 1 for each by "
            "default; variances, standard deviations and their inverses are no counts: divide "
            "1 / variance by its mean"
        )
    return weights


def _descend_from_all(
    formula: Formula, points: Points, counts: Floats, loss: Loss, delta: float
) -> tuple[Solved, NDArray[np.bool_]]:
    """Return the end of every start, and which left their place."""
    starts = find_starts(formula, points)
    # Least squares crosses flat ridges on which sharp costs crawl: its best end is a start too.
    smooth = newton.solve(starts, Objective(formula, points, counts, surface.huber(SMOOTH_DELTA)))
    origin = int(np.argmin(smooth.value))
    ends = descend(
        np.concatenate([smooth.theta[[origin]], starts]), formula, points, counts, loss, delta
    )
    away = ends.theta - np.concatenate([starts[[origin]], starts])
    return ends, np.asarray(np.abs(away).max(axis=1) > 1e-6)


def _choose(ends: Solved) -> tuple[int, NDArray[np.bool_], list[int]]:
    """Return the best end, which starts reached it, and one end of each of the two best basins."""
    if not ends.converged.any():
        raise RefusedError(
            f"none of {len(ends.value)} starts converged, so there is no fit to report; look for "
            "runs whose loss is far from their neighbours'"
        )
    value = np.where(ends.converged, ends.value, np.inf)
    best = int(np.argmin(value))
    reached = value <= value[best] * (1 + 1e-8) + 1e-20
    basins = [best]
    others = np.where(reached, np.inf, value)
    rival = int(np.argmin(others))
    if others[rival] < 2 * value[best]:
        basins.append(rival)
    return best, reached, basins


def fit_parametric(
    n_params: Floats,
    tokens: Floats,
    *,
    nats: Floats,
    form: Form = Form.chinchilla,
    loss: Loss = Loss.huber,
    delta: float = 1e-3,
    resamples: int = 4000,
    seed: int = 0,
    clusters: Ints | None = None,
    progress: Progress = lambda done: None,
) -> ParametricFit:
    """Fit the surface, resample runs for its intervals, and profile every parameter.

    Args:
        n_params: Shape (runs,). Parameters per run.
        tokens: Shape (runs,). Training tokens per run.
        nats: Shape (runs,). Final loss, nats per token.
        form: The surface's formula.
        loss: Cost of a residual.
        delta: For huber, nats of log loss.
        resamples: Bootstrap refits, each warm-started from the optimum (and the next basin).
        seed: Seeds the resampling.
        clusters: Shape (runs,). Which run a row is a checkpoint of, from 0 without gaps; rows of
            one run are resampled together. None takes every row as its own run.
        progress: Called with the number of refits just done.

    Returns:
        The converged global fit and its intervals.

    Raises:
        InputError: A value is not positive.
        RefusedError: As fit_surface; or there are too few clusters, most refits failed, or the
            runs do not bound a.
    """
    fit, reference = certify(n_params, tokens, nats, form, loss, delta)
    n_clusters = len(nats) if clusters is None else int(clusters.max()) + 1
    if n_clusters <= fit.formula.n_free:
        raise RefusedError(
            f"the rows are checkpoints of {n_clusters} runs, too few to resample for a surface of "
            f"{fit.formula.n_free} parameters; add runs until there are {fit.formula.n_free + 1}"
        )
    resample = resample_counts if _in_pairs(loss, n_clusters) else resample_weights
    batches = resample(len(nats), resamples, seed, clusters)
    thetas, failed = refit_resamples(reference, batches, progress)
    # A coefficient beyond floating point is a huge one, not a missing one.
    draws = np.clip(fit.formula.named(thetas, fit.centers), -1e300, 1e300)
    # Plain percentiles: pairs of few runs already scatter more than the estimate does, and
    # expanding their percentiles as for a mean covers 100 % (docs/results/coverage.md).
    intervals = {name: percentile_interval(draws[:, k]) for k, name in enumerate(fit.names)}
    profiles = profile_intervals(reference, fit.theta, fit.centers, n_clusters)
    _check_bounded(fit.values["a"], intervals["a"], profiles["a"])
    return ParametricFit(
        **vars(fit),
        intervals=intervals,
        draws=draws,
        n_failed=failed,
        n_clusters=n_clusters,
        profiles=profiles,
    )


def _check_bounded(a: float, interval: Interval, profile: Profile) -> None:
    """Refuse an exponent that neither the profile nor the bootstrap bounds.

    Raises:
        RefusedError: It is one.
    """
    low, high = interval
    if profile.is_open and high - low > UNBOUNDED:
        raise RefusedError(
            f"the runs do not bound a: the best surface has {a:.3g}, resamples anything from "
            f"{low:.3g} to {high:.3g}, and the profile likelihood has no end on either side; add "
            "runs, seeds of each, or sizes and token counts further apart"
        )
