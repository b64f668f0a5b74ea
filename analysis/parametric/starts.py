"""Starts for the surface: every basin of a grid over its exponents.

Given the exponents, the coefficients enter linearly (variable projection), so one small solve per
grid cell maps the whole landscape, and the local minima of that map are the starts. Joint forms
have an outer power and the ratio of their two terms on the grid as well.
"""

import numpy as np
from numpy.typing import NDArray

from analysis.config import Form
from analysis.parametric.forms import Formula
from analysis.parametric.surface import Points

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]

GRID = np.geomspace(0.03, 3.0, 40)
"""Values of alpha and of beta that are tried."""

JOINT_GRID = np.geomspace(0.03, 1.5, 12)
"""The same for joint forms."""
POWERS = (0.25, 0.5, 1.0, 2.0)
"""Outer powers that are tried where they are free."""
LOG_RATIOS = (-4.0, -2.0, 0.0, 2.0, 4.0)
"""Log of the N term over the D term, inside the power, at the centre of the runs."""

MAX_STARTS = 12
MAX_JOINT_STARTS = 6
MAX_ROWS = 2000
"""Runs that a map is drawn from: starts need no more."""

_SUPPORTS = ((0, 1, 2), (1, 2), (0, 1), (0, 2))
"""Which of E, A, B may be non-zero: all, then the sets for when a least-squares one is negative."""


def find_starts(formula: Formula, points: Points) -> Floats:
    """Return the best starts, shape (S, P), lowest weighted squares first."""
    some = _thin(points)
    return _sum_starts(some) if formula.form is Form.chinchilla else _joint_starts(formula, some)


def _thin(points: Points) -> Points:
    if len(points.x) <= MAX_ROWS:
        return points
    rows = np.random.default_rng(0).choice(len(points.x), MAX_ROWS, replace=False)
    return Points(points.x[rows], points.y[rows], points.log_loss[rows])


