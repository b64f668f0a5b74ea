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

OUTER, INNER = 120, 15
"""Medians, and copies behind each, from which it is seen how far from linear an Akima curve is."""


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

    @property
    def spacing(self) -> float:
        """Mean distance in log N between neighbouring sizes inside."""
        return float(np.ptp(self.inside_x)) / (self.high - self.low)

    @property
    def annihilator(self) -> Floats:
        """I - H, shape (sizes inside, sizes inside): takes log losses to residuals."""
        design = self.design
        return np.eye(len(design)) - design @ np.linalg.pinv(design)


@dataclass(frozen=True)
class Minimum:
    """A curve's minimum, and where it moves to under noise."""

    log_n: float
    """nan where the curve has none."""
    log_loss: float
    draws: Floats
    """Shape (resamples,). Log N; NaN where a draw has no minimum."""
    steady: float
    """Share of draws that have a minimum."""


def open_window(x: Floats, y: Floats, method: Method) -> Window:
    """Choose the window: grow from the lowest loss to the lower neighbour, in turn.

    Args:
        x: Shape (sizes,), ascending. Log N.
        y: Shape (sizes,). Log loss.
        method: The curve that will be fitted.

    Source:
        Ours. On the tables of Porian et al. 2024 (arXiv:2406.19146) it brings a cubic within .028
        of their 15 exponents, where a parabola through all points is off by up to .37.
    """
    low = high = lowest = int(np.argmin(y))
    while low > 0 or high < len(x) - 1:
        sides = [(y[k], k) for k in (low - 1, high + 1) if 0 <= k < len(x)]
        loss, k = min(sides)
        far = loss - y[lowest] > WINDOW_RISE or abs(x[k] - x[lowest]) > WINDOW_REACH
        if high - low + 1 >= WINDOW_SIZES and low < lowest < high and far:
            break
        low, high = min(low, k), max(high, k)
    return _make_window(x, y, low, high, method)


def whole_window(x: Floats, y: Floats, method: Method) -> Window:
    """Take in every size, as most published analyses do; arguments as in open_window."""
    return _make_window(x, y, 0, len(x) - 1, method)


def _make_window(x: Floats, y: Floats, low: int, high: int, method: Method) -> Window:
    wanted = 2 if method is Method.parabola else 3
    return Window(x, y, low, high, min(wanted, high - low - 1), method)


def resample_minimum(window: Window, noise: Floats) -> Minimum:
    """Find the minimum, and where it lies under noise.

    A polynomial smooths, so its minimum is taken as it is, and noise is put on the fitted curve.
    Akima's curve passes through every loss, noise included; what is reported is the median of the
    minima of noisy copies, which smooths too. Its draws move by the mean slope of those minima in
    each loss, because copies of an already noisy curve scatter more than the median does.

    Args:
        window: Where the sizes are.
        noise: Shape (resamples, sizes inside). Log loss.

    Source:
        Medians of noisy copies: Porian et al. 2024 (arXiv:2406.19146). The slope of a resampled
        mean is the regression of the resamples' answers on their noise: Efron 2014 (JASA 109,
        991), parametric case.
    """
    if window.method is not Method.akima:
        at, floor = (float(v[0]) for v in find_minima(window, window.inside_y[None]))
        fitted = window.inside_y - window.annihilator @ window.inside_y
        draws = find_minima(window, fitted + noise)[0]
        return Minimum(at, floor, draws, float(np.isfinite(draws).mean()))
    copies = find_minima(window, window.inside_y + noise)[0]
    have = np.isfinite(copies)
    steady = float(have.mean())
    if have.sum() < 10 * len(window.inside_x):
        return Minimum(np.nan, np.nan, np.full(len(noise), np.nan), steady)
    at = float(np.median(copies[have]))
    pulled = noise[have] - noise[have].mean(axis=0)
    slopes = np.linalg.lstsq(pulled, copies[have] - copies[have].mean(), rcond=None)[0]
    floor = float(evaluate(window, np.array([at]))[0])
    slopes *= _nonlinearity(window, noise, slopes)
    return Minimum(at, floor, at + noise @ slopes, steady)


