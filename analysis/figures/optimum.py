"""Compute-optimal size and tokens against compute, with the published slopes beside ours."""

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from analysis import style
from analysis.bootstrap import Interval
from analysis.isoflop.fit import Valley
from analysis.powerlaw import Law

Floats = NDArray[np.float64]

KAPLAN_A, CHINCHILLA_A = 0.73, 0.50
"""N_opt ~ C**a of Kaplan et al. 2020 (arXiv:2001.08361) and Hoffmann et al. 2022 (2203.15556)."""

CAPTION = (
    "Compute-optimal {what} against compute, with the 95 % band of the fitted law. The published "
    "slopes are drawn through the centre of ours, so that only slopes are compared."
)


@dataclass(frozen=True)
class Line:
    """One approach's optimum."""

    name: str
    color: str
    dashes: tuple[float, ...]
    """Lengths on and off; empty for a full line."""
    exponent: float
    interval: Interval
    optimum: Floats
    """At the common C."""
    low: Floats
    high: Floats
    """Of the 95 % band."""


def line_of_law(name: str, color: str, dashes: tuple[float, ...], law: Law, flops: Floats) -> Line:
    """Return the line of a fitted power law."""
    return Line(
        name, color, dashes, law.fit.exponent, law.interval, law.fit.at(flops), *law.band(flops)
    )


def draw(
    ax: Axes, what: str, flops: Floats, lines: list[Line], valleys: tuple[Valley, ...]
) -> None:
    """Draw N_opt or D_opt against C.

    Args:
        ax: Drawn into.
        what: "N" or "D".
        flops: Shape (points,). Where the lines are evaluated.
        lines: The approaches' optima, the foremost first; its band is drawn.
        valleys: The optima behind the valleys' law.
    """
    first = lines[0]
    ax.fill_between(flops, first.low, first.high, color=first.color, alpha=0.14, lw=0)
    for k, line in enumerate(lines):
        label = "{}: {:.3f} [{:.3f}, {:.3f}]".format(line.name, line.exponent, *line.interval)
        style_of = (0, line.dashes) if line.dashes else "-"
        ax.plot(
            flops,
            line.optimum,
            color=line.color,
            lw=2.2 if k == 0 else 1.7,
            ls=style_of,
            label=label,
        )
    pivot = float(np.log(flops).mean())
    center = float(np.interp(pivot, np.log(flops), np.log(first.optimum)))
    for a, name, color in (
        (KAPLAN_A, "Kaplan et al. 2020", style.KAPLAN),
        (CHINCHILLA_A, "Hoffmann et al. 2022", style.CHINCHILLA),
    ):
        slope = a if what == "N" else 1 - a
        height = np.exp(center + slope * (np.log(flops) - pivot))
        ax.plot(flops, height, color=color, lw=1.3, ls="--", label=f"{name}: {slope:.2f}")
    _points(ax, valleys, what)
    style.log_axis(ax.xaxis, "flops")
    style.log_axis(ax.yaxis, "count")
    words = ("parameters N", "size") if what == "N" else ("tokens D", "tokens")
    ax.set(xlabel="compute C (FLOPs)", ylabel=f"compute-optimal {words[0]}")
    ax.set_title(f"Optimal {words[1]} against compute: exponents of C")
    ax.legend(loc="upper left")


def _points(ax: Axes, valleys: tuple[Valley, ...], what: str) -> None:
    for v in valleys:
        value = v.n_opt if what == "N" else v.d_opt
        if v.n_opt_ci is not None:
            # The interval of D mirrors that of N: at one C their product is fixed.
            spread = np.log(np.array(v.n_opt_ci) / v.n_opt)
            ends = value * np.exp(spread if what == "N" else -spread)
            ax.plot([v.flops, v.flops], ends, color=style.INK, lw=1.0, zorder=4)
        face = style.OURS if v.bracketed else style.PAPER
        ax.plot(v.flops, value, "D", mfc=face, mec=style.INK, mew=1.0, ms=6.5, zorder=5)
