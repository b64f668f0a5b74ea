"""Approach 3: fit L(N, D) = E + A/N**alpha + B/D**beta, with its interval, or say why not.

What is fitted is the global minimum: starts from every basin of a grid, then exact Newton steps.
N and D are the arrays handed in; which convention they count is the caller's business.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis import surface
from analysis.bootstrap import Interval, percentile_interval, resample_counts
from analysis.config import Loss
from analysis.errors import RefusedError
from analysis.starts import find_starts
from analysis.surface import Points, Solved

Floats = NDArray[np.float64]
Progress = Callable[[int], None]

MIN_RUNS = 6
"""One more than the surface has parameters."""

MIN_SIZES = 3
"""Sizes below which E, A and alpha trade off freely; the same for token counts."""

MIN_SPREAD = 0.1
"""Natural-log sd of the runs across the line that fits (log N, log D) best; below it N and D
move together, and A/N**alpha cannot be told from B/D**beta."""

LAD_DELTAS = (1e-3, 1e-5, 1e-7, 1e-9)
"""Huber thresholds on the way to absolute deviations."""

SMOOTH_DELTA = 1.0
"""Nats of log loss below which every residual lies: Huber is then plain least squares."""

NAMES = ("E", "A", "B", "alpha", "beta", "a")


@dataclass(frozen=True)
class ParametricFit:
    """The surface, and the bootstrap's draws of it."""

    values: dict[str, float]
    """E, A, B, alpha, beta and a = beta / (alpha + beta)."""
    intervals: dict[str, Interval]
    """95 % percentile intervals of the same."""
    loss: Loss
    delta: float
    objective: float
    """Sum over runs of Huber terms, absolute log residuals, or squared nats."""
    n_starts: int
    starts_moved: int
    """Starts that left their place and reached this optimum."""
    n_basins: int
    """Distinct optima that the starts reached."""
    n_runs: int
    residuals: Floats
    """Shape (runs,). Log prediction minus log loss, in the order of the runs."""
    draws: Floats
    """Shape (resamples that converged, 6), columns NAMES."""
    n_failed: int
    """Resamples whose refit did not converge; they are in no interval."""

    @property
    def b(self) -> float:
        """Exponent of D_opt ~ C**b, which is 1 - a."""
        return 1.0 - self.values["a"]

    @property
    def residual_sd(self) -> float:
        """Sd of log residuals, 5 parameters spent."""
        return float(np.sqrt(self.residuals @ self.residuals / (self.n_runs - 5)))

    def predict(self, n_params: Floats, tokens: Floats) -> Floats:
        """Return the surface's loss in nats."""
        v = self.values
        return v["E"] + v["A"] / n_params ** v["alpha"] + v["B"] / tokens ** v["beta"]


def fit_parametric(
    n_params: Floats,
    tokens: Floats,
    *,
    nats: Floats,
    loss: Loss = Loss.huber,
    delta: float = 1e-3,
    resamples: int = 4000,
    seed: int = 0,
    progress: Progress = lambda done: None,
) -> ParametricFit:
    """Fit the surface and resample runs in pairs for its intervals.

    Args:
        n_params: Shape (runs,). Parameters per run.
        tokens: Shape (runs,). Training tokens per run.
        nats: Shape (runs,). Final loss, nats per token.
        loss: Cost of a residual.
        delta: For huber, nats of log loss.
        resamples: Bootstrap refits, each warm-started from the optimum (and the next basin).
        seed: Seeds the resampling.
        progress: Called with the number of refits just done.

    Returns:
        The converged global fit.

    Raises:
        RefusedError: The runs do not identify the surface, or no start converged on one.

    Source:
        Hoffmann et al. 2022 (arXiv:2203.15556), section 3.3. The objective is the *sum* of Huber
        terms: with their mean, default tolerances stop at the second iteration.
    """
    check_design(n_params, tokens)
    log_n, log_d = np.log(n_params), np.log(tokens)
    centers = (float(log_n.mean()), float(log_d.mean()))
    points = Points(log_n - centers[0], log_d - centers[1], np.log(nats))
    once = np.ones((1, len(nats)))
    starts = find_starts(points)
    # Least squares crosses flat ridges on which sharp costs crawl: its best end is a start too.
    smooth = surface.solve(starts, points, once, surface.huber(SMOOTH_DELTA))
    starts = np.concatenate([smooth.theta[[np.argmin(smooth.value)]], starts])
    ends = _descend(starts, points, once, loss, delta)
    best, reached, basins = _choose(ends)
    moved = np.abs(ends.theta - starts).max(axis=1) > 1e-6
    values = _named(ends.theta[best : best + 1], centers)[0]
    _check_values(values)
    draws, failed = _bootstrap(ends.theta[basins], points, loss, delta, resamples, seed, progress)
    named = _named(draws, centers)
    residual = points.log_loss - surface.log_prediction(ends.theta[[best]], points.x, points.y)[0]
    return ParametricFit(
        values=dict(zip(NAMES, map(float, values), strict=True)),
        intervals={name: percentile_interval(named[:, k]) for k, name in enumerate(NAMES)},
        loss=loss,
        delta=delta,
        objective=float(ends.value[best]),
        n_starts=len(starts),
        starts_moved=int((reached & moved).sum()),
        n_basins=len(basins),
        n_runs=len(nats),
        residuals=residual,
        draws=named,
        n_failed=failed,
    )


