"""Losses and optima of held-out runs, as fits to the others foresee them."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.bootstrap import LEVEL, Interval, resample_counts
from analysis.config import Form, Loss, Method
from analysis.errors import RefusedError
from analysis.intake.table import clusters
from analysis.isoflop.budgets import make_cells
from analysis.isoflop.fit import Valley, find_valleys, fit_isoflop
from analysis.parametric.fit import certify
from analysis.parametric.frontier import surfaces_of
from analysis.parametric.result import SurfaceFit
from analysis.parametric.reweighted import refit_reweighted
from analysis.powerlaw import Law, fit_power_law
from analysis.prediction.draws import fit_cost_law

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

MAX_LOST = 0.2
"""Share of resamples that may leave no surface."""

SAME_C = 0.05
"""Natural log: a valley belongs to a budget whose C is this near."""


@dataclass(frozen=True)
class LossForecast:
    """Losses of the held-out runs as the surface foresaw them; errors are of log loss."""

    error: float
    """Root mean square."""
    bias: float
    """Mean of forecast minus measured: above 0, the runs came out better than foreseen."""
    noise: float
    """Sd of residuals of the runs that were fitted."""
    baseline: float
    """Root mean square error of a power law in C alone, fitted to the same runs."""
    coverage: float
    """Share of held-out rows inside their 95 % prediction interval."""
    n_runs: int
    """Held-out runs; fewer than rows where several rows are one run's checkpoints."""


@dataclass(frozen=True)
class SizeForecast:
    """N_opt of one held-out budget."""

    flops: float
    measured: float
    """By its own valley."""
    by_valleys: float
    """Extrapolated from the smaller budgets' valleys; nan where those have no law."""
    interval: Interval
    """95 %, of by_valleys."""
    by_surface: float
    """nan where there is no surface."""


def forecast_losses(
    runs: pd.DataFrame,
    held: Mask,
    form: Form,
    loss: Loss,
    delta: float,
    resamples: int,
    seed: int,
) -> tuple[LossForecast, SurfaceFit]:
    """Fit the surface to what is left and compare its forecasts with what is held out.

    Args:
        runs: Columns n_params, tokens, flops, loss, run_id.
        held: Shape (runs,). What is held out.
        form: The surface's formula.
        loss: Cost of a residual.
        delta: For huber, nats of log loss.
        resamples: Refits behind the prediction intervals.
        seed: Seeds them.

    Raises:
        RefusedError: The other runs, or many of their resamples, identify no surface.
    """
    n, d, c, nats = (runs[name].to_numpy(float) for name in ("n_params", "tokens", "flops", "loss"))
    fitted = ~held
    fit, reference = certify(n[fitted], d[fitted], nats[fitted], form, loss, delta)
    codes = clusters(runs[fitted])
    counts = np.concatenate(list(resample_counts(int(fitted.sum()), resamples, seed, codes)))
    theta = refit_reweighted(reference, fit.centers[2], counts).theta
    theta = theta[np.isfinite(theta).all(axis=1)]
    if len(theta) < (1 - MAX_LOST) * resamples:
        raise RefusedError(
            f"{resamples - len(theta)} of {resamples} resamples leave no surface; add runs at "
            "smaller budgets"
        )
    x, y = np.log(n[held]) - fit.centers[0], np.log(d[held]) - fit.centers[1]
    foreseen = fit.formula.log_prediction(theta, x, y) + fit.centers[2]
    free = len(fit.residuals) / (len(fit.residuals) - len(fit.theta))
    rng = np.random.default_rng(seed)
    luck = rng.choice(np.sqrt(free) * fit.residuals, foreseen.shape)
    low, high = np.percentile(foreseen - luck, [50 * (1 - LEVEL), 50 * (1 + LEVEL)], axis=0)
    actual = np.log(nats[held])
    miss = np.log(fit.predict(n[held], d[held])) - actual
    naive = np.log(fit_power_law(c[fitted], nats[fitted]).at(c[held])) - actual
    return LossForecast(
        error=_rms(miss),
        bias=float(miss.mean()),
        noise=fit.residual_sd,
        baseline=_rms(naive),
        coverage=float(((actual >= low) & (actual <= high)).mean()),
        n_runs=int(runs["run_id"][held].nunique()),
    ), fit


def _rms(values: Floats) -> float:
    return float(np.sqrt((values * values).mean()))


def forecast_sizes(
    runs: pd.DataFrame,
    held: Mask,
    valleys: tuple[Valley, ...],
    fit: SurfaceFit | None,
    method: Method,
    resamples: int,
    seed: int,
) -> tuple[SizeForecast, ...]:
    """Forecast N_opt of each held-out budget that has a valley of its own.

    Args:
        runs: As for forecast_losses.
        held: Shape (runs,). What is held out.
        valleys: Every budget's, of all runs.
        fit: The surface of the other runs; None when it was refused.
        method: The valleys' curve.
        resamples: Draws behind the interval.
        seed: Seeds them.
    """
    above = np.log(runs["flops"].to_numpy(float)[held].min()) - SAME_C
    wanted = [v for v in valleys if v.bracketed and np.log(v.flops) >= above]
    law = _law_of_rest(runs[~held], method, resamples, seed) if wanted else None
    if law is None and fit is None:
        return ()
    columns = (runs[name].to_numpy(float)[~held] for name in ("n_params", "tokens", "flops"))
    cost = fit_cost_law(*columns)
    nan = float("nan")
    found = []
    for valley in wanted:
        at = np.array([valley.flops])
        by_surface = nan
        if fit is not None:
            by_surface = float(np.exp(surfaces_of(fit).log_optimal_size(at, cost)[0, 0]))
        by_valleys, interval = nan, (nan, nan)
        if law is not None:
            low, high = law.band(at)
            by_valleys, interval = float(law.fit.at(at)[0]), (float(low[0]), float(high[0]))
        found.append(SizeForecast(valley.flops, valley.n_opt, by_valleys, interval, by_surface))
    return tuple(found)


def _law_of_rest(runs: pd.DataFrame, method: Method, resamples: int, seed: int) -> Law | None:
    cells = make_cells(runs)
    try:
        return fit_isoflop(find_valleys(cells, method, resamples, seed), cells, seed).n_law
    except RefusedError:
        return None