def _sum_starts(points: Points) -> Floats:
    squares, coefficients = _project(points)
    size = len(GRID)
    cells = _basins(squares, MAX_STARTS)
    # Two cells that are no minimum at all: a start must not have to be good for the end to be.
    cells += [(size // 5, 4 * size // 5), (4 * size // 5, size // 5)]
    least = 1e-4 * float(np.exp(points.log_loss.min()))
    return np.array(
        [
            [*np.log(np.maximum(coefficients[i, j], least)), GRID[i], GRID[j]]
            for i, j in dict.fromkeys(cells)
        ]
    )


def _basins(squares: Floats, most: int) -> list[tuple[int, int]]:
    """Return the cells of a map that none of their eight neighbours undercuts, lowest first."""
    padded = np.pad(squares, 1, constant_values=np.inf)
    rows, columns = squares.shape
    around = [
        padded[1 + i : 1 + i + rows, 1 + j : 1 + j + columns]
        for i in (-1, 0, 1)
        for j in (-1, 0, 1)
        if (i, j) != (0, 0)
    ]
    is_low = squares <= np.min(around, axis=0)
    order = np.argsort(np.where(is_low, squares, np.inf), axis=None)
    return [divmod(int(k), columns) for k in order[: min(most, int(is_low.sum()))]]


def _project(points: Points) -> tuple[Floats, Floats]:
    """Return the least weighted squares of each cell and its E, A', B', none of them negative."""
    loss = np.exp(points.log_loss)
    # Dividing by the loss makes squares in nats into squares of relative error.
    one, norm_one = _unit(1.0 / loss[None])
    by_n, norm_n = _unit(np.exp(-np.outer(GRID, points.x)) / loss)
    by_d, norm_d = _unit(np.exp(-np.outer(GRID, points.y)) / loss)
    size = len(GRID)
    gram, pull = np.ones((size, size, 3, 3)), np.empty((size, size, 3))
    gram[..., 0, 1] = gram[..., 1, 0] = by_n @ one.T
    gram[..., 0, 2] = gram[..., 2, 0] = one @ by_d.T
    gram[..., 1, 2] = gram[..., 2, 1] = by_n @ by_d.T
    pull[..., 0] = one.sum()
    pull[..., 1], pull[..., 2] = by_n.sum(axis=1)[:, None], by_d.sum(axis=1)[None, :]
    best = np.full((size, size), np.inf)
    coefficients = np.zeros((size, size, 3))
    for support in _SUPPORTS:
        keep = list(support)
        part = gram[..., keep, :][..., keep]
        solved = np.linalg.solve(part + 1e-12 * np.eye(len(keep)), pull[..., keep][..., None])[
            ..., 0
        ]
        squares = len(loss) - (solved * pull[..., keep]).sum(axis=-1)
        better = (solved >= 0).all(axis=-1) & (squares < best)
        best = np.where(better, squares, best)
        full = np.zeros_like(coefficients)
        full[..., keep] = solved
        coefficients = np.where(better[..., None], full, coefficients)
    coefficients[..., 0] /= norm_one
    coefficients[..., 1] /= norm_n
    coefficients[..., 2] /= norm_d.T
    return best, coefficients


def _unit(rows: Floats) -> tuple[Floats, Floats]:
    """Return rows of length 1, and the lengths they had, shape (rows, 1)."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / norms, norms


def _joint_starts(formula: Formula, points: Points) -> Floats:
    """Map the cells of (alpha, beta) at their best outer power and ratio of terms."""
    powers = POWERS if formula.form is Form.skaling else (np.nan,)
    has_e = bool(np.isfinite(formula.base[0]))
    size = len(JOINT_GRID)
    squares = np.empty((len(powers) * len(LOG_RATIOS), size, size))
    full = np.empty((*squares.shape, 6))
    for layer, (power, ratio) in enumerate((p, r) for p in powers for r in LOG_RATIOS):
        for column, beta in enumerate(JOINT_GRID):
            k = power if np.isfinite(power) else beta
            inside = np.logaddexp(
                ratio - np.outer(JOINT_GRID / k, points.x), -beta / k * points.y[None]
            )
            cell = squares[layer, :, column], full[layer, :, column]
            cell[0][:], e, t = _linear(k * inside - points.log_loss, points.log_loss, has_e)
            cell[1][:] = np.stack(
                [e, t + k * ratio, t, JOINT_GRID, np.full(size, beta), np.full(size, k)], axis=1
            )
    layers = squares.argmin(axis=0)
    cells = _basins(squares.min(axis=0), MAX_JOINT_STARTS)
    places = [(int(layers[cell]), *cell) for cell in cells]
    # The best cell of every layer too: the outer power may have basins of its own.
    best = squares.reshape(len(squares), -1).argmin(axis=1)
    depth = squares.reshape(len(squares), -1).min(axis=1)
    for layer in np.argsort(depth)[:MAX_JOINT_STARTS]:
        places.append((int(layer), *divmod(int(best[layer]), size)))
    places.append((int(layers[size // 5, 4 * size // 5]), size // 5, 4 * size // 5))
    kept = np.array([full[place] for place in dict.fromkeys(places)])
    # Every free parameter is one of the six, so its row of the span picks it out.
    return np.asarray(kept[:, formula.span.argmax(axis=0)])


def _linear(log_t: Floats, log_loss: Floats, has_e: bool) -> tuple[Floats, Floats, Floats]:
    """Fit 1 = e / loss + t * exp(log_t) by least squares, neither coefficient negative.

    Args:
        log_t: Shape (cells, R). Log of the joint term over the loss.
        log_loss: Shape (R,).
        has_e: Whether e may be above 0.

    Returns:
        Squares, log e and log t, each shape (cells,).
    """
    top = log_t.max(axis=1)
    term, one = np.exp(log_t - top[:, None]), np.exp(-log_loss)
    tt, t1 = (term * term).sum(axis=1), term.sum(axis=1)
    alone = t1 / tt
    squares, e, t = len(one) - alone * t1, np.full(len(tt), 0.0), alone
    if has_e:
        ee, e1, et = one @ one, one.sum(), term @ one
        determinant = np.maximum(ee * tt - et * et, 1e-12 * ee * tt)
        both_e, both_t = (e1 * tt - et * t1) / determinant, (ee * t1 - et * e1) / determinant
        fits = (both_e > 0) & (both_t > 0)
        e, t = np.where(fits, both_e, e), np.where(fits, both_t, t)
        squares = np.where(fits, len(one) - both_e * e1 - both_t * t1, squares)
    least = 1e-4 * np.exp(log_loss.min())
    return squares, np.log(np.maximum(e, least)), np.log(np.maximum(t, 1e-300)) - top
