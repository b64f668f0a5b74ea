"""The minimum of loss over size at one budget: window, curve, and whether it is bracketed.

Everything is in (log N, log L). The curve is fitted to a window around the lowest loss, because
models far too large or too small for a budget obey other laws (they are under-trained, or warm up
for most of their run) and would drag a curve through all points.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import Akima1DInterpolator

from analysis.config import Method

Floats = NDArray[np.float64]

MIN_SIZES = 4
"""Sizes that a valley needs: a parabola through 3 has no point left to contradict it."""

WINDOW_SIZES = 7
"""Sizes that the window holds before it has to earn more."""

WINDOW_RISE = 0.03
"""Log loss above the lowest up to which further sizes are taken in."""

WINDOW_REACH = 1.5
"""Natural-log distance in N from the lowest up to which further sizes are taken in."""

LONE_GAP = 0.82
"""A minimum with one size beyond it is believed if that interval spans at most this in log N (a
factor of 2.27, so that grids in factors of 2 pass); across wider gaps two sizes are needed."""

AKIMA_GRID = 400
"""Points on which an Akima curve is searched before a parabola refines its minimum."""


@dataclass(frozen=True)
class Window:
    """The sizes that a curve is fitted to."""

    x: Floats
    """Log N of all sizes of the budget, ascending."""
    y: Floats
    """Log loss of the same."""
    low: int
    high: int
    """First and last index inside."""
    degree: int
    """Of the polynomial: the method's, or less where the window has too few sizes."""
    method: Method

    @property
    def inside_x(self) -> Floats:
        """Log N inside the window."""
        return self.x[self.low : self.high + 1]

    @property
    def inside_y(self) -> Floats:
        """Log loss inside the window."""
        return self.y[self.low : self.high + 1]

    @property
    def origin(self) -> float:
        """Log N of the lowest loss."""
        return float(self.x[np.argmin(self.y)])

    @property
    def design(self) -> Floats:
        """Powers of log N - origin, shape (sizes inside, degree + 1)."""
        return np.vander(self.inside_x - self.origin, self.degree + 1, increasing=True)


def open_window(x: Floats, y: Floats, method: Method) -> Window:
    """Choose the window: grow from the lowest loss to the lower neighbour, in turn.

    Args:
        x: Shape (sizes,), ascending. Log N.
        y: Shape (sizes,). Log loss.
        method: The curve that will be fitted.

    Source:
        Ours. On the tables of Porian et al. 2024 (arXiv:2406.19146) it brings a cubic within .017
        of their five exponents, where a parabola through all points is off by up to .37.
    """
    low = high = lowest = int(np.argmin(y))
    while low > 0 or high < len(x) - 1:
        sides = [(y[k], k) for k in (low - 1, high + 1) if 0 <= k < len(x)]
        loss, k = min(sides)
        far = loss - y[lowest] > WINDOW_RISE or abs(x[k] - x[lowest]) > WINDOW_REACH
        if high - low + 1 >= WINDOW_SIZES and low < lowest < high and far:
            break
        low, high = min(low, k), max(high, k)
    wanted = 2 if method is Method.parabola else 3
    return Window(x, y, low, high, min(wanted, high - low - 1), method)


def smooth(window: Window) -> tuple[Floats, float, int]:
    """Return the polynomial's values inside, its sum of squared residuals, degrees of freedom."""
    design = window.design
    fitted = np.asarray(design @ (np.linalg.pinv(design) @ window.inside_y), dtype=float)
    residual = window.inside_y - fitted
    return fitted, float(residual @ residual), len(fitted) - design.shape[1]


def find_minima(window: Window, y: Floats) -> tuple[Floats, Floats]:
    """Return log N and log loss of the minimum of each draw's curve.

    Args:
        window: Where the sizes are.
        y: Shape (draws, sizes inside). Log losses.

    Returns:
        Both shape (draws,); NaN where a curve has no minimum inside the window.
    """
    find = _akima_minima if window.method is Method.akima else _polynomial_minima
    return find(window, y)


