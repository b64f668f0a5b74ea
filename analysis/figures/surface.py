"""The fitted surface: its contours with the runs on it, and what it misses."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.special import ndtri

from analysis import style
from analysis.parametric.frontier import optimal_size
from analysis.parametric.result import ParametricFit

Floats = NDArray[np.float64]

CONTOURS = (
    "Lines of equal fitted loss (grey, in nats per token) over size and tokens, with the runs "
    "coloured by compute. Straight dotted lines are equal compute; where each touches a contour "
    "runs the efficient frontier."
)
RESIDUALS = (
    "What the surface misses, in per cent of the loss, against size and tokens and against the "
    "quantiles of a normal distribution. Structure along an axis means that the form does not "
    "fit; ends that leave the line are outliers. Triangles lie beyond the axis."
)

_MARGIN = 2.2
"""Factor by which the picture exceeds the runs on each side."""

_LEVELS = 11


def draw_contours(
    figure: Figure, ax: Axes, fit: ParametricFit, n_params: Floats, tokens: Floats, flops: Floats
) -> None:
    """Draw the surface over log N and log D.

    Args:
        figure: Holds the colour bar.
        ax: Drawn into.
        fit: The surface.
        n_params: Shape (runs,). What it was fitted to.
        tokens: Shape (runs,).
        flops: Shape (runs,). Colours the runs.
    """
    x = np.geomspace(n_params.min() / _MARGIN, n_params.max() * _MARGIN, 120)
    y = np.geomspace(tokens.min() / _MARGIN, tokens.max() * _MARGIN, 120)
    ax.set(xlim=(x[0], x[-1]), ylim=(y[0], y[-1]))
    style.log_axis(ax.xaxis, "count")
    style.log_axis(ax.yaxis, "count")
    ax.grid(visible=False)
    losses = fit.predict(x[None, :], y[:, None])
    drawn = ax.contour(
        x, y, losses, _levels(losses, fit.values.get("E", 0.0)), colors=style.FAINT, linewidths=0.9
    )
    ax.clabel(drawn, fmt=lambda v: f"{v:.4g}", fontsize=8, colors=style.SOFT)
    _equal_compute(ax, x, y)
    optimum = np.geomspace(6 * x[0] * y[0], 6 * x[-1] * y[-1], 80)
    n_opt = optimal_size(fit, optimum)
    ax.plot(
        n_opt,
        optimum / (6 * n_opt),
        color=style.SURFACE,
        lw=2.4,
        label="efficient frontier",
        zorder=3,
    )
    colors = style.budget_colors(flops)
    ax.scatter(
        n_params,
        tokens,
        c=colors[0](colors[1](flops)),
        s=20,
        edgecolors=style.PAPER,
        linewidths=0.5,
        zorder=4,
        rasterized=style.raster(len(n_params)),
    )
    ax.set(xlabel="parameters N", ylabel="tokens D")
    ax.set_title("The surface, its runs and its frontier")
    ax.legend(loc="lower right", framealpha=0.95)
    style.color_bar(figure, ax, colors, "flops", "compute C (FLOPs)")


def _levels(losses: Floats, floor: float) -> list[float]:
    """Return round losses, evenly spread in the log of what lies above E."""
    above = np.geomspace(float(losses.min()) - floor, float(losses.max()) - floor, _LEVELS + 2)
    levels: list[float] = []
    for level in floor + above[1:-1]:
        digits = max(0, 1 - int(np.floor(np.log10(level - floor))))
        if not levels or round(level, digits) > levels[-1]:
            levels.append(round(float(level), digits))
    return levels


def _equal_compute(ax: Axes, x: Floats, y: Floats) -> None:
    """Draw lines of equal 6ND in whole decades, named where they enter at the left or the top."""
    first = int(np.ceil(np.log10(6 * x[0] * y[0]) + 0.15))
    last = int(np.floor(np.log10(6 * x[-1] * y[-1]) - 0.15))
    for power in range(first, last + 1, max(1, (last - first + 1) // 7)):
        tokens = 10.0**power / (6 * x)
        ax.plot(x, tokens, color=style.SOFT, lw=0.8, ls=(0, (1, 2.2)), zorder=2)
        at = (float(x[0]), float(tokens[0]))
        if tokens[0] > y[-1] * 0.8:  # the line enters through the top
            at = (10.0**power / (6 * float(y[-1])), float(y[-1]))
        ax.annotate(
            f"$10^{{{power}}}$",
            at,
            (4, -4),
            textcoords="offset points",
            ha="left",
            va="top",
            fontsize=8,
            color=style.SOFT,
            bbox={"fc": style.PAPER, "ec": "none", "pad": 0.8},
            zorder=5,
        )


def draw_residuals(
    figure: Figure,
    fit: ParametricFit,
    n_params: Floats,
    tokens: Floats,
    flops: Floats,
    losses: Floats,
) -> None:
    """Draw residuals against N, against D and against normal quantiles.

    Args:
        figure: Drawn into; three axes side by side.
        fit: The surface.
        n_params: Shape (runs,). What it was fitted to.
        tokens: Shape (runs,).
        flops: Shape (runs,). Colours the runs.
        losses: Shape (runs,). Nats per token.
    """
    residual = 100 * (losses / fit.predict(n_params, tokens) - 1)
    limit = _limit(residual)
    shown = np.clip(residual, -limit, limit)
    colors = style.budget_colors(flops)
    shades = colors[0](colors[1](flops))
    axes = list(figure.subplots(1, 3, sharey=True))
    order = np.argsort(np.argsort(residual))
    normal = ndtri((order + 0.5) / len(residual))
    for ax, x, label in zip(
        axes,
        (n_params, tokens, normal),
        ("parameters N", "tokens D", "normal quantile"),
        strict=True,
    ):
        _cloud(ax, x, shown, residual, shades)
        ax.axhline(0, color=style.SOFT, lw=1.0, zorder=2)
        ax.set_xlabel(label)
    middle = float(np.median(np.abs(residual))) / 0.6745
    ends = np.array([normal.min(), normal.max()])
    axes[2].plot(ends, middle * ends, color=style.SURFACE, lw=1.4, zorder=2)
    style.corner_note(axes[2], f"line: robust sd {middle:.2g} %")
    axes[0].set(ylim=(-1.08 * limit, 1.08 * limit), ylabel="loss above the surface (%)")
    axes[0].set_title("Residuals of the surface")
    for ax in axes[:2]:
        style.log_axis(ax.xaxis, "count")
    style.color_bar(figure, axes, colors, "flops", "compute C (FLOPs)")


def _limit(residual: Floats) -> float:
    """Return the half-height that shows all but wild residuals."""
    size = np.abs(residual)
    typical = float(np.quantile(size, 0.9))
    return max(min(float(size.max()), 3.0 * typical), 1e-6)


def _cloud(ax: Axes, x: Floats, shown: Floats, residual: Floats, shades: Floats) -> None:
    many = style.raster(len(x))
    for marker, chosen in (
        ("o", shown == residual),
        ("^", residual > shown),
        ("v", residual < shown),
    ):
        if chosen.any():
            ax.scatter(
                x[chosen],
                shown[chosen],
                c=shades[chosen],
                marker=marker,
                s=15,
                lw=0,
                zorder=3,
                rasterized=many,
            )
