"""The minimum of loss over learning rate, and batch where it varies, of one (N, D).

Log loss is a quadratic in log learning rate and log batch near its minimum, fitted by least squares
to a window around the lowest losses: where training all but diverges, loss rises faster than any
quadratic and would drag it along. An optimum counts only where the quadratic curves up in every
direction and its minimum lies between the settings of the window.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from analysis.bootstrap import Interval
from analysis.learning_rate.brackets import AXES, why_open, why_undetermined, within
from analysis.learning_rate.joint_power_law import exp_interval

Floats = NDArray[np.float64]

WINDOW_RISE = 0.02
"""Loss above the lowest, relative to it, up to which every setting is taken in.

Ours. On the 17 grids of Step Law (arXiv:2503.04715) it holds 35 to 86 of about 120 settings, all 17
optima are interior, and log losses scatter about the surfaces by .0012 to .0025."""

FAR_RISE = 0.10
"""Relative rise beyond which no setting is taken in, however few there are."""

WANTED_CELLS = {1: 4, 2: 12}
"""By number of axes: settings that are taken in beyond WINDOW_RISE, lowest first, where fewer lie
within it. One more than the coefficients of a parabola, twice those of a surface."""

STEADY = 0.9
"""Share of resamples in which an optimum must still be a minimum within the grid."""


@dataclass(frozen=True)
class ResponseSurface:
    """One quadratic: log loss = c + g . z + z H z / 2, z = log settings - center."""

    settings: Floats
    """Shape (cells, axes). Log learning rate, then log batch tokens where it varies."""
    log_loss: Floats
    """Shape (cells,)."""
    inside: NDArray[np.bool_]
    """Shape (cells,): the window."""
    center: Floats
    """Shape (axes,). Mean setting of the window."""
    coefficients: Floats
    """c, then g, then H's upper triangle (diagonal entries halved), as in `design`."""
    squares: float
    """Sum of squared residuals."""
    freedom: int
    """Cells inside less coefficients."""
    why: str
    """Why there is no optimum; '' where there is one. resample() adds to it."""

    @property
    def n_axes(self) -> int:
        """1: learning rate alone; 2: with batch."""
        return int(self.settings.shape[1])

    @property
    def hessian(self) -> Floats:
        """Shape (axes, axes). Second derivatives of log loss."""
        return _split(self.coefficients, self.n_axes)[1]

    @property
    def optimum(self) -> Floats:
        """Shape (axes,). Log settings where the quadratic is flat."""
        return np.asarray(self.center + stationary(self.coefficients[None], self.n_axes)[0])

    def height(self, log_settings: Floats) -> Floats:
        """Log loss of the quadratic at log settings, shape (points, axes)."""
        return np.asarray(design(log_settings - self.center) @ self.coefficients, dtype=float)

    @property
    def penalty(self) -> float:
        """Rise of log loss where the learning rate is off by a factor of 2, the batch kept."""
        return float(0.5 * self.hessian[0, 0] * np.log(2.0) ** 2)

    @property
    def batch_slope(self) -> float:
        """Slope of log best learning rate over log batch, along the valley; nan without batches."""
        if self.n_axes == 1:
            return float("nan")
        return float(-self.hessian[0, 1] / self.hessian[0, 0])


@dataclass(frozen=True)
class Optimum:
    """Where a surface is lowest, how sure that is, and why it is not used."""

    surface: ResponseSurface
    interval: tuple[Interval, ...] | None
    """95 %, one an axis, in the axis's own unit; None where the optimum is not used."""
    draws: Floats
    """Shape (resamples, axes). Log settings; NaN where a draw has no minimum."""
    why: str


def design(z: Floats) -> Floats:
    """Return 1, z and the products z_i z_j (i <= j) for centred log settings (cells, axes)."""
    first, second = np.triu_indices(z.shape[1])
    return np.concatenate([np.ones((len(z), 1)), z, z[:, first] * z[:, second]], axis=1)


def open_window(settings: Floats, loss: Floats, rise: float = WINDOW_RISE) -> NDArray[np.bool_]:
    """Choose the settings that the quadratic is fitted to.

    Args:
        settings: Shape (cells, axes).
        loss: Shape (cells,). Nats per token.
        rise: Relative loss above the lowest that is always taken in.

    Returns:
        All within `rise`, more up to WANTED_CELLS within FAR_RISE, and along a single axis those
        between them and the two beside the lowest.
    """
    above = loss / loss.min() - 1.0
    order = np.argsort(above, kind="stable")
    inside = above <= rise
    inside[order[: WANTED_CELLS[settings.shape[1]]]] = True
    if settings.shape[1] == 1:
        ranks = np.argsort(np.argsort(settings[:, 0]))
        lowest = ranks[order[0]]
        held = ranks[inside]
        inside = (ranks >= min(held.min(), lowest - 1)) & (ranks <= max(held.max(), lowest + 1))
    return np.asarray(inside & (above <= max(rise, FAR_RISE)))


