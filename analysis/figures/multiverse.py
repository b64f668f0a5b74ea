"""The specification curve: the exponent under every defensible choice, and the choices made."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import style
from analysis.figures.optimum import CHINCHILLA_A, KAPLAN_A
from analysis.scrutiny.multiverse import Multiverse, Universe

CAPTION = (
    "Each dot is the exponent that one set of defensible choices gives, in order; the band is the "
    "95 % sampling interval, which takes all choices as given. Below, each column says which "
    "choices made the exponent above it; the choice that explains most comes first."
)

COLORS = {"valleys": style.OURS, "surface": style.SURFACE, "envelope": style.ENVELOPE}

Levels = list[tuple[str, str]]
"""Choice and level of every row of the matrix."""


def matrix_rows(found: Multiverse) -> Levels:
    """Return the levels of every choice that takes more than one."""
    order = [effect.choice for effect in found.effects]
    fitted = [u for u in found.universes if not u.refused]
    rows: Levels = []
    for choice in order:
        levels = dict.fromkeys(u.choices[choice] for u in fitted if choice in u.choices)
        if len(levels) > 1:
            rows += [(choice, level) for level in levels]
    return rows


def size(found: Multiverse) -> tuple[float, float]:
    """Return the figure's inches."""
    return 10.6, 3.4 + 0.19 * len(matrix_rows(found))


def draw(figure: Figure, found: Multiverse) -> None:
    """Draw the curve above the matrix of choices.

    Args:
        figure: Drawn into.
        found: Every universe.
    """
    fitted = sorted((u for u in found.universes if not u.refused), key=lambda u: u.a)
    rows = matrix_rows(found)
    top, bottom = figure.subplots(
        2, 1, sharex=True, height_ratios=(2.6, max(0.19 * len(rows), 0.2))
    )
    _curve(top, fitted, found)
    _matrix(bottom, fitted, rows)


def _colors(fitted: list[Universe]) -> list[str]:
    return [COLORS.get(u.choices.get("approach", ""), style.SOFT) for u in fitted]


def _curve(ax: Axes, fitted: list[Universe], found: Multiverse) -> None:
    a = np.array([u.a for u in fitted])
    colors = np.array(_colors(fitted))
    if found.interval is not None:
        ax.axhspan(*found.interval, color=style.FAINT, alpha=0.25, lw=0, label="sampling interval")
    for name, color in COLORS.items():
        chosen = np.flatnonzero(colors == color)
        if len(chosen):
            ax.plot(chosen, a[chosen], "o", color=color, ms=4, mew=0, label=name)
    # A few absurd fits must not flatten the rest.
    low, high = np.quantile(a, [0.02, 0.98])
    reach = [low, high, CHINCHILLA_A, *(found.interval or ())]
    edge = 0.08 * (max(reach) - min(reach))
    ax.set_ylim(min(reach) - edge, max(reach) + edge)
    for value, name, color in (
        (CHINCHILLA_A, "Hoffmann et al. .50", style.CHINCHILLA),
        (KAPLAN_A, "Kaplan et al. .73", style.KAPLAN),
    ):
        if ax.get_ylim()[0] < value < ax.get_ylim()[1]:
            ax.axhline(value, color=color, lw=1.1, ls="--", label=name)
    hidden = int(((a < min(reach) - edge) | (a > max(reach) + edge)).sum())
    said = f"{len(fitted)} fits, {len(found.universes) - len(fitted)} refused"
    style.corner_note(ax, f"{said}, {hidden} beyond the axis" if hidden else said)
    ax.set_ylabel("exponent a")
    ax.set_title("Every defensible choice")
    ax.legend(loc="upper left", ncols=3, fontsize=8.5)
    ax.tick_params(axis="x", length=0)


def _matrix(ax: Axes, fitted: list[Universe], rows: Levels) -> None:
    colors = np.array(_colors(fitted))
    for k, (choice, level) in enumerate(rows):
        has = np.array([u.choices.get(choice) == level for u in fitted])
        for color in dict.fromkeys(colors[has]):
            at = np.flatnonzero(has & (colors == color))
            ax.plot(at, np.full(len(at), k), "|", color=color, ms=6.5, mew=1.1)
        if k and rows[k - 1][0] != choice:
            ax.axhline(k - 0.5, color=style.FAINT, lw=0.6)
    labels = [
        f"{choice}: {level}" if k == 0 or rows[k - 1][0] != choice else level
        for k, (choice, level) in enumerate(rows)
    ]
    ax.set_yticks(range(len(rows)), labels, fontsize=8)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set_xlim(-1, len(fitted))
    ax.tick_params(axis="both", length=0)
    ax.set_xticks([])
    ax.grid(visible=False)
    for side in ("left", "bottom"):
        ax.spines[side].set_visible(False)
    ax.set_xlabel("fits, by exponent")
