"""Loss against size at fixed compute: the budgets' curves and their minima."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LogNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from analysis import style
from analysis.isoflop.fit import Valley
from analysis.isoflop.valley import evaluate

Floats = NDArray[np.float64]

CAPTION = (
    "Loss against model size, one colour a compute budget. A diamond marks a valley; a hollow one "
    "is not bracketed and is not used. Pale points are outside the fitted window."
)
BARE = "Loss of every run against model size, coloured by compute. No budget has a valley."


def draw(
    figure: Figure,
    ax: Axes,
    valleys: tuple[Valley, ...],
    n_params: Floats,
    flops: Floats,
    losses: Floats,
) -> None:
    """Draw every budget's losses, fitted curve and minimum, or the bare runs without budgets.

    Args:
        figure: Holds the colour bar.
        ax: Drawn into.
        valleys: One a budget; empty where runs share none.
        n_params: Shape (cells,).
        flops: Shape (cells,). Training FLOPs.
        losses: Shape (cells,). Nats per token.
    """
    cmap, norm = style.budget_colors(flops)
    if not valleys:
        ax.scatter(
            n_params, losses, c=cmap(norm(flops)), s=16, lw=0, rasterized=style.raster(len(flops))
        )
    top = _budgets(ax, valleys, cmap, norm)
    lowest = float(losses.min())
    if valleys and top < losses.max():
        ax.set_ylim(lowest - 0.06 * (top - lowest), top)
        style.corner_note(ax, f"{int((losses > top).sum())} points above")
    style.log_axis(ax.xaxis, "count")
    ax.set(xlabel="parameters N", ylabel="validation loss (nats per token)")
    ax.set_title("Loss against size at fixed compute" if valleys else "Loss against size")
    style.color_bar(figure, ax, (cmap, norm), "flops", "compute C (FLOPs)")


def _budgets(ax: Axes, valleys: tuple[Valley, ...], cmap: Colormap, norm: LogNorm) -> float:
    """Draw each budget; return a loss above which points only squash the picture."""
    tops = []
    for v in valleys:
        color = cmap(norm(v.flops))
        inside = np.ones(len(v.losses), dtype=bool)
        if v.window is not None:
            at = np.arange(len(v.losses))
            inside = (at >= v.window.low) & (at <= v.window.high)
            log_n = np.linspace(v.window.inside_x[0], v.window.inside_x[-1], 60)
            ax.plot(np.exp(log_n), np.exp(evaluate(v.window, log_n)), color=color, lw=1.6)
        ax.plot(v.n_params[inside], v.losses[inside], "o", color=color, ms=4.5, mew=0)
        ax.plot(v.n_params[~inside], v.losses[~inside], "o", color=color, ms=4, mew=0, alpha=0.3)
        face = color if v.bracketed else style.PAPER
        ax.plot(v.n_opt, v.loss, "D", mfc=face, mec=style.INK, mew=1.0, ms=7.5, zorder=5)
        tops.append((v.bracketed, v.losses[inside].max()))
    if not tops:
        return np.inf
    least = min(v.losses.min() for v in valleys)
    # The valleys that count fill the picture; losses far above them would flatten it.
    shown = [top for bracketed, top in tops if bracketed] or [top for _, top in tops]
    return float(max(shown) + 0.06 * (max(shown) - least))