def fit_surface(settings: Floats, loss: Floats, rise: float = WINDOW_RISE) -> ResponseSurface:
    """Fit the quadratic to one (N, D).

    Args:
        settings: Shape (cells, axes). Log learning rate, and log batch tokens as a second axis.
        loss: Shape (cells,). Nats per token, one a setting.
        rise: Half of the window's rule, see open_window.

    Returns:
        The surface; where `why` is not '', its coefficients may be NaN.

    Source:
        Response surfaces: Box and Wilson 1951. For learning rate and batch of language models:
        Li et al. 2025 (Step Law, arXiv:2503.04715), who take the lowest cell instead.
    """
    settings, loss = np.asarray(settings, dtype=float), np.asarray(loss, dtype=float)
    inside = open_window(settings, loss, rise)
    center = settings[inside].mean(axis=0)
    x = design(settings[inside] - center)
    coefficients = np.full(x.shape[1], np.nan)
    squares, freedom = float("nan"), int(inside.sum()) - x.shape[1]
    why = why_undetermined(settings, loss, inside, x)
    if not why:
        coefficients, *_ = np.linalg.lstsq(x, np.log(loss[inside]), rcond=None)
        residual = np.log(loss[inside]) - x @ coefficients
        squares = float(residual @ residual)
    surface = ResponseSurface(
        settings, np.log(loss), inside, center, coefficients, squares, freedom, why
    )
    if why:
        return surface
    return replace(surface, why=why_open(settings, inside, surface.hessian, surface.optimum))


def resample(
    surface: ResponseSurface, noise: float, freedom: int, resamples: int, seed: int
) -> Optimum:
    """Find the optimum's interval by refitting the surface to itself plus Gaussian noise.

    Args:
        surface: The fit.
        noise: Sd of a log loss about it; nan where nothing measured it, and then no interval.
        freedom: Degrees of freedom behind `noise`, which is drawn from its uncertainty too.
        resamples: Draws.
        seed: Seeds them.
    """
    none = np.full((resamples, surface.n_axes), np.nan)
    if surface.why or not noise >= 0:
        return Optimum(surface, None, none, surface.why)
    rng = np.random.default_rng(seed)
    solve = np.linalg.pinv(design(surface.settings[surface.inside] - surface.center))
    scale = noise * np.sqrt(freedom / rng.chisquare(freedom, resamples))
    # Of the noise only its projection on the coefficients matters: (terms,) normals, not (cells,).
    spread = np.linalg.cholesky(solve @ solve.T)
    normal = rng.standard_normal((resamples, len(spread))) @ spread.T
    drawn = surface.coefficients + scale[:, None] * normal
    at = surface.center + stationary(drawn, surface.n_axes)
    steady = float(np.mean(within(surface.settings[surface.inside], at)))
    if steady < STEADY:
        why = (
            f"noise leaves no minimum within the grid in {1 - steady:.0%} of resamples; "
            f"add {' and '.join(f'{axis}s' for axis in AXES[: surface.n_axes])} or seeds"
        )
        return Optimum(surface, None, at, why)
    interval = tuple(exp_interval(at[:, k]) for k in range(surface.n_axes))
    return Optimum(surface, interval, at, "")


def robust_sd(draws: Floats) -> float:
    """Half the central 68 % of draws: a few of them, from a flat surface, may lie far out."""
    low, high = np.nanpercentile(draws, [15.87, 84.13])
    return float(0.5 * (high - low))


def stationary(coefficients: Floats, n_axes: int) -> Floats:
    """Return where each quadratic is lowest, (draws, axes) from the center; NaN for a saddle."""
    gradient, hessian = coefficients[:, 1 : 1 + n_axes], _split(coefficients, n_axes)[1]
    if n_axes == 1:
        bend = hessian[:, 0, 0]
        positive = bend > 0
        return np.asarray(-gradient / np.where(positive, bend, np.nan)[:, None])
    a, b, c = hessian[:, 0, 0], hessian[:, 0, 1], hessian[:, 1, 1]
    determinant = a * c - b * b
    positive = (a > 0) & (determinant > 0)
    step = np.stack(
        [c * gradient[:, 0] - b * gradient[:, 1], a * gradient[:, 1] - b * gradient[:, 0]], axis=1
    )
    return np.asarray(-step / np.where(positive, determinant, np.nan)[:, None])


def _split(coefficients: Floats, n_axes: int) -> tuple[Floats, Floats]:
    """Return the gradient (..., axes) and the Hessian (..., axes, axes) at the center."""
    first, second = np.triu_indices(n_axes)
    half = np.zeros((*coefficients.shape[:-1], n_axes, n_axes))
    half[..., first, second] = coefficients[..., 1 + n_axes :]
    return coefficients[..., 1 : 1 + n_axes], half + np.swapaxes(half, -1, -2)