def _nonlinearity(window: Window, noise: Floats, slopes: Floats) -> float:
    """Return how much more medians of copies move than their slopes say, from a few medians."""
    outer = noise[: min(OUTER, len(noise) // 2)]
    picked = np.arange(len(outer) * INNER) % len(noise)
    base = window.inside_y - window.annihilator @ window.inside_y
    copies = base + np.repeat(outer, INNER, axis=0) + noise[::-1][picked]
    found = find_minima(window, copies)[0].reshape(len(outer), INNER)
    whole = np.isfinite(found).sum(axis=1) > INNER // 2
    if whole.sum() < 20:
        return 1.0
    medians = np.nanmedian(found[whole], axis=1)
    return float(max(1.0, medians.std() / max((outer[whole] @ slopes).std(), 1e-12)))


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


def why_open(window: Window, log_n: float, floor: float, noise: float) -> str:
    """Say why a minimum is not bracketed, and which sizes to add; '' when it is.

    Args:
        window: The budget's sizes and losses.
        log_n: The curve's minimum; nan when it has none.
        floor: The curve's log loss there.
        noise: Sd of a log loss.
    """
    x, y = window.x, window.y
    lowest, step = int(np.argmin(y)), float(np.median(np.diff(x)))
    size = f"{np.exp(x[lowest]):.3g}"
    smaller = f"add smaller sizes ({_list_sizes(x[0], -step)})"
    larger = f"add larger sizes ({_list_sizes(x[-1], step)})"
    top = int(np.argmax(y))
    if lowest in (0, len(x) - 1) and 0 < top < len(x) - 1 and y[top] - max(y[0], y[-1]) > noise:
        return (
            f"the curvature is wrong: losses have a maximum at size {np.exp(x[top]):.3g} and fall "
            f"towards both ends; look at those runs, {smaller} or {larger}"
        )
    if lowest == 0:
        return f"the lowest loss is at the smallest size, {size}; {smaller}"
    if lowest == len(x) - 1:
        return f"the lowest loss is at the largest size, {size}; {larger}"
    if not np.isfinite(log_n):
        between = f"{np.exp(x[lowest] - 0.5 * step):.3g}, {np.exp(x[lowest] + 0.5 * step):.3g}"
        bends = _bend(window) < 0
        what = "bends down, to a maximum, and" if bends else "through these sizes"
        return f"the curve {what} has no minimum between them; add sizes around {size} ({between})"
    if window.method is Method.akima:
        return ""  # a local curve shows its rise in the share of noisy copies with a minimum
    below = int((x < log_n).sum())
    sides = (
        ("smaller", y[:below], x[below] - x[below - 1] if below == 1 else 0.0, smaller),
        ("larger", y[below:], x[-1] - x[-2] if below == len(x) - 1 else 0.0, larger),
    )
    at = f"{np.exp(log_n):.3g}"
    for word, side, lone_gap, add in sides:
        if len(side) == 0 or lone_gap > LONE_GAP:
            return f"fewer than two sizes are {word} than the minimum, {at}; {add}"
        if side.max() - floor < 2.0 * noise:
            return f"the loss of {word} sizes does not rise above the noise; {add}"
    return ""


def _list_sizes(log_n: float, step: float) -> str:
    """Name the next two sizes of a grid."""
    return f"{np.exp(log_n + step):.3g}, {np.exp(log_n + 2 * step):.3g}"


def _bend(window: Window) -> float:
    """Return the curvature of a parabola through the window; negative for a maximum."""
    design = np.vander(window.inside_x - window.origin, 3, increasing=True)
    return float((np.linalg.pinv(design) @ window.inside_y)[2])
