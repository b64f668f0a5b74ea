"""Forecasts of held-out budgets from smaller ones, against what was measured there."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import style
from analysis.scrutiny.forecast import SizeForecast
from analysis.scrutiny.rollout import Holdout, Rollout

LOSSES = (
    "The largest budgets held out and foreseen from the smaller ones{left}: error of the foreseen "
    "losses, by the surface and by a power law in compute alone, beside the noise of the fitted "
    "runs."
)
OPTIMA = " Right: the foreseen optimal size over the one measured there, with 95 % intervals."

NEAR = 2.0
"""Factor up to which ratios are shown on a linear axis, which has round numbers to name."""


def drawable(found: Rollout) -> bool:
    """Return whether any split foresaw something."""
    return any(h.loss is not None or h.sizes for h in found.holdouts)


def caption(found: Rollout) -> str:
    """Return the figure's caption."""
    if _sizes(found):
        return LOSSES.format(left="; left") + OPTIMA
    return LOSSES.format(left="")


def size(found: Rollout) -> tuple[float, float]:
    """Return the figure's inches."""
    rows = max(sum(h.loss is not None for h in found.holdouts), len(_sizes(found)))
    return (10.0 if _sizes(found) else 6.4), 1.9 + 0.42 * rows


def _sizes(found: Rollout) -> list[tuple[Holdout, SizeForecast]]:
    return [(holdout, item) for holdout in found.holdouts for item in holdout.sizes]


def draw(figure: Figure, found: Rollout) -> None:
    """Draw both forecasts.

    Args:
        figure: Drawn into.
        found: Every split.
    """
    sizes = _sizes(found)
    axes = list(figure.subplots(1, 2 if sizes else 1, squeeze=False)[0])
    _losses(axes[0], found)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower left", ncols=3)
    if sizes:
        _optima(axes[1], sizes)
        figure.legend(*axes[1].get_legend_handles_labels(), loc="outside lower right", ncols=2)


def _losses(ax: Axes, found: Rollout) -> None:
    shown = [h for h in found.holdouts if h.loss is not None]
    for k, holdout in enumerate(shown):
        loss = holdout.loss
        assert loss is not None
        points = (
            (loss.noise, "|", style.SOFT, "noise of the fitted runs"),
            (loss.baseline, "s", style.FAINT, "power law in C alone"),
            (loss.error, "o", style.SURFACE, "surface"),
        )
        values = [100 * value for value, *_ in points]
        ax.plot([min(values), max(values)], [k, k], color=style.FAINT, lw=1.0, zorder=2)
        for value, marker, color, label in points:
            ax.plot(
                100 * value, k, marker, color=color, ms=11 if marker == "|" else 7, mew=1.6,
                label=label if k == 0 else None, zorder=3,
            )  # fmt: skip
    ax.set_yticks(range(len(shown)), [_named(h) for h in shown], fontsize=9)
    ax.set_ylim(len(shown) - 0.4, -0.6)
    style.log_axis(ax.xaxis, "plain")
    _bare(ax)
    ax.set_xlabel("error of the foreseen loss (% rms)")
    ax.set_title("Foreseen losses")


def _optima(ax: Axes, sizes: list[tuple[Holdout, SizeForecast]]) -> None:
    reach = 1.1
    for k, (_, item) in enumerate(sizes):
        low, high = (end / item.measured for end in item.interval)
        if np.isfinite(low) and np.isfinite(high):
            ax.plot([low, high], [k, k], color=style.OURS, lw=2.4, alpha=0.5)
            reach = max(reach, high, 1 / low)
        for value, marker, color, label in (
            (item.by_valleys, "D", style.OURS, "valleys"),
            (item.by_surface, "o", style.SURFACE, "surface"),
        ):
            if np.isfinite(value):
                ratio = value / item.measured
                ax.plot(ratio, k, marker, color=color, ms=7, zorder=3,
                        label=label if k == 0 else None)  # fmt: skip
                reach = max(reach, ratio, 1 / ratio)
    ax.axvline(1, color=style.INK, lw=1.2, zorder=1)
    reach = min(reach, 10.0) ** 1.1
    ax.set_xlim(1 / reach, reach)
    if reach > NEAR:
        style.log_axis(ax.xaxis, "plain")
    names = [f"C = {item.flops:.2g}, from C < {holdout.fitted_to:.2g}" for holdout, item in sizes]
    ax.set_yticks(range(len(sizes)), names, fontsize=8.5)
    ax.set_ylim(len(sizes) - 0.4, -0.6)
    _bare(ax)
    ax.set_xlabel(r"foreseen $N_\mathrm{opt}$ over measured $N_\mathrm{opt}$")
    ax.set_title("Foreseen optima")


def _named(holdout: Holdout) -> str:
    low, high = holdout.held_out
    reach = f"C = {high:.2g}" if high < 1.05 * low else f"C = {low:.2g}..{high:.2g}"
    return f"{reach}\n{holdout.n_held} from {holdout.n_fitted} runs"


def _bare(ax: Axes) -> None:
    ax.tick_params(axis="y", length=0)
    ax.grid(visible=False, axis="y")
    ax.spines["left"].set_visible(False)
