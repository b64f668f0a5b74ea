"""The best learning rate and batch of every (N, D), with intervals."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.bootstrap import Interval
from analysis.learning_rate.response_surface import WINDOW_RISE, Optimum, fit_surface, resample
from analysis.learning_rate.tuning_grid import Grid, make_grids

Floats = NDArray[np.float64]

OWN_FREEDOM = 6
"""Degrees of freedom from which a group's own scatter is its noise; below, the groups' together."""


@dataclass(frozen=True)
class TunedGroup:
    """One (N, D): its runs' learning rates and batches, and the best of them."""

    n_params: float
    tokens: float
    flops: float
    lr_opt: float
    """The surface's optimum, or the best learning rate tried where there is none."""
    lr_ci: Interval | None
    batch_opt: float
    """Tokens: the optimum, or the one batch that the learning rates were compared at; nan when
    the table does not say."""
    batch_ci: Interval | None
    """None also where batch was not compared."""
    loss: float
    """Nats per token at the optimum, from the surface: unlike the lowest cell, not biased low by
    having been picked for its noise."""
    lowest: float
    """Nats per token, the lowest cell."""
    penalty: float
    """Rise of log loss where the learning rate is off by a factor of 2; nan without an optimum."""
    batch_slope: float
    """d log(best learning rate) / d log(batch) away from the best batch; nan where not compared."""
    interior: bool
    why: str
    """Why it is not used."""
    grid: Grid
    optimum: Optimum


@dataclass(frozen=True)
class OptimaSurvey:
    """Every group's optimum, usable or not."""

    groups: tuple[TunedGroup, ...]
    noise: float
    """Sd of a log loss about the surfaces, all groups together."""
    column: str
    """The loss column that was used."""
    notes: tuple[str, ...]


def find_optima(
    frame: pd.DataFrame, *, resamples: int, seed: int, rise: float = WINDOW_RISE
) -> OptimaSurvey:
    """Find the best learning rate (and batch) of every (N, D).

    Args:
        frame: Columns n_params, tokens, loss, lr; batch_tokens, seed, run_id, flops where the
            table has them. `loss_smooth` is preferred to `loss` where it is there.
        resamples: Draws behind the intervals.
        seed: Seeds them.
        rise: Relative loss above the lowest that a surface is fitted to.

    Raises:
        RefusedError: There is no learning rate, or no (N, D) was trained at 3 of them.
    """
    grids, column, notes = make_grids(frame)
    surfaces = [fit_surface(grid.settings, grid.loss, rise) for grid in grids]
    known = [s for s in surfaces if np.isfinite(s.squares) and s.freedom > 0]
    freedom = sum(s.freedom for s in known)
    squares = sum(s.squares for s in known)
    seed_freedom = sum(grid.seed_freedom for grid in grids)
    if not freedom and seed_freedom:
        # No grid has a setting to spare, but replicas say what a loss is worth.
        squares, freedom = sum(grid.seed_squares for grid in grids), seed_freedom
    noise = float(np.sqrt(squares / freedom)) if freedom else float("nan")
    groups = []
    for k, (grid, surface) in enumerate(zip(grids, surfaces, strict=True)):
        own = surface.freedom >= OWN_FREEDOM and np.isfinite(surface.squares)
        sd = float(np.sqrt(surface.squares / surface.freedom)) if own else noise
        degrees = surface.freedom if own else freedom
        groups.append(_tuned(grid, resample(surface, sd, degrees, resamples, seed + k)))
    if not freedom and any(group.interior for group in groups):
        notes = (*notes, "Nothing measures the noise of a loss here: optima have no interval.")
    return OptimaSurvey(tuple(groups), noise, column, notes)


def _tuned(grid: Grid, optimum: Optimum) -> TunedGroup:
    surface, why = optimum.surface, optimum.why
    lowest = int(np.argmin(grid.loss))
    at, log_loss = surface.settings[lowest], surface.log_loss[lowest]
    if not why:
        at = surface.optimum
        log_loss = surface.height(at[None])[0]
    with_batch = surface.n_axes == 2
    return TunedGroup(
        grid.n_params,
        grid.tokens,
        grid.flops,
        float(np.exp(at[0])),
        optimum.interval[0] if optimum.interval else None,
        float(np.exp(at[1])) if with_batch else grid.batch_tokens,
        optimum.interval[1] if optimum.interval and with_batch else None,
        float(np.exp(log_loss)),
        float(grid.loss[lowest]),
        float("nan") if why else surface.penalty,
        float("nan") if why else surface.batch_slope,
        not why,
        why,
        grid,
        optimum,
    )
