"""The local exponent a(C): whether one number describes the runs."""

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from analysis import style
from analysis.figures.optimum import CHINCHILLA_A, KAPLAN_A
from analysis.scrutiny.local import LocalExponent
from analysis.scrutiny.pearce import CountedCurve

Floats = NDArray[np.float64]

CAPTION = (
    "The exponent in windows of compute (bars: each window's reach and 95 % interval) and the line "
    "that tests its drift. A level line means that one exponent describes the runs."
)
COUNTED = (
    " Curves are what the fitted surface makes of the exponent when parameters are counted with "
    "and without embeddings (Pearce and Song 2024)."
)

PUBLISHED = (
    " The table does not say what its N counts: it is taken to be everything, with embeddings as "
    "in the models that they fitted."
)

_HEIGHT = 0.45
"""Largest distance from the windows' exponents that the picture shows."""


def draw(
    ax: Axes,
    results: tuple[LocalExponent, ...],
    overall: dict[str, float],
    counted: tuple[CountedCurve, ...] = (),
) -> None:
    """Draw a(C).

    Args:
        ax: Drawn into.
        results: By the surface, by the valleys, or both.
        overall: The exponent over all runs, by source.
        counted: The same surface's local exponent under several countings.
    """
    looks = {"surface": (style.SURFACE, "o"), "valleys": (style.OURS, "D")}
    for result in results:
        color, marker = looks[result.source]
        _windows(ax, result, color, marker)
        if result.source in overall:
            ax.axhline(overall[result.source], color=color, lw=1.0, alpha=0.5, zorder=1)
    for curve, dashes in zip(counted, ((4, 1.5), (1, 1.2), (6, 1, 1, 1), (2, 2)), strict=False):
        words = f"surface, N {curve.counting.name.replace('_', '-')}"
        ax.plot(curve.flops, curve.a, color=style.ENVELOPE, lw=1.4, ls=(0, dashes), label=words)
    _references(ax)
    centers = [w.a for r in results for w in r.windows]
    reach = [end for r in results for w in r.windows for end in w.interval]
    low = max(min(reach), min(centers) - _HEIGHT)
    high = min(max(reach), max(centers) + _HEIGHT)
    edge = 0.08 * (high - low)
    ax.set_ylim(min(low, CHINCHILLA_A) - edge, max(high, CHINCHILLA_A) + edge)
    starts = [w.flops for r in results for w in r.windows]
    ax.set_xlim(min(s[0] for s in starts) / 1.5, max(s[1] for s in starts) * 1.5)
    style.log_axis(ax.xaxis, "flops")
    ax.set(xlabel="compute C (FLOPs)", ylabel="local exponent a(C)")
    drifts = any(not result.stable for result in results)
    ax.set_title("The exponent drifts with compute" if drifts else "The exponent along compute")
    ax.legend(loc="best")


def _windows(ax: Axes, result: LocalExponent, color: str, marker: str) -> None:
    centers = np.array([w.center for w in result.windows])
    values = np.array([w.a for w in result.windows])
    for w in result.windows:
        ax.plot(w.flops, [w.a, w.a], color=color, lw=1.2, alpha=0.45, zorder=3)
        ax.plot([w.center, w.center], w.interval, color=color, lw=1.8, alpha=0.55, zorder=3)
    label = f"{result.source}, windows of C"
    ax.plot(
        centers, values, marker, mfc=color, mec=style.PAPER, mew=0.8, ms=7, zorder=5, label=label
    )
    at = np.log10(centers)
    line = values.mean() + result.drift * (at - at.mean())
    word = "no drift shown" if result.stable else "drift"
    ax.plot(
        centers, line, color=color, lw=1.4, zorder=4,
        label="{}: {:+.3f} [{:+.3f}, {:+.3f}] per decade".format(
            word, result.drift, *result.interval
        ),
    )  # fmt: skip


def _references(ax: Axes) -> None:
    for a, name, color, below in (
        (CHINCHILLA_A, "Hoffmann et al. .50", style.CHINCHILLA, True),
        (KAPLAN_A, "Kaplan et al. .73", style.KAPLAN, False),
    ):
        ax.axhline(a, color=color, lw=1.2, ls="--", zorder=1)
        ax.annotate(
            name,
            (1, a),
            xycoords=("axes fraction", "data"),
            xytext=(-2, -3 if below else 2),
            textcoords="offset points",
            ha="right",
            va="top" if below else "bottom",
            fontsize=8.5,
            color=color,
            annotation_clip=True,
        )
