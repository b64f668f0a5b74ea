"""How well the runs pin each parameter down: profile likelihood beside bootstrap."""

from typing import Literal

import numpy as np
from matplotlib.axes import Axes

from analysis import style
from analysis.parametric.result import ParametricFit

CAPTION = (
    "How far each parameter can move from its best value (as a factor) before the runs object: "
    "by profile likelihood (thick) and by bootstrap (thin). An arrow has no end on that side: the "
    "runs do not identify the parameter."
)
CUT = " What reaches the frame goes on beyond it."

_EDGE = 8.0
"""Factor from the best value at which the picture ends."""


def height(fit: ParametricFit) -> float:
    """Return the inches that the figure needs."""
    return 1.4 + 0.42 * len(fit.names)


def draw(ax: Axes, fit: ParametricFit) -> None:
    """Draw both intervals of every parameter, relative to its best value.

    Args:
        ax: Drawn into.
        fit: The surface.
    """
    reach = 1.2
    for k, name in enumerate(fit.names):
        best, profile = fit.values[name], fit.profiles[name]
        ends = (profile.low, profile.high)
        thick = [_relative(end, best, side) for end, side in zip(ends, (0, 1), strict=True)]
        thin = [
            _relative(end, best, side)
            for end, side in zip(fit.intervals[name], (0, 1), strict=True)
        ]
        ax.plot(
            thick,
            [k - 0.12] * 2,
            color=style.SURFACE,
            lw=4.0,
            alpha=0.75,
            solid_capstyle="butt",
            label="profile likelihood" if k == 0 else None,
        )
        ax.plot(
            thin,
            [k + 0.16] * 2,
            color=style.SOFT,
            lw=1.8,
            solid_capstyle="butt",
            label="bootstrap" if k == 0 else None,
        )
        for x, end, side in zip(thick, ends, (0, 1), strict=True):
            if end is None:
                markers: tuple[Literal["<", ">"], ...] = ("<", ">")
                ax.plot(x, k - 0.12, markers[side], color=style.SURFACE, ms=8, clip_on=False)
        ax.plot(1, k, "|", color=style.INK, ms=15, mew=1.4, zorder=4)
        best = round(best, 6) if name == "E" else best  # the fit's bound is not quite 0
        word = f"{best:.4g}" if profile.identified else f"{best:.4g}, not identified"
        ax.annotate(
            word,
            (1, k),
            xycoords=("axes fraction", "data"),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            color=style.INK if profile.identified else style.WARN,
        )
        reach = max(reach, *(max(x, 1 / x) for x in (*thick, *thin)))
    ax.set_xlim(1 / reach**1.05, reach**1.05)
    style.log_axis(ax.xaxis, "plain")
    ax.set_ylim(len(fit.names) - 0.45, -0.6)
    ax.set_yticks(range(len(fit.names)), list(fit.names))
    ax.tick_params(axis="y", length=0)
    ax.grid(visible=False, axis="y")
    ax.spines["left"].set_visible(False)
    ax.set_xlabel("factor of the best value (95 %)")
    ax.set_title("What the runs pin down")
    ax.legend(loc="lower right", bbox_to_anchor=(1.24, 1.0), ncols=2, borderaxespad=0.2)


def caption(fit: ParametricFit) -> str:
    """Return the figure's caption."""
    ends = [
        _relative(end, fit.values[name], side)
        for name in fit.names
        for both in ((fit.profiles[name].low, fit.profiles[name].high), fit.intervals[name])
        for end, side in zip(both, (0, 1), strict=True)
        if end is not None
    ]
    return CAPTION + (CUT if {_EDGE, 1 / _EDGE} & set(ends) else "")


def _relative(end: float | None, best: float, side: int) -> float:
    edge = _EDGE if side else 1 / _EDGE
    if end is None or not np.isfinite(end) or end / best <= 0:
        return edge
    return float(np.clip(end / best, 1 / _EDGE, _EDGE))
