"""Forecasts that can be checked: fit the smaller budgets, predict the largest, compare.

The error stands beside two yardsticks: the noise of single runs, which no forecast beats, and a
power law in C alone, which any surface worth fitting must beat. What is held out lies further up
than anything the fit saw, so this tests extrapolation and not fit.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import bdtr

from analysis.bootstrap import LEVEL
from analysis.config import Form, Loss, Method
from analysis.errors import RefusedError
from analysis.isoflop.budgets import group_budgets
from analysis.isoflop.fit import Valley
from analysis.isoflop.valley import MIN_SIZES
from analysis.scrutiny.forecast import LossForecast, SizeForecast, forecast_losses, forecast_sizes

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

MAX_BUDGETS = 3
"""Largest budgets held out together, one by one more."""

MIN_BUDGETS = 3
"""Budgets that must stay to fit: a law through fewer valleys is no forecast."""

SHARES = (1 / 6, 1 / 3, 1 / 2)
"""Shares of the runs held out, by C, where C varies continuously."""


FAILS = 2.0
"""Errors above this many times the noise are the fit's and not the runs'."""

LEAST_COVERAGE = 0.75
"""Share inside 95 % intervals below which those do not hold up there, unless so few runs were held
out that chance would do it."""

CHANCE = 0.01
"""Probability of so few inside, were the intervals right, below which it is not chance."""


@dataclass(frozen=True)
class Holdout:
    """One split: what was fitted, what was foreseen."""

    name: str
    fitted_to: float
    """Largest C that the fits saw."""
    held_out: tuple[float, float]
    """Smallest and largest C held out."""
    n_fitted: int
    n_held: int
    loss: LossForecast | None
    sizes: tuple[SizeForecast, ...]
    refused: str
    """Why the surface foresaw nothing; '' when it did."""

    @property
    def fails(self) -> bool:
        """Whether the surface foresaw, and missed by more than the yardsticks allow."""
        return self.loss is not None and bool(_meaning(self.loss))


@dataclass(frozen=True)
class Rollout:
    """Every split, the smallest step first."""

    holdouts: tuple[Holdout, ...]
    sentences: tuple[str, ...]
    """One a split."""


def validate_rollout(
    runs: pd.DataFrame,
    valleys: tuple[Valley, ...] = (),
    *,
    form: Form = Form.chinchilla,
    loss: Loss = Loss.huber,
    delta: float = 1e-3,
    method: Method = Method.cubic,
    resamples: int = 200,
    seed: int = 0,
) -> Rollout:
    """Hold out the largest budgets, forecast them from the rest, and measure the error.

    Args:
        runs: Columns n_params, tokens, flops, loss, run_id, counted in one convention; best runs
            of their cells.
        valleys: Every budget's, of all runs: what N_opt forecasts are compared with.
        form: The surface's formula.
        loss: Cost of a residual.
        delta: For huber, nats of log loss.
        method: The valleys' curve.
        resamples: Bootstrap refits behind prediction intervals.
        seed: Seeds them.

    Raises:
        RefusedError: No split leaves enough to fit.
    """
    splits = _split(runs["flops"].to_numpy(float))
    holdouts = []
    for name, held in splits:
        foreseen, fit, why = None, None, ""
        try:
            foreseen, fit = forecast_losses(runs, held, form, loss, delta, resamples, seed)
        except RefusedError as error:
            why = str(error)
        flops = runs["flops"].to_numpy(float)
        holdouts.append(
            Holdout(
                name=name,
                fitted_to=float(flops[~held].max()),
                held_out=(float(flops[held].min()), float(flops[held].max())),
                n_fitted=int((~held).sum()),
                n_held=int(held.sum()),
                loss=foreseen,
                sizes=forecast_sizes(runs, held, valleys, fit, method, resamples, seed),
                refused=why,
            )
        )
    if not any(item.loss or item.sizes for item in holdouts):
        raise RefusedError(f"no forecast could be made: {holdouts[0].refused}")
    return Rollout(tuple(holdouts), tuple(map(_sentence, holdouts)))


def _split(flops: Floats) -> list[tuple[str, Mask]]:
    """Return the runs held out of each split, with its name."""
    labels = group_budgets(flops)
    sizes = np.bincount(labels[labels >= 0], minlength=1)
    whole = np.flatnonzero(sizes >= MIN_SIZES)
    if sizes[whole].sum() < 0.5 * len(flops):
        cuts = [float(np.quantile(flops, 1 - share)) for share in SHARES]
        return [
            (f"the {share:.0%} of runs with the largest C", flops > cut)
            for share, cut in zip(SHARES, cuts, strict=True)
            if 0 < (flops > cut).sum() < len(flops)
        ]
    count = min(MAX_BUDGETS, len(whole) - MIN_BUDGETS)
    if count < 1:
        raise RefusedError(
            f"{len(whole)} budgets; a forecast of the largest needs {MIN_BUDGETS} smaller ones, "
            f"add {MIN_BUDGETS + 1 - len(whole)} budgets"
        )
    floors = [float(flops[labels == whole[-k]].min()) for k in range(1, count + 1)]
    names = ("the largest budget", *(f"the {k} largest budgets" for k in range(2, count + 1)))
    return [(name, flops >= floor) for name, floor in zip(names, floors, strict=True)]


def _meaning(loss: LossForecast) -> str:
    """Say what the yardsticks make of an error; '' where it passes."""
    worse = loss.error > loss.baseline
    inside = np.floor(loss.coverage * loss.n_runs + 1e-9)
    outside = loss.coverage < LEAST_COVERAGE and bdtr(inside, loss.n_runs, LEVEL) < CHANCE
    if worse or loss.error > FAILS * loss.noise or outside:
        tail = " (a power law that ignores N and D does better)" if worse else ""
        return f", so this fit does NOT extrapolate that far{tail}"
    return ""


def _sentence(item: Holdout) -> str:
    low, high = item.held_out
    reach = f"C = {high:.3g}" if high < low * 1.05 else f"C = {low:.3g} to {high:.3g}"
    told = f"From {item.n_fitted} runs up to C = {item.fitted_to:.3g}, {item.n_held} at {reach}: "
    if item.loss is None:
        return f"{told}no forecast, {item.refused}"
    told += (
        f"loss missed by {item.loss.error:.2%} rms (bias {item.loss.bias:+.2%}, noise "
        f"{item.loss.noise:.2%}, a power law in C alone {item.loss.baseline:.2%}), "
        f"{item.loss.coverage:.0%} inside their 95 % intervals"
    )
    told += _meaning(item.loss)
    if not item.sizes:
        return f"{told}."
    top = item.sizes[-1]
    parts = [
        f"{value:.3g} {word}"
        for value, word in ((top.by_valleys, "by valleys"), (top.by_surface, "by the surface"))
        if np.isfinite(value)
    ]
    return f"{told}; N_opt at C = {top.flops:.3g} foreseen as {', '.join(parts)}, measured " + (
        f"{top.measured:.3g}."
    )
