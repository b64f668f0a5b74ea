"""Loss against compute, of final losses and of whole training curves with their envelope."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray

from analysis import style
from analysis.envelope.fit import EnvelopeFit
from analysis.intake.curves import FINALS, Curve
from analysis.isoflop.fit import Valley

Floats = NDArray[np.float64]

LOSS = "Loss of every run (pale) against compute{valleys}{surface}."
VALLEYS = ", with the loss at each valley"
SURFACE = "; dotted, the loss that the surface gives the best size"
TRAINING = (
    "Loss of every run ({source}) against the compute spent so far, coloured by size; dots are "
    "the ends."
)
CONTACTS = (
    " The line is the envelope, the lower hull of all curves; squares are where a size is best, "
    "from which approach 1 reads its exponent."
)


def draw_loss(
    ax: Axes,
    flops: Floats,
    losses: Floats,
    valleys: tuple[Valley, ...],
    best: tuple[Floats, Floats, float] | None,
) -> None:
    """Draw loss against compute.

    Args:
        ax: Drawn into.
        flops: Shape (cells,). Training FLOPs.
        losses: Shape (cells,). Nats per token.
        valleys: One a budget.
        best: C, the surface's loss at its optimum there, and its E; None without a surface.
    """
    ax.plot(
        flops,
        losses,
        "o",
        color=style.FAINT,
        ms=3.5,
        mew=0,
        alpha=0.6,
        label="runs",
        rasterized=style.raster(len(flops)),
    )
    if best is not None:
        label = f"surface at its optimum (E = {round(best[2], 6):.3g})"
        ax.plot(*best[:2], color=style.SURFACE, lw=1.7, ls=(0, (1, 1.2)), label=label)
    for bracketed, face, label in (
        (True, style.OURS, "valleys"),
        (False, style.PAPER, "not bracketed"),
    ):
        chosen = [v for v in valleys if v.bracketed is bracketed]
        if chosen:
            x, y = [v.flops for v in chosen], [v.loss for v in chosen]
            ax.plot(x, y, "D", mfc=face, mec=style.INK, mew=1.0, ms=6.5, zorder=5, label=label)
    style.log_axis(ax.xaxis, "flops")
    ax.set(xlabel="compute C (FLOPs)", ylabel="validation loss (nats per token)")
    ax.set_title("Loss against compute")
    ax.legend(loc="upper right")


def draw_training(figure: Figure, ax: Axes, curves: list[Curve], fit: EnvelopeFit | None) -> None:
    """Draw training curves.

    Args:
        figure: Holds the colour bar.
        ax: Drawn into.
        curves: One a run.
        fit: The envelope's optima; None without an envelope.
    """
    sizes = np.array([c.n_params for c in curves])
    cmap, norm = style.budget_colors(sizes)
    colors = cmap(norm(sizes))
    lines = [np.column_stack([c.flops, c.loss]) for c in curves]
    many = style.raster(sum(len(line) for line in lines) // 20)
    ax.add_collection(
        LineCollection(lines, colors=colors, linewidths=0.9, alpha=0.75, rasterized=many)
    )
    ends = np.array([[c.flops[-1], c.loss[-1]] for c in curves])
    ax.scatter(
        ends[:, 0], ends[:, 1], c=colors, s=14, lw=0, zorder=3, rasterized=style.raster(len(ends))
    )
    if fit is not None:
        x, y = (np.array([getattr(p, name) for p in fit.points]) for name in ("flops", "loss"))
        order = np.argsort(x)
        ax.plot(x[order], y[order], "-", color=style.ENVELOPE, lw=1.2, zorder=4)
        ax.plot(
            x, y, "s", mfc=style.ENVELOPE, mec=style.INK, mew=0.9, ms=6, zorder=5, label="envelope"
        )
        ax.legend(loc="upper right")
    tops = max(c.loss[len(c.loss) // 3] for c in curves)
    bottom = float(min(c.loss.min() for c in curves))
    ax.set_ylim(bottom - 0.05 * (tops - bottom), tops)
    seen = [c.flops[c.loss <= tops] for c in curves]
    low, high = min(f[0] for f in seen if len(f)), ends[:, 0].max()
    ax.set_xlim(low / 1.3, high * 1.3)
    style.log_axis(ax.xaxis, "flops")
    ax.set(
        xlabel="compute spent (FLOPs)", ylabel=f"{_of_losses(curves[0].source)} (nats per token)"
    )
    ends_alone = curves[0].source == FINALS
    ax.set_title("Final losses and their envelope" if ends_alone else "Loss along training")
    style.color_bar(figure, ax, (cmap, norm), "count", "parameters N")


def _of_losses(source: str) -> str:
    """Name the losses of a source for an axis."""
    return source if "loss" in source else f"loss of {source}"
