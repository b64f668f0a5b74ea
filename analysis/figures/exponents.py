"""Exponents of every approach under every counting convention, side by side with intervals."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from matplotlib.axes import Axes

from analysis import style
from analysis.bootstrap import Interval
from analysis.figures.optimum import CHINCHILLA_A, KAPLAN_A

CAPTION = (
    "The exponent a of N_opt ~ C^a by approach, and under each way of counting parameters and "
    "FLOPs, with 95 % intervals. The same runs give different exponents by the counting alone."
)
ONE = "The exponent a of N_opt ~ C^a by approach, with 95 % intervals; N and C counted as given."
PLANNED = " Hollow: N counted anew, C as the runs were planned."


class Row(Protocol):
    """One exponent."""

    @property
    def convention(self) -> str:
        """How N and C are counted."""

    @property
    def approach(self) -> str:
        """What it was fitted by."""

    @property
    def a(self) -> float:
        """The exponent."""

    @property
    def interval(self) -> Interval:
        """95 %."""

    @property
    def refused(self) -> str:
        """Why there is none, or ''."""


@dataclass(frozen=True)
class Exponent:
    """An approach's own answer as a row."""

    convention: str
    approach: str
    a: float
    interval: Interval
    refused: str = ""


COLORS = {"isoflop": style.OURS, "parametric": style.SURFACE, "envelope": style.ENVELOPE}
WIDEST = (-0.3, 1.6)
"""Exponents beyond which an interval is cut off at the figure's edge."""

MARKERS = {"isoflop": "D", "parametric": "o", "envelope": "s"}


def caption(rows: Sequence[Row]) -> str:
    """Return the figure's caption."""
    shown = [row for row in rows if not row.refused]
    if len(_groups(rows)) < 2:
        return ONE
    return CAPTION + (PLANNED if any("," in row.approach for row in shown) else "")


def height(rows: Sequence[Row]) -> float:
    """Return the inches that the figure needs."""
    return 1.5 + 0.29 * (sum(not row.refused for row in rows) + len(_groups(rows)))


def _groups(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row.convention for row in rows if not row.refused))


def draw(ax: Axes, rows: Sequence[Row]) -> None:
    """Draw one line a row; refused rows are left to the table.

    Args:
        ax: Drawn into.
        rows: At least one that is not refused.
    """
    y = 0.0
    ticks: list[tuple[float, str]] = []
    ends = [end for row in rows if not row.refused for end in (*row.interval, row.a)]
    # One absurdly wide interval must not flatten the rest.
    low = max(min([*ends, CHINCHILLA_A - 0.03]), WIDEST[0])
    high = min(max([*ends, KAPLAN_A + 0.03]), WIDEST[1])
    margin = 0.04 * (high - low)
    ax.set_xlim(low - margin, high + margin)
    for group in _groups(rows):
        ticks.append((y, group))
        y += 1.0
        for row in rows:
            if not row.refused and row.convention == group:
                _row(ax, y, row)
                ticks.append((y, f"{row.approach}   "))
                y += 1.0
    for a, name, color in (
        (CHINCHILLA_A, "Hoffmann et al.\n.50", style.CHINCHILLA),
        (KAPLAN_A, "Kaplan et al.\n.73", style.KAPLAN),
    ):
        ax.axvline(a, color=color, lw=1.3, ls="--", zorder=1)
        ax.annotate(
            name,
            (a, 1),
            xycoords=("data", "axes fraction"),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=8.5,
            color=color,
        )
    ax.set_ylim(y - 0.4, -0.6)
    ax.set_yticks([t for t, _ in ticks], [name for _, name in ticks])
    for (_, name), label in zip(ticks, ax.get_yticklabels(), strict=True):
        label.set_fontweight("normal" if name.endswith(" ") else "bold")
    ax.tick_params(axis="y", length=0)
    ax.grid(visible=False, axis="y")
    ax.spines["left"].set_visible(False)
    ax.set_xlabel(r"exponent $a$ of $N_\mathrm{opt} \sim C^{\,a}$")


def _row(ax: Axes, y: float, row: Row) -> None:
    kind = row.approach.split(",")[0]
    color = COLORS.get(kind, style.SOFT)
    ax.plot(row.interval, [y, y], color=color, lw=2.6, alpha=0.55, clip_on=True)
    face = style.PAPER if "," in row.approach else color
    ax.plot(row.a, y, MARKERS.get(kind, "o"), mfc=face, mec=color, mew=1.4, ms=6.5, zorder=4)
    text = "{:.3f} [{:.3f}, {:.3f}]".format(row.a, *row.interval)
    ax.annotate(
        text,
        (1, y),
        xycoords=("axes fraction", "data"),
        xytext=(8, 0),
        textcoords="offset points",
        va="center",
        fontsize=9,
    )
