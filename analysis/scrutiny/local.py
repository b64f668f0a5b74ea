"""Whether one exponent describes all budgets: a(C) in windows of compute, and a test of its drift.

A single a averages over whatever a does within the range. Here the surface is fitted to windows of
C alone; a line through the windows' exponents has a slope, the drift of a per decade, whose
interval comes from the same resamples of runs in every window. Or the law through valleys is given
a quadratic term. Where runs are too few to see a drift that would matter, that is a refusal and not
stability.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtr, stdtrit

from analysis.bootstrap import LEVEL, Interval, percentile_interval, resample_counts
from analysis.config import Form, Loss
from analysis.errors import RefusedError
from analysis.isoflop.fit import Valley
from analysis.parametric.frontier import SIX_ND, CostLaw
from analysis.scrutiny.compute_windows import ComputeWindow, check_decades, cut_windows, fit_window

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MIN_VALLEYS = 5
"""Valleys that a bent law needs: 3 parameters, and 2 points that could contradict it."""

BLUNT = 0.08
"""Half-width of the drift's interval, per decade, above which "no drift seen" says nothing: three
decades could take a from Chinchilla's .5 to Kaplan's .73."""

MOST_ROWS = 2_000_000
"""Rows times resamples; beyond, fewer resamples are drawn, but never under FEWEST."""

FEWEST = 100
"""Resamples behind a standard error at least: its own error is then 7 %."""

FLAG = 0.05
"""Level of the test."""

NO_DRIFT = 0.002
"""Change of a per decade of C that is none, however well it is measured: over ten decades it stays
inside the interval of any study there is, and a cubic's valleys move by as much."""


@dataclass(frozen=True)
class LocalExponent:
    """a(C), and whether it drifts."""

    source: str
    """surface or valleys."""
    windows: tuple[ComputeWindow, ...]
    drift: float
    """Change of a per decade of C."""
    interval: Interval
    """95 %."""
    z: float
    """The drift over its standard error."""
    p: float
    """Probability of a drift at least as large where there is none."""
    stable: bool
    """False where p is below 5 %, the interval leaves out zero, and the drift exceeds NO_DRIFT."""
    decades: float
    """Of C between the smallest and largest run or valley."""
    sentence: str


