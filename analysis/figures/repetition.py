"""What repeated tokens are worth, by epochs."""

import numpy as np
from matplotlib.axes import Axes

from analysis import style
from analysis.repetition.fit import RepetitionFit

CAPTION = (
    "Worth of training tokens after some epochs on the same data, as a share of as many fresh "
    "ones, with its 95 % interval. Beyond a dotted line no run went."
)


def draw(ax: Axes, fit: RepetitionFit) -> None:
    """Draw the worth of repeated tokens.

    Args:
        ax: Drawn into.
        fit: R_D with its interval.
    """
    epochs = np.array(sorted(fit.worth))
    value, low, high = (np.array([100 * fit.worth[int(e)][k] for e in epochs]) for k in (0, 1, 2))
    color = style.OURS
    ax.fill_between(epochs, low, high, color=color, alpha=0.15, lw=0)
    ax.plot(epochs, value, "o-", color=color, lw=1.8, ms=6)
    for x, y in zip(epochs, value, strict=True):
        ax.annotate(
            f"{y:.0f} %", (x, y), (14, 6), textcoords="offset points", ha="center", fontsize=9
        )
    if fit.max_epochs < epochs[-1]:
        ax.axvline(fit.max_epochs, color=style.SOFT, lw=1.2, ls=":")
    ax.set_ylim(0, 112)
    ax.set_xlim(epochs[0] / 1.15, epochs[-1] * 1.25)
    style.log_axis(ax.xaxis, "plain")
    ax.set(xlabel="epochs", ylabel="worth of a token (% of a fresh one)")
    ax.set_title("What repeated data is worth")
    if fit.reasons.get("R_D"):
        style.corner_note(ax, "R_D is not identified")
