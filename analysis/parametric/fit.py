"""Approach 3: fit a surface L(N, D), with its intervals, or say why not.

What is fitted is the global minimum: starts from every basin of a grid, then exact Newton steps.
N and D are the arrays handed in; which convention they count is the caller's business.
"""

from collections.abc import Callable

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
from analysis.parametric.result import ParametricFit, SurfaceFit, in_pairs
from analysis.parametric.starts import find_starts
from analysis.parametric.surface import Points

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Progress = Callable[[int], None]

SMOOTH_DELTA = 1.0
"""Nats of log loss below which every residual lies: Huber is then plain least squares."""

LIKELY_WEIGHTS = (0.01, 100.0)
"""Mean of weights that count runs. 1 / variance of a loss is 1e4 and more."""


UNBOUNDED = 0.5
"""Width of an interval of a, half of all values, that with an open profile is no answer."""


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
    resample = resample_counts if in_pairs(loss, n_clusters) else resample_weights
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
