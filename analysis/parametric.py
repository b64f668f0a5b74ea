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
from analysis.config import Form, Loss
from analysis.errors import OptionError, RefusedError
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
class SurfaceFit:
    """The surface at its certified optimum."""

    form: Form
    values: dict[str, float]
    """E, A, B, alpha, beta and a = beta / (alpha + beta)."""
    loss: Loss
    delta: float
    objective: float
    """Sum over runs of Huber terms, absolute log residuals, or squared nats."""
    converged: bool
    """Whether a full Newton step would lower the objective by less than one part in 1e13."""
    gradient: float
    """Cosine between the runs' scores and the surface's tangent space: 0 at an optimum, at most 1,
    whatever the units (MINPACK's gtol)."""
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
    """Shape (5,). log E, log A', log B', alpha, beta, with A' and B' at `centers`."""
    centers: tuple[float, float]
    """Means of log N and of log D."""

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
        x, y = np.log(n_params) - self.centers[0], np.log(tokens) - self.centers[1]
        shape = np.broadcast(x, y).shape
        x, y = np.broadcast_to(x, shape).ravel(), np.broadcast_to(y, shape).ravel()
        log_loss = surface.log_prediction(self.theta[None], x, y)[0]
        return np.asarray(np.exp(log_loss).reshape(shape), dtype=np.float64)


@dataclass(frozen=True)
class ParametricFit(SurfaceFit):
    """The certified surface, and the bootstrap's draws of it."""

    intervals: dict[str, Interval]
    """95 % percentile intervals of the values."""
    draws: Floats
    """Shape (resamples that converged, 6), columns NAMES."""
    n_failed: int
    """Resamples whose refit did not converge; they are in no interval."""


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
        weights: Shape (runs,). How often each run counts; 2 is the same as the run given twice.

    Returns:
        The converged global fit.

    Raises:
        RefusedError: The runs do not identify the surface, or no start converged on one.

    Source:
        Hoffmann et al. 2022 (arXiv:2203.15556), section 3.3. The objective is the *sum* of Huber
        terms: with their mean, default tolerances stop at the second iteration.
    """
    return _certify(n_params, tokens, nats, form, loss, delta, weights)[0]


def _certify(
    n_params: Floats,
    tokens: Floats,
    nats: Floats,
    form: Form,
    loss: Loss,
    delta: float,
    weights: Floats | None,
) -> tuple[SurfaceFit, Points, Floats]:
    """Return the fit, the centred points, and the ends of its two best basins."""
    if form is not Form.chinchilla:
        raise OptionError(f"parametric.form={form.name} cannot be fitted; use chinchilla")
    check_design(n_params, tokens)
    log_n, log_d = np.log(n_params), np.log(tokens)
    centers = (float(log_n.mean()), float(log_d.mean()))
    points = Points(log_n - centers[0], log_d - centers[1], np.log(nats))
    counts = np.ones((1, len(nats))) if weights is None else weights[None]
    starts = find_starts(points)
    # Least squares crosses flat ridges on which sharp costs crawl: its best end is a start too.
    smooth = surface.solve(starts, points, counts, surface.huber(SMOOTH_DELTA))
    origin = int(np.argmin(smooth.value))
    ends = _descend(np.concatenate([smooth.theta[[origin]], starts]), points, counts, loss, delta)
    best, reached, basins = _choose(ends)
    moved = np.abs(ends.theta - np.concatenate([starts[[origin]], starts])).max(axis=1) > 1e-6
    theta = ends.theta[best]
    values = _named(theta[None], centers)[0]
    _check_values(values)
    gradient, condition = _certificate(theta, points, counts, loss, delta)
    fit = SurfaceFit(
        form=form,
        values=dict(zip(NAMES, map(float, values), strict=True)),
        loss=loss,
        delta=delta,
        objective=float(ends.value[best]),
        converged=True,
        gradient=gradient,
        condition=condition,
        n_starts=len(ends.theta),
        starts_moved=int((reached & moved).sum()),
        starts_reached=int(reached.sum()),
        n_basins=len(basins),
        n_runs=len(nats),
        residuals=surface.log_prediction(theta[None], points.x, points.y)[0] - points.log_loss,
        theta=theta,
        centers=centers,
    )
    return fit, points, ends.theta[basins]


def _certificate(
    theta: Floats, points: Points, counts: Floats, loss: Loss, delta: float
) -> tuple[float, float]:
    """Return the projected gradient and the condition number at theta."""
    phi: surface.Phi = surface.squares_in_nats
    if loss is not Loss.mse:
        phi = surface.huber(delta if loss is Loss.huber else LAD_DELTAS[-1])
    local = surface.expand(theta[None], points, counts, phi)
    prediction = surface.log_prediction(theta[None], points.x, points.y)
    slope = phi(prediction, points.log_loss)[1]
    size = float(np.sqrt((counts * slope * slope).sum()))
    metric = local.metric[0]
    along = local.gradient[0] @ np.linalg.pinv(metric, hermitian=True) @ local.gradient[0]
    values = np.linalg.eigvalsh(metric)
    condition = float(values[-1] / values[0]) if values[0] > 0 else float("inf")
    return float(np.sqrt(max(along, 0.0))) / max(size, 1e-300), condition


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
    progress: Progress = lambda done: None,
) -> ParametricFit:
    """Fit the surface and resample runs in pairs for its intervals.

    Args:
        n_params: Shape (runs,). Parameters per run.
        tokens: Shape (runs,). Training tokens per run.
        nats: Shape (runs,). Final loss, nats per token.
        form: The surface's formula.
        loss: Cost of a residual.
        delta: For huber, nats of log loss.
        resamples: Bootstrap refits, each warm-started from the optimum (and the next basin).
        seed: Seeds the resampling.
        progress: Called with the number of refits just done.

    Returns:
        The converged global fit and its intervals.

    Raises:
        RefusedError: As fit_surface, or most refits did not converge.
    """
    fit, points, optima = _certify(n_params, tokens, nats, form, loss, delta, None)
    draws, failed = _bootstrap(optima, points, loss, delta, resamples, seed, progress)
    named = _named(draws, fit.centers)
    return ParametricFit(
        **vars(fit),
        intervals={name: percentile_interval(named[:, k]) for k, name in enumerate(NAMES)},
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
