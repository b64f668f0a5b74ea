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
    for axis, tried in zip(AXES[:n_axes], settings.T, strict=True):
        near = tried[inside]
        levels = len(np.unique(near))
        if levels < MIN_LEVELS:
            sides = " or ".join(_beyond(tried, near, sign) for sign in (-1.0, 1.0))
            return f"the losses near the lowest have {levels} {axis}s; add {axis}s {sides}"
    if len(design) < design.shape[1]:
        return (
            f"{len(design)} settings near the lowest loss; {design.shape[1]} are needed, add "
            "learning rates and batch sizes around it"
        )
    if np.linalg.cond(design / np.linalg.norm(design, axis=0)) > WORST_CONDITION:
        return "learning rate and batch size vary together; add each at a fixed other"
    return ""


def why_open(settings: Floats, inside: NDArray[np.bool_], hessian: Floats, optimum: Floats) -> str:
    """Say why a quadratic's flat point is no optimum; '' when it is one.

    Args:
        settings: Shape (cells, axes).
        inside: Shape (cells,). The window.
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
    if within(settings[inside], optimum[None])[0]:
        return ""
    axes = AXES[: len(optimum)]
    beyond = zip(axes, optimum, settings.T, settings[inside].T, strict=True)
    told = [_extend(axis, at, tried, near) for axis, at, tried, near in beyond]
    point = ", ".join(f"{axis} {np.exp(v):.3g}" for axis, v in zip(axes, optimum, strict=True))
    advice = " and ".join(filter(None, told)) or "add settings around it"
    return f"the fitted optimum ({point}) is outside the settings near the lowest loss; {advice}"


def _extend(axis: str, at: float, tried: Floats, near: Floats) -> str:
    """Say on which side of the settings near the lowest loss to add; '' where `at` is inside."""
    if near.min() < at < near.max():
        return ""
    return f"add {axis}s {_beyond(tried, near, 1.0 if at >= near.max() else -1.0)}"


def _beyond(tried: Floats, near: Floats, sign: float) -> str:
    """Say where, above (+1) or below (-1) the settings near the lowest loss, others are wanted."""
    edge = (sign * near).max()
    further = (sign * tried)[sign * tried > edge]
    if len(further):
        low, high = sorted(np.exp([sign * edge, sign * further.min()]))
        return f"between {low:.3g} and {high:.3g}"
    return f"{'higher' if sign > 0 else 'lower'} than {np.exp(sign * edge):.3g}"


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
