"""Starts for the surface: every basin of a grid over (alpha, beta).

Given alpha and beta, E, A and B enter linearly (variable projection), so one small solve per grid
cell maps the whole landscape, and the local minima of that map are the starts.
"""

import numpy as np
from numpy.typing import NDArray

from analysis.surface import Points

Floats = NDArray[np.float64]

GRID = np.geomspace(0.03, 3.0, 40)
"""Values of alpha and of beta that are tried."""

MAX_STARTS = 12

_SUPPORTS = ((0, 1, 2), (1, 2), (0, 1), (0, 2))
"""Which of E, A, B may be non-zero: all, then the sets for when a least-squares one is negative."""


def find_starts(points: Points) -> Floats:
    """Return the best starts, shape (S, 5), lowest weighted squares first."""
    squares, coefficients = _project(points)
    padded = np.pad(squares, 1, constant_values=np.inf)
    size = len(GRID)
    around = [
        padded[1 + i : 1 + i + size, 1 + j : 1 + j + size]
        for i in (-1, 0, 1)
        for j in (-1, 0, 1)
        if (i, j) != (0, 0)
    ]
    is_low = squares <= np.min(around, axis=0)
    order = np.argsort(np.where(is_low, squares, np.inf), axis=None)
    cells = [divmod(int(k), size) for k in order[: min(MAX_STARTS, int(is_low.sum()))]]
    # Two cells that are no minimum at all: a start must not have to be good for the end to be.
    cells += [(size // 5, 4 * size // 5), (4 * size // 5, size // 5)]
    least = 1e-4 * float(np.exp(points.log_loss.min()))
    return np.array(
        [
            [*np.log(np.maximum(coefficients[i, j], least)), GRID[i], GRID[j]]
            for i, j in dict.fromkeys(cells)
        ]
    )


def _project(points: Points) -> tuple[Floats, Floats]:
    """Return the least weighted squares of each cell and its E, A', B', none of them negative."""
    loss = np.exp(points.log_loss)
    # Dividing by the loss makes squares in nats into squares of relative error.
    one = 1.0 / loss
    by_n = np.exp(-np.outer(GRID, points.x)) / loss
    by_d = np.exp(-np.outer(GRID, points.y)) / loss
    size = len(GRID)
    gram, pull = np.empty((size, size, 3, 3)), np.empty((size, size, 3))
    gram[..., 0, 0] = one @ one
    gram[..., 0, 1] = gram[..., 1, 0] = (by_n @ one)[:, None]
    gram[..., 0, 2] = gram[..., 2, 0] = (by_d @ one)[None, :]
    gram[..., 1, 1] = (by_n * by_n).sum(axis=1)[:, None]
    gram[..., 2, 2] = (by_d * by_d).sum(axis=1)[None, :]
    gram[..., 1, 2] = gram[..., 2, 1] = by_n @ by_d.T
    pull[..., 0] = len(loss)
    pull[..., 1], pull[..., 2] = by_n.sum(axis=1)[:, None], by_d.sum(axis=1)[None, :]
    best = np.full((size, size), np.inf)
    coefficients = np.zeros((size, size, 3))
    for support in _SUPPORTS:
        keep = list(support)
        part = gram[..., keep, :][..., keep]
        ridge = 1e-12 * np.einsum("...ii->...i", part)[..., None] * np.eye(len(keep))
        solved = np.linalg.solve(part + ridge, pull[..., keep][..., None])[..., 0]
        squares = len(loss) - (solved * pull[..., keep]).sum(axis=-1)
        better = (solved >= 0).all(axis=-1) & (squares < best)
        best = np.where(better, squares, best)
        full = np.zeros_like(coefficients)
        full[..., keep] = solved
        coefficients = np.where(better[..., None], full, coefficients)
    return best, coefficients
