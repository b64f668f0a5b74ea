"""Who carries the answer: the exponent without each run, budget and size."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from analysis import style
from analysis.scrutiny.influence import Influence, InfluenceTable

CAPTION = (
    "How the surface's exponent changes when a run, a budget or a size is left out: the largest "
    "changes of each. Filled marks are flagged; the band is one standard error of the exponent."
)

LONGEST = 24
"""Letters of a name; of a longer one the middle is left out, since names of runs end in a hash."""

SHOWN = 10
"""Bars of each kind."""


def size(table: InfluenceTable) -> tuple[float, float]:
    """Return the figure's inches."""
    most = max(len(part[:SHOWN]) for _, part in _parts(table))
    return 3.5 * len(_parts(table)), 1.3 + 0.27 * most


def _parts(table: InfluenceTable) -> list[tuple[str, tuple[Influence, ...]]]:
    named = (("run", table.runs), ("budget", table.budgets), ("size", table.sizes))
    return [(name, part) for name, part in named if part]


def draw(figure: Figure, table: InfluenceTable) -> None:
    """Draw the largest changes of a.

    Args:
        figure: Drawn into; one axes a kind.
        table: Sorted changes.
    """
    parts = _parts(table)
    axes = list(figure.subplots(1, len(parts), squeeze=False)[0])
    shown = [item.delta_a for _, part in parts for item in part[:SHOWN]]
    finite = [abs(d) for d in shown if d == d] or [0.01]
    reach = 1.15 * max(*finite, table.standard_error)
    for ax, (name, part) in zip(axes, parts, strict=True):
        _bars(ax, part[:SHOWN], table.standard_error)
        ax.set_ylim(max(len(rows[:SHOWN]) for _, rows in parts) - 0.4, -0.6)
        ax.set_xlim(-reach, reach)
        ax.set(xlabel=f"change of a without the {name}")
    axes[0].set_title("Influence on the exponent")


def _short(name: str) -> str:
    if len(name) > LONGEST:
        name = f"{name[: LONGEST - 11]}..{name[-9:]}"
    return style.literal(name)


def _bars(ax: Axes, part: tuple[Influence, ...], error: float) -> None:
    ax.axvspan(-error, error, color=style.FAINT, alpha=0.18, lw=0)
    ax.axvline(0, color=style.SOFT, lw=1.0)
    for k, item in enumerate(part):
        if item.delta_a != item.delta_a:
            ax.annotate("no answer without it", (0, k), ha="center", va="center", fontsize=8.5)
            continue
        face = style.SURFACE if item.flagged else style.PAPER
        ax.plot([0, item.delta_a], [k, k], color=style.SURFACE, lw=2.0, alpha=0.5)
        ax.plot(item.delta_a, k, "o", mfc=face, mec=style.SURFACE, mew=1.4, ms=6.5, zorder=4)
    ax.set_yticks(range(len(part)), [_short(item.name) for item in part], fontsize=8.5)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=4, symmetric=True, min_n_ticks=3))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: style.plain_label(value)))
    ax.tick_params(axis="y", length=0)
    ax.grid(visible=False, axis="y")
    ax.spines["left"].set_visible(False)