def check_design(n_params: Floats, tokens: Floats) -> None:
    """Refuse sets of runs that cannot determine five parameters.

    Raises:
        RefusedError: Too few runs, sizes or token counts, or N and D move together.
    """
    if len(n_params) < MIN_RUNS:
        raise RefusedError(
            f"{len(n_params)} usable runs for the surface's 5 parameters; add runs until there "
            f"are at least {MIN_RUNS}"
        )
    for name, values in (("model sizes", n_params), ("token counts", tokens)):
        distinct = _distinct(values)
        if distinct < MIN_SIZES:
            raise RefusedError(
                f"{distinct} distinct {name}; at least {MIN_SIZES} are needed, add runs at others"
            )
    log_n, log_d = np.log(n_params), np.log(tokens)
    spread, axes = np.linalg.eigh(np.cov(log_n, log_d))
    if np.sqrt(max(spread[0], 0.0)) < MIN_SPREAD:
        power = axes[1, 1] / axes[0, 1] if abs(axes[0, 1]) > 1e-9 else np.inf
        ratio = float(np.median(tokens / n_params))
        one_ratio = abs(power - 1) < 0.05
        what = f"at D/N = {ratio:.3g}" if one_ratio else f"on one line, D ~ N^{power:.2f}"
        raise RefusedError(
            f"all runs are {what}, so the part of the loss due to N cannot be told from that due "
            "to D; add runs of the same sizes with several times more and fewer tokens"
        )


def _distinct(values: Floats) -> int:
    """Count values that differ by more than 1 %, at most MIN_SIZES."""
    count, last = 0, 0.0
    for value in np.unique(values):
        if value > 1.01 * last:
            count, last = count + 1, float(value)
        if count == MIN_SIZES:
            break
    return count


def _descend(theta: Floats, points: Points, weights: Floats, loss: Loss, delta: float) -> Solved:
    """Minimise the chosen cost; absolute deviations are the limit of ever sharper Huber costs."""
    if loss is Loss.huber:
        return surface.solve(theta, points, weights, surface.huber(delta))
    if loss is Loss.mse:
        return surface.solve(theta, points, weights, surface.squares_in_nats)
    for sharp in LAD_DELTAS:
        solved = surface.solve(theta, points, weights, surface.huber(sharp))
        theta = solved.theta
    # Outside delta a Huber term is delta * (|r| - delta / 2).
    value = solved.value / LAD_DELTAS[-1] + 0.5 * LAD_DELTAS[-1] * weights.sum(axis=1)
    return Solved(theta, value, solved.converged)


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


def _check_values(values: Floats) -> None:
    named = dict(zip(NAMES, values, strict=True))
    for name in ("alpha", "beta"):
        if not 1e-3 < named[name] < 10:
            raise RefusedError(
                f"the best surface has {name} = {named[name]:.3g}, outside 0.001..10: these runs "
                f"do not show how loss falls with {'N' if name == 'alpha' else 'D'}; add runs "
                "that vary it more"
            )


def _bootstrap(
    optima: Floats,
    points: Points,
    loss: Loss,
    delta: float,
    resamples: int,
    seed: int,
    progress: Progress,
) -> tuple[Floats, int]:
    """Refit every resample from each optimum; return the thetas that converged and the rest."""
    kept: list[Floats] = []
    failed = 0
    for weights in resample_counts(len(points.x), resamples, seed):
        best: Solved | None = None
        for optimum in optima:
            ends = _descend(
                np.repeat(optimum[None], len(weights), axis=0), points, weights, loss, delta
            )
            best = ends if best is None else _lower(best, ends)
        assert best is not None
        kept.append(best.theta[best.converged])
        failed += int((~best.converged).sum())
        progress(len(weights))
    draws = np.concatenate(kept)
    if failed > 0.2 * resamples:
        raise RefusedError(
            f"{failed} of {resamples} bootstrap refits did not converge: the runs do not pin the "
            "surface down; add runs, or sizes and token counts further apart"
        )
    return draws, failed


def _lower(one: Solved, other: Solved) -> Solved:
    """Take the lower converged end of each pair."""
    first = np.where(one.converged, one.value, np.inf)
    second = np.where(other.converged, other.value, np.inf)
    take = second < first
    return Solved(
        np.where(take[:, None], other.theta, one.theta),
        np.where(take, other.value, one.value),
        one.converged | other.converged,
    )


def _named(theta: Floats, centers: tuple[float, float]) -> Floats:
    """Turn thetas into columns NAMES."""
    e, a, b, alpha, beta = theta.T
    with np.errstate(over="ignore"):
        columns = (
            np.exp(e),
            np.exp(a + alpha * centers[0]),
            np.exp(b + beta * centers[1]),
            alpha,
            beta,
            beta / (alpha + beta),
        )
    return np.stack(columns, axis=1)
