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
from analysis.budgets import GAP
from analysis.config import Form, Loss
from analysis.errors import RefusedError
from analysis.isoflop import Valley
from analysis.parametric import SurfaceFit, certify
from analysis.refits import Reference
from analysis.reweighted import refit_reweighted

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

MIN_VALLEYS = 5
"""Valleys that a bent law needs: 3 parameters, and 2 points that could contradict it."""

BLUNT = 0.1
"""Half-width of the drift's interval, per decade, above which "no drift seen" says nothing: a
decade could take a from Chinchilla's .5 to .6."""

FLAG = 0.05
"""Level of the test."""

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
    """False where p is below 5 % and the interval leaves out zero."""
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
        resamples: Bootstrap refits of each window.
        seed: Seeds them.

    Raises:
        RefusedError: Too few runs or too little range for windows, a window does not identify the
            surface, or a drift that matters could not be seen.

    Source:
        Ours. The flag needs both the z of a robust standard error and the expanded percentile
        interval: on tables drawn from one surface it is raised in under 5 % of them, and on the
        240 points of Hoffmann et al. 2022 z is below -5 (tests/analysis/test_local.py).
    """
    decades = float(np.log10(flops.max() / flops.min()))
    n_clusters = len(flops) if clusters is None else int(clusters.max()) + 1
    ranges = _cut(flops, decades, n_clusters)
    counts = np.concatenate(list(resample_counts(len(flops), resamples, seed, clusters)))
    windows, draws, fewest = [], [], n_clusters
    for inside in ranges:
        fit, reference = _certify(
            n_params[inside], tokens[inside], flops[inside], nats[inside], form, loss, delta
        )
        drawn = refit_reweighted(reference, fit.centers[2], counts[:, inside]).a
        runs = int(inside.sum()) if clusters is None else len(np.unique(clusters[inside]))
        windows.append(_window(flops[inside], fit, drawn, runs))
        draws.append(drawn)
        fewest = min(fewest, runs)
    lever = _lever(np.log10([window.center for window in windows]))
    drift = float(lever @ [window.a for window in windows])
    drawn = np.stack(draws, axis=1) @ lever
    widening = float(np.sqrt(fewest / (fewest - len(fit.theta))))
    sd = widening * _robust_sd(drawn)
    interval = percentile_interval(drawn, n=fewest, parameters=len(fit.theta))
    p = float(2.0 * ndtr(-abs(drift) / sd))
    return _judge("surface", tuple(windows), drift, interval, drift / sd, p, decades)


def local_exponent_of_valleys(valleys: tuple[Valley, ...]) -> LocalExponent:
    """Give the law of N_opt a quadratic term in log C and test whether it is zero.

    Args:
        valleys: Every budget's; those not bracketed are left out.

    Raises:
        RefusedError: Too few bracketed valleys, too little range, or a drift that matters could
            not be seen.

    Source:
        Least squares weighted by each valley's own standard error; where the valleys scatter more
        than those explain, errors are widened by sqrt(chi2 / freedom) and read against Student's t.
    """
    used = [v for v in valleys if v.bracketed and v.n_opt_ci is not None]
    if len(used) < MIN_VALLEYS:
        raise RefusedError(
            f"{len(used)} bracketed valleys; at least {MIN_VALLEYS} are needed to see the law "
            f"bend, add {MIN_VALLEYS - len(used)} budgets"
        )
    x = np.log10([v.flops for v in used])
    decades = float(np.ptp(x))
    _check_decades(decades)
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


def _cut(flops: Floats, decades: float, n_runs: int) -> list[Mask]:
    """Return windows with equally many rows, but for rows of one C, which stay together."""
    if n_runs < 2 * MIN_RUNS:
        raise RefusedError(
            f"{n_runs} runs; a(C) needs {MIN_RUNS} in each half of the range, add runs until "
            f"there are {2 * MIN_RUNS}"
        )
    _check_decades(decades)
    ordered = np.sort(flops)
    size = len(flops) // (3 if n_runs >= 3 * ENOUGH_RUNS else 2)
    starts = np.linspace(0, len(flops) - size, WINDOWS).round().astype(int)
    low = ordered[starts] * np.exp(-GAP)
    high = ordered[starts + size - 1] * np.exp(GAP)
    return [(flops >= one) & (flops <= other) for one, other in zip(low, high, strict=True)]


def _check_decades(decades: float) -> None:
    if decades < MIN_DECADES - 1e-9:
        raise RefusedError(
            f"{decades:.2g} decades of compute; at least {MIN_DECADES:g} are needed to see an "
            "exponent drift, add budgets further down or up"
        )


def _certify(
    n_params: Floats,
    tokens: Floats,
    flops: Floats,
    nats: Floats,
    form: Form,
    loss: Loss,
    delta: float,
) -> tuple[SurfaceFit, Reference]:
    """Fit one window, and name it where it refuses."""
    try:
        return certify(n_params, tokens, nats, form, loss, delta)
    except RefusedError as error:
        raise RefusedError(
            f"in the window C = {flops.min():.3g} to {flops.max():.3g}: {error}"
        ) from None


def _window(flops: Floats, fit: SurfaceFit, drawn: Floats, runs: int) -> ComputeWindow:
    low, high = float(flops.min()), float(flops.max())
    lost = float(np.isnan(drawn).mean())
    if lost > MAX_LOST:
        raise RefusedError(
            f"in the window C = {low:.3g} to {high:.3g}: {lost:.0%} of resamples leave no surface; "
            "add runs there, or sizes and token counts further apart"
        )
    interval = percentile_interval(drawn, n=runs, parameters=len(fit.theta))
    center = float(np.exp(np.log(flops).mean()))
    return ComputeWindow((low, high), center, runs, fit.values["a"], interval)


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
    stable = not (p < FLAG and (low > 0 or high < 0))
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
