"""Whether settings bracket an optimum of learning rate and batch, and which to add where not."""

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import ConvexHull

Floats = NDArray[np.float64]

AXES = ("learning rate", "batch size")

MIN_LEVELS = 3
"""Values of each axis in the window: a parabola through 2 is any parabola."""

WORST_CONDITION = 1e4
"""Condition number of the scaled design beyond which axes vary together."""


def within(settings: Floats, at: Floats) -> NDArray[np.bool_]:
    """Say which log settings `at` (points, axes) lie in the convex hull of `settings`."""
    if settings.shape[1] == 1:
        return np.asarray((at[:, 0] > settings.min()) & (at[:, 0] < settings.max()))
    faces = ConvexHull(settings).equations
    return np.asarray((at @ faces[:, :-1].T + faces[:, -1] < 0).all(axis=1))


def why_undetermined(
    settings: Floats, loss: Floats, inside: NDArray[np.bool_], design: Floats
) -> str:
    """Say why the settings inside a window do not determine a quadratic; '' when they do.

    Args:
        settings: Shape (cells, axes). Log learning rate, then log batch.
        loss: Shape (cells,).
        inside: Shape (cells,). The window.
        design: Shape (cells inside, coefficients).
    """
    n_axes = settings.shape[1]
    for k, axis in enumerate(AXES[:n_axes]):
        levels = len(np.unique(settings[:, k]))
        if levels < MIN_LEVELS:
            return f"{levels} {axis}s; at least {MIN_LEVELS} are needed, add {axis}s"
    edge = _edge(settings[:, 0], loss) if n_axes == 1 else ""
    if edge:
        return edge
    for k, axis in enumerate(AXES[:n_axes]):
        levels = np.exp(np.unique(settings[inside, k]))
        if len(levels) < MIN_LEVELS:
            return (
                f"the losses near the lowest have {len(levels)} {axis}s "
                f"({levels[0]:.3g} to {levels[-1]:.3g}); add {axis}s between and beside them"
            )
    if len(design) < design.shape[1]:
        return (
            f"{len(design)} settings near the lowest loss; {design.shape[1]} are needed, add "
            "learning rates and batch sizes around it"
        )
    if np.linalg.cond(design / np.linalg.norm(design, axis=0)) > WORST_CONDITION:
        return "learning rate and batch size vary together; add each at a fixed other"
    return ""


def why_open(settings: Floats, hessian: Floats, optimum: Floats) -> str:
    """Say why a quadratic's flat point is no optimum; '' when it is one.

    Args:
        settings: Shape (cells inside, axes).
        hessian: Shape (axes, axes).
        optimum: Shape (axes,); ignored where the quadratic does not curve up.
    """
    bends, directions = np.linalg.eigh(hessian)
    if bends[0] <= 0:
        axis = AXES[int(np.argmax(np.abs(directions[:, 0])))]
        return (
            f"the surface does not curve up along {axis} (curvature {bends[0]:.2g}); "
            f"add {axis}s on both sides, or seeds"
        )
    if within(settings, optimum[None])[0]:
        return ""
    told = []
    for axis, at, held in zip(AXES, optimum, settings.T, strict=False):
        if at <= held.min():
            told.append(f"add {axis}s lower than {np.exp(held.min()):.3g}")
        elif at >= held.max():
            told.append(f"add {axis}s higher than {np.exp(held.max()):.3g}")
    point = ", ".join(f"{axis} {np.exp(v):.3g}" for axis, v in zip(AXES, optimum, strict=False))
    advice = " and ".join(told) or "add settings around it"
    return f"the fitted optimum ({point}) is outside the settings near the lowest loss; {advice}"


def _edge(log_lr: Floats, loss: Floats) -> str:
    """Say on which edge of its grid the lowest loss is."""
    best = log_lr[np.argmin(loss)]
    for word, edge in (("lowest", log_lr.min()), ("highest", log_lr.max())):
        if best == edge:
            more = word.replace("est", "er")
            return (
                f"the lowest loss is at the {word} learning rate, {np.exp(best):.3g}; "
                f"add {more} learning rates"
            )
    return ""
