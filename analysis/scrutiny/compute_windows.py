"""The surface fitted to ranges of compute: which runs a window holds, its exponent and resamples.

Windows hold equally many rows but for rows of one C, which stay together. Every window sees the
same resamples of runs, so that differences between windows have the right spread.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.bootstrap import Interval, percentile_interval
from analysis.config import Form, Loss
from analysis.errors import RefusedError
from analysis.isoflop.budgets import GAP
from analysis.parametric.fit import certify
from analysis.parametric.frontier import SIX_ND, CostLaw
from analysis.parametric.reweighted import refit_reweighted

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

WINDOWS = 3
"""Windows of C: thirds of the runs where a third is enough, else overlapping halves."""

ENOUGH_RUNS = 60
"""Runs of a window from which narrower windows than halves are worth their noise."""

MIN_RUNS = 15
"""Runs of a window: three for each parameter of the surface."""

MIN_DECADES = 1.0
"""Range of C below which a drift per decade is an extrapolation."""

MAX_LOST = 0.2
"""Share of resamples that may leave a window without an exponent."""


@dataclass(frozen=True)
class ComputeWindow:
    """The exponent of the runs, or of the law, in one range of C."""

    flops: tuple[float, float]
    """Smallest and largest C."""
    center: float
    """C at the mean of its log."""
    n_runs: int
    """Runs, or valleys."""
    a: float
    interval: Interval


def cut_windows(flops: Floats, decades: float, n_runs: int) -> list[Mask]:
    """Return which rows each window holds, from the lowest C up.

    Args:
        flops: Shape (rows,). C.
        decades: Of C, in all.
        n_runs: Runs behind the rows.

    Raises:
        RefusedError: Too few runs or too little range.
    """
    if n_runs < 2 * MIN_RUNS:
        raise RefusedError(
            f"{n_runs} runs; a(C) needs {MIN_RUNS} in each half of the range, add runs until "
            f"there are {2 * MIN_RUNS}"
        )
    check_decades(decades)
    ordered = np.sort(flops)
    size = len(flops) // (3 if n_runs >= 3 * ENOUGH_RUNS else 2)
    starts = np.linspace(0, len(flops) - size, WINDOWS).round().astype(int)
    low = ordered[starts] * np.exp(-GAP)
    high = ordered[starts + size - 1] * np.exp(GAP)
    return [(flops >= one) & (flops <= other) for one, other in zip(low, high, strict=True)]


def check_decades(decades: float) -> None:
    """Refuse a range of C too short to show a drift.

    Raises:
        RefusedError: It is.
    """
    if decades < MIN_DECADES - 1e-9:
        raise RefusedError(
            f"{decades:.2g} decades of compute; at least {MIN_DECADES:g} are needed to see an "
            "exponent drift, add budgets further down or up"
        )


@dataclass(frozen=True)
class WindowFit:
    """A window with what its interval was made of."""

    window: ComputeWindow
    draws: Floats
    """Shape (resamples,). a; NaN where a resample leaves no surface."""
    n_free: int
    """Parameters of the surface."""


def fit_window(
    columns: tuple[Floats, Floats, Floats, Floats],
    inside: Mask,
    counts: Floats,
    clusters: Ints | None,
    form: Form,
    loss: Loss,
    delta: float,
    cost: CostLaw = SIX_ND,
) -> WindowFit:
    """Fit the surface to one window, and to every resample of it.

    Args:
        columns: N, D, C and L of all rows.
        inside: Shape (rows,). The window.
        counts: Shape (resamples, rows). How often each row was drawn.
        clusters: Shape (rows,). Which run a row belongs to; None takes each row as a run.
        form: The surface's formula.
        loss: Cost of a residual.
        delta: For huber, nats of log loss.
        cost: Of a run, that a is read at.

    Raises:
        RefusedError: The window's runs, or many of its resamples, identify no surface.
    """
    n, d, c, nats = (column[inside] for column in columns)
    low, high = float(c.min()), float(c.max())
    where = f"in the window C = {low:.3g} to {high:.3g}"
    try:
        fit, reference = certify(n, d, nats, form, loss, delta)
    except RefusedError as error:
        raise RefusedError(f"{where}: {error}") from None
    drawn = cost.exponent_from(refit_reweighted(reference, fit.centers[2], counts[:, inside]).a)
    lost = float(np.isnan(drawn).mean())
    if lost > MAX_LOST:
        raise RefusedError(
            f"{where}: {lost:.0%} of resamples leave no surface; add runs there, or sizes and "
            "token counts further apart"
        )
    runs = int(inside.sum()) if clusters is None else len(np.unique(clusters[inside]))
    n_free = len(fit.theta)
    interval = percentile_interval(drawn, n=runs, parameters=n_free)
    center = float(np.exp(np.log(c).mean()))
    return WindowFit(
        ComputeWindow((low, high), center, runs, cost.exponent_from(fit.values["a"]), interval),
        drawn,
        n_free,
    )
