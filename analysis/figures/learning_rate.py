"""Learning rates: each (N, D)'s valley, and the laws of the optima."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from analysis import style
from analysis.learning_rate.fit import LearningRateFit
from analysis.learning_rate.optima import OptimaSurvey, TunedGroup

Floats = NDArray[np.float64]

VALLEYS = (
    "Loss above each group's optimum against learning rate, at the batch that suits it best; one "
    "colour a size. Curves are the fitted quadratics, diamonds their minima; a hollow one lies on "
    "the edge of what was tried, or is not steady, and is not used."
)
LAW = (
    "The best learning rate against size, with the 95 % interval of each group; lines are the "
    "fitted law at several D."
)
BATCH = " Right: the best batch against tokens, with the law's 95 % band."

_SHOWN = 4.0
"""Per cent above the optimum that the picture shows."""


def draw_valleys(figure: Figure, ax: Axes, survey: OptimaSurvey) -> None:
    """Draw loss against learning rate, one curve a group.

    Args:
        figure: Holds the colour bar.
        ax: Drawn into.
        survey: Every (N, D)'s optimum, usable or not.
    """
    sizes = np.array([g.n_params for g in survey.groups])
    cmap, norm = style.budget_colors(sizes)
    tops = []
    for group in survey.groups:
        color = cmap(norm(group.n_params))
        rates, losses = _lowest_by_rate(group)
        floor = group.loss if group.interior else group.lowest
        rise = 100 * (losses / floor - 1)
        ax.plot(rates, rise, "o", color=color, ms=3.5, mew=0, alpha=0.75)
        if group.interior:
            x = np.linspace(np.log(rates[0]), np.log(rates[-1]), 80)
            ax.plot(np.exp(x), 100 * (_slice(group, x) / floor - 1), color=color, lw=1.2)
        ax.plot(
            group.lr_opt,
            0,
            "D",
            mfc=color if group.interior else style.PAPER,
            mec=style.INK,
            ms=6,
            mew=0.9,
            zorder=5,
        )
        tops.append(float(np.quantile(rise, 0.8)))
    top = float(np.clip(max(tops), 0.3, _SHOWN))
    ax.set_ylim(-0.08 * top, top)
    style.log_axis(ax.xaxis, "plain")
    ax.set(xlabel="learning rate", ylabel="loss above the group's optimum (%)")
    ax.set_title("Learning-rate valleys")
    style.color_bar(figure, ax, (cmap, norm), "count", "parameters N")


def _lowest_by_rate(group: TunedGroup) -> tuple[Floats, Floats]:
    """Return the learning rates tried and the lowest loss at each, over batches."""
    log_lr = group.grid.settings[:, 0]
    rates = np.unique(log_lr)
    return np.exp(rates), np.array([group.grid.loss[log_lr == rate].min() for rate in rates])


def _slice(group: TunedGroup, log_lr: Floats) -> Floats:
    """Return the quadratic's loss at each learning rate and the batch best for it."""
    surface = group.optimum.surface
    settings = log_lr[:, None]
    if surface.n_axes == 2:
        hessian, best = surface.hessian, surface.optimum
        log_batch = best[1] - hessian[0, 1] / hessian[1, 1] * (log_lr - best[0])
        settings = np.stack([log_lr, log_batch], axis=1)
    return np.exp(surface.height(settings))


def draw_laws(figure: Figure, fit: LearningRateFit) -> None:
    """Draw the optima and the laws through them.

    Args:
        figure: Drawn into; two axes where there is a batch law.
        fit: The laws.
    """
    batch = fit.batch_law is not None
    axes = list(figure.subplots(1, 2 if batch else 1, squeeze=False)[0])
    groups = fit.survey.groups
    tokens = np.array([g.tokens for g in groups])
    colors = style.budget_colors(tokens)
    _rates(axes[0], fit, colors)
    if batch:
        _batches(axes[1], fit)
    style.color_bar(figure, axes[0], colors, "count", "tokens D")


def _rates(ax: Axes, fit: LearningRateFit, colors: tuple[style.Scale, style.Norm]) -> None:
    cmap, norm = colors
    sizes = np.array([g.n_params for g in fit.survey.groups])
    span = np.geomspace(sizes.min() / 1.2, sizes.max() * 1.2, 30)
    tokens = np.array([g.tokens for g in fit.survey.groups])
    for d in np.unique(np.quantile(tokens, [0.0, 0.5, 1.0], method="nearest")):
        line = [fit.lr_at(n, float(d))[0] for n in span]
        ax.plot(span, line, color=cmap(norm(d)), lw=1.5)
    for group, used in zip(fit.survey.groups, fit.used, strict=True):
        color = cmap(norm(group.tokens))
        if group.lr_ci is not None:
            ax.plot([group.n_params] * 2, group.lr_ci, color=color, lw=1.2, zorder=3)
        ax.plot(
            group.n_params,
            group.lr_opt,
            "D",
            mfc=color if used else style.PAPER,
            mec=style.INK,
            mew=0.8,
            ms=6,
            zorder=4,
        )
    style.log_axis(ax.xaxis, "count")
    style.log_axis(ax.yaxis, "plain")
    ax.set(xlabel="parameters N", ylabel="best learning rate")
    ax.set_title("Learning rate ~ " + _powers(fit.lr_law.names, fit.lr_law.exponents), loc="left")


def _batches(ax: Axes, fit: LearningRateFit) -> None:
    law = fit.batch_law
    assert law is not None
    tokens = np.array([g.tokens for g in fit.survey.groups])
    span = np.geomspace(tokens.min() / 1.2, tokens.max() * 1.2, 40)
    bands = [fit.batch_at(float(d)) for d in span]
    low, high = (np.array([band[1][k] for band in bands]) for k in (0, 1))
    ax.fill_between(span, low, high, color=style.OURS, alpha=0.14, lw=0)
    ax.plot(span, [band[0] for band in bands], color=style.OURS, lw=2)
    for group, used in zip(fit.survey.groups, fit.used, strict=True):
        if not np.isfinite(group.batch_opt):
            continue
        if group.batch_ci is not None:
            ax.plot([group.tokens] * 2, group.batch_ci, color=style.INK, lw=1.0, zorder=3)
        ax.plot(
            group.tokens,
            group.batch_opt,
            "D",
            mfc=style.OURS if used else style.PAPER,
            mec=style.INK,
            mew=0.8,
            ms=6,
            zorder=4,
        )
    style.log_axis(ax.xaxis, "count")
    style.log_axis(ax.yaxis, "count")
    ax.set(xlabel="tokens D", ylabel="best batch (tokens)")
    ax.set_title("Batch ~ " + _powers(law.names, law.exponents), loc="left")


def _powers(names: tuple[str, ...], exponents: Floats) -> str:
    letters = {"n_params": "N", "tokens": "D", "batch_tokens": "B"}
    return " ".join(
        rf"$\mathbf{{{letters.get(name, name)}^{{{power:.2f}}}}}$"
        for name, power in zip(names, exponents, strict=True)
    )