def evaluate(window: Window, log_n: Floats) -> Floats:
    """Return the curve's log loss, for drawing."""
    if window.method is Method.akima:
        return np.asarray(Akima1DInterpolator(window.inside_x, window.inside_y)(log_n), float)
    coefficients = np.linalg.pinv(window.design) @ window.inside_y
    height = np.polynomial.polynomial.polyval(log_n - window.origin, coefficients)
    return np.asarray(height, dtype=np.float64)


def _polynomial_minima(window: Window, y: Floats) -> tuple[Floats, Floats]:
    coefficients = y @ np.linalg.pinv(window.design).T
    c1, c2 = coefficients[:, 1], coefficients[:, 2]
    c3 = coefficients[:, 3] if window.degree == 3 else np.zeros_like(c1)
    root = c2 * c2 - 3.0 * c1 * c3
    with np.errstate(invalid="ignore", divide="ignore"):
        # Of the two stationary points, the one where the second derivative, 2 sqrt(root), is > 0.
        z = -c1 / (c2 + np.sqrt(root))
    ends = window.inside_x[[0, -1]] - window.origin
    inside = (z > ends[0]) & (z < ends[1])
    z = np.where(inside, z, 0.0)
    at = np.stack([z, np.full_like(z, ends[0]), np.full_like(z, ends[1])])
    height, first, last = np.polynomial.polynomial.polyval(at, coefficients.T[:, None, :], False)
    lowest = inside & (height < first) & (height < last)
    return np.where(lowest, z + window.origin, np.nan), np.where(lowest, height, np.nan)


def _akima_minima(window: Window, y: Floats) -> tuple[Floats, Floats]:
    grid = np.linspace(window.inside_x[0], window.inside_x[-1], AKIMA_GRID)
    curve = np.asarray(Akima1DInterpolator(window.inside_x, y.T)(grid))
    k = np.argmin(curve, axis=0)
    inside = (k > 0) & (k < AKIMA_GRID - 1)
    k = np.where(inside, k, 1)
    draws = np.arange(len(y))
    before, middle, after = (curve[k + j, draws] for j in (-1, 0, 1))
    bend = before - 2.0 * middle + after
    shift = np.where(bend > 0, 0.5 * (before - after) / np.where(bend > 0, bend, 1.0), 0.0)
    at = grid[k] + shift * (grid[1] - grid[0])
    height = middle - 0.25 * (before - after) * shift
    return np.where(inside, at, np.nan), np.where(inside, height, np.nan)


def why_open(x: Floats, y: Floats, log_n: float, floor: float, noise: float) -> str:
    """Say why a minimum is not bracketed; '' when it is.

    Args:
        x: Log N of the budget's sizes, ascending.
        y: Their log losses.
        log_n: The curve's minimum; nan when it has none.
        floor: The curve's log loss there.
        noise: Sd of a log loss.
    """
    lowest = int(np.argmin(y))
    size = f"{np.exp(x[lowest]):.3g}"
    if lowest == 0:
        return f"the lowest loss is at the smallest size, {size}; add smaller sizes"
    if lowest == len(x) - 1:
        return f"the lowest loss is at the largest size, {size}; add larger sizes"
    if not np.isfinite(log_n):
        return f"the curve has no minimum between its sizes; add sizes around {size}"
    below = int((x < log_n).sum())
    sides = (
        ("smaller", y[:below], x[below] - x[below - 1] if below == 1 else 0.0),
        ("larger", y[below:], x[-1] - x[-2] if below == len(x) - 1 else 0.0),
    )
    at = f"{np.exp(log_n):.3g}"
    for word, side, lone_gap in sides:
        if len(side) == 0 or lone_gap > LONE_GAP:
            return f"fewer than two sizes are {word} than the minimum, {at}; add {word} sizes"
        if side.max() - floor < 2.0 * noise:
            return f"the loss of {word} sizes does not rise above the noise; add {word} sizes"
    return ""