def local_exponent_of_surface(
    n_params: Floats,
    tokens: Floats,
    flops: Floats,
    nats: Floats,
    *,
    form: Form = Form.chinchilla,
    loss: Loss = Loss.huber,
    delta: float = 1e-3,
    clusters: Ints | None = None,
    cost: CostLaw = SIX_ND,
    resamples: int = 400,
    seed: int = 0,
) -> LocalExponent:
    """Fit the surface in windows of C and test whether its exponent drifts.

    Args:
        n_params: Shape (runs,). Parameters per run.
        tokens: Shape (runs,). Training tokens per run.
        flops: Shape (runs,). C of each run.
        nats: Shape (runs,). Final loss, nats per token.
        form: The surface's formula.
        loss: Cost of a residual.
        delta: For huber, nats of log loss.
        clusters: Shape (runs,). Which run a row belongs to; None takes each row as a run.
        cost: Of a run, that a is read at.
        resamples: Bootstrap refits of each window.
        seed: Seeds them.

    Raises:
        RefusedError: Too few runs or too little range for windows, a window does not identify the
            surface, or a drift that matters could not be seen.

    Source:
        Ours. The flag needs both the z of a robust standard error and the expanded percentile
        interval. On tables drawn from one surface it is raised in 4 of 800 (35 to 90 runs) and 2
        of 200 (the design and residuals of Hoffmann et al. 2022); on their own 240 points z is -5.
    """
    decades = float(np.log10(flops.max() / flops.min()))
    n_clusters = len(flops) if clusters is None else int(clusters.max()) + 1
    ranges = cut_windows(flops, decades, n_clusters)
    few = min(resamples, max(FEWEST, MOST_ROWS // len(flops)))
    counts = np.concatenate(list(resample_counts(len(flops), few, seed, clusters)))
    columns = n_params, tokens, flops, nats
    fits = [fit_window(columns, rows, counts, clusters, form, loss, delta, cost) for rows in ranges]
    windows = tuple(fit.window for fit in fits)
    lever = _lever(np.log10([window.center for window in windows]))
    drift = float(lever @ [window.a for window in windows])
    drawn = np.stack([fit.draws for fit in fits], axis=1) @ lever
    fewest, n_free = min(window.n_runs for window in windows), fits[0].n_free
    interval = percentile_interval(drawn, n=fewest, parameters=n_free)
    sd = float(np.sqrt(fewest / (fewest - n_free))) * _robust_sd(drawn)
    p = float(2.0 * ndtr(-abs(drift) / sd))
    return _judge("surface", windows, drift, interval, drift / sd, p, decades)


def local_exponent_of_valleys(valleys: tuple[Valley, ...]) -> LocalExponent:
    """Give the law of N_opt a quadratic term in log C and test whether it is zero.

    Args:
        valleys: Every budget's; those not bracketed are left out.

    Raises:
        RefusedError: Too few bracketed valleys, too little range, or a drift that matters could
            not be seen.

    Source:
        Least squares weighted by each valley's own standard error; where the valleys scatter more
        than those explain, errors are widened by sqrt(chi2 / freedom) and read against Student's
        t. On tables drawn from one surface the flag is raised in 18 of 600.
    """
    used = [v for v in valleys if v.bracketed and v.n_opt_ci is not None]
    if len(used) < MIN_VALLEYS:
        raise RefusedError(
            f"{len(used)} bracketed valleys; at least {MIN_VALLEYS} are needed to see the law "
            f"bend, add {MIN_VALLEYS - len(used)} budgets"
        )
    x = np.log10([v.flops for v in used])
    decades = float(np.ptp(x))
    check_decades(decades)
    y = np.log10([v.n_opt for v in used])
    ends = np.log10([v.n_opt_ci for v in used if v.n_opt_ci is not None])
    sd = np.maximum((ends[:, 1] - ends[:, 0]) / (2 * 1.96), 1e-6)
    middle = x.mean()
    design = np.stack([np.ones_like(x), x - middle, (x - middle) ** 2], axis=1)
    gram = np.linalg.inv((design / sd[:, None]).T @ (design / sd[:, None]))
    theta = gram @ (design / sd[:, None] ** 2).T @ y
    residual = (y - design @ theta) / sd
    freedom = len(x) - 3
    excess = float(residual @ residual) / freedom
    gram = gram * max(1.0, excess)
    at = np.array([x.min(), middle, x.max()])
    slopes = np.stack([np.zeros(3), np.ones(3), 2.0 * (at - middle)], axis=1)
    spread = np.sqrt(np.einsum("ij,jk,ik->i", slopes, gram, slopes))
    quantile = float(stdtrit(freedom, 0.5 * (1 + LEVEL))) if excess > 1 else 1.96
    windows = tuple(
        ComputeWindow(
            (float(10.0**c),) * 2, float(10.0**c), len(x), a, (a - quantile * e, a + quantile * e)
        )
        for c, a, e in zip(at, map(float, slopes @ theta), map(float, spread), strict=True)
    )
    drift, error = float(2.0 * theta[2]), float(2.0 * np.sqrt(gram[2, 2]))
    z = drift / error
    p = float(2.0 * (stdtr(freedom, -abs(z)) if excess > 1 else ndtr(-abs(z))))
    interval = (drift - quantile * error, drift + quantile * error)
    return _judge("valleys", windows, drift, interval, z, p, decades)


def _lever(x: Floats) -> Floats:
    """Return what each value weighs in the slope of a line through values at x."""
    dx = x - x.mean()
    return np.asarray(dx / (dx @ dx))


def _robust_sd(drawn: Floats) -> float:
    """Return the sd of a normal with the same middle 68 %: few refits of a window run far off."""
    low, high = np.nanpercentile(drawn, [15.866, 84.134])
    return max(0.5 * float(high - low), 1e-12)


def _judge(
    source: str,
    windows: tuple[ComputeWindow, ...],
    drift: float,
    interval: Interval,
    z: float,
    p: float,
    decades: float,
) -> LocalExponent:
    """Say whether a drifts, and refuse where a drift that matters could hide."""
    low, high = interval
    stable = not (p < FLAG and (low > 0 or high < 0) and abs(drift) > NO_DRIFT)
    half = 0.5 * (high - low)
    if stable and half > BLUNT:
        raise RefusedError(
            f"by {source}, the drift of a is {drift:+.3f} +- {half:.3f} per decade of compute: a "
            f"drift of {BLUNT:g} would go unseen, so stability cannot be claimed; add runs, or "
            f"budgets beyond these {decades:.2g} decades"
        )
    first, last = windows[0], windows[-1]
    change = (
        f"a is {first.a:.3f} around C = {first.center:.2g} and {last.a:.3f} around "
        f"{last.center:.2g} (by {source}: {drift:+.3f} [{low:+.3f}, {high:+.3f}] per decade"
    )
    sentence = (
        f"One exponent describes these budgets: {change}, within noise)."
        if stable
        else f"The exponent DRIFTS: {change}, z = {z:.1f}), so a single a averages over the range "
        "and does not extrapolate."
    )
    return LocalExponent(source, windows, drift, interval, z, p, stable, decades, sentence)
