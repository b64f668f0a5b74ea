"""The figures, each from an Analysis alone. What is not bracketed is drawn hollow."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, LogNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from analysis import style
from analysis.config import Convention
from analysis.curves import Curve, load_curves
from analysis.fits import Analysis
from analysis.frontier import optimal_band, optimal_size
from analysis.isoflop import IsoflopFit, Valley
from analysis.parametric import ParametricFit
from analysis.valley import evaluate

Floats = NDArray[np.float64]

KAPLAN_A, CHINCHILLA_A = 0.73, 0.50
"""N_opt ~ C**a of Kaplan et al. 2020 (arXiv:2001.08361) and Hoffmann et al. 2022 (2203.15556)."""


@dataclass(frozen=True)
class Drawn:
    """A figure on disk."""

    name: str
    caption: str
    path: Path


def draw_figures(analysis: Analysis, folder: Path) -> list[Drawn]:
    """Draw every figure that the runs allow, as PNG and SVG, in the order of the report."""
    stamp = analysis.table.stamp
    drawn = []

    def keep(figure: Figure, name: str, caption: str) -> None:
        drawn.append(Drawn(name, caption, style.save(figure, folder, name, stamp)))

    with style.house_style():
        figure, (ax,) = style.new_figure(7.2, 4.8)
        _isoflop_curves(figure, ax, analysis)
        keep(figure, "isoflop_curves", _CURVES)
        for name, what in (("n_opt", "N"), ("d_opt", "D")):
            if not _has_law(analysis):
                continue
            figure, (ax,) = style.new_figure(7.2, 4.8)
            _optimum(ax, analysis, what)
            keep(figure, name, _OPTIMUM.format(what=what))
        figure, (ax,) = style.new_figure(7.2, 4.8)
        _loss_compute(ax, analysis)
        keep(figure, "loss_compute", _LOSS)
        curves = load_curves(analysis.table)
        if curves:
            figure, (ax,) = style.new_figure(7.2, 4.8)
            _training_curves(figure, ax, curves)
            keep(figure, "training_curves", _TRAINING)
        if _has_law(analysis):
            figure, (left, right) = style.new_figure(13.0, 4.8, columns=2)
            _isoflop_curves(figure, left, analysis)
            _optimum(right, analysis, "N")
            style.save(figure, folder, "overview", stamp)
    return drawn


_CURVES = (
    "Loss against model size, one colour a compute budget. A diamond marks a valley; a hollow one "
    "is not bracketed and is not used. Pale points are outside the fitted window."
)
_OPTIMUM = (
    "Compute-optimal {what} against compute, with the 95 % band of the fitted law. The published "
    "slopes are drawn through the centre of ours, so that only slopes are compared."
)
_LOSS = "Every run (pale), and the loss at each valley, against compute."
_TRAINING = (
    "Training loss of every run against the compute spent so far, coloured by size; dots are final "
    "validation losses."
)


def _has_law(analysis: Analysis) -> bool:
    return isinstance(analysis.isoflop, IsoflopFit) or _surface_law(analysis, "N") is not None


def _isoflop_curves(figure: Figure, ax: Axes, analysis: Analysis) -> None:
    frame = analysis.cells.frame
    flops = frame["flops"].to_numpy(float)
    cmap, norm = style.budget_colors(flops)
    if not analysis.valleys:
        ax.scatter(frame["n_params"], frame["loss"], c=cmap(norm(flops)), s=16, linewidths=0)
    top = _valleys(ax, analysis.valleys, cmap, norm)
    lowest = float(frame["loss"].min())
    if analysis.valleys and top < frame["loss"].max():
        hidden = int((frame["loss"] > top).sum())
        ax.set_ylim(lowest - 0.06 * (top - lowest), top)
        ax.annotate(
            f"{hidden} points above",
            (1.0, 1.01),
            xycoords="axes fraction",
            ha="right",
            va="bottom",
            color=style.FAINT,
            fontsize=8.5,
        )
    style.log_axis(ax.xaxis, "count")
    ax.set(xlabel="parameters N", ylabel="validation loss (nats per token)")
    ax.set_title("Loss against size at fixed compute" if analysis.valleys else "Loss against size")
    bar = figure.colorbar(ScalarMappable(norm, cmap), ax=ax, pad=0.015, aspect=32)
    style.log_axis(bar.ax.yaxis, "flops")
    bar.set_label("compute C (FLOPs)")
    bar.outline.set_visible(False)


def _valleys(ax: Axes, valleys: tuple[Valley, ...], cmap: Colormap, norm: LogNorm) -> float:
    """Draw each budget; return a loss above which points only squash the picture."""
    tops = []
    for v in valleys:
        color = cmap(norm(v.flops))
        inside = np.ones(len(v.losses), dtype=bool)
        if v.window is not None:
            inside = np.arange(len(v.losses)) == np.clip(
                np.arange(len(v.losses)), v.window.low, v.window.high
            )
            log_n = np.linspace(v.window.inside_x[0], v.window.inside_x[-1], 200)
            ax.plot(np.exp(log_n), np.exp(evaluate(v.window, log_n)), color=color, lw=1.6)
        ax.plot(v.n_params[inside], v.losses[inside], "o", color=color, ms=4.5, mew=0)
        ax.plot(v.n_params[~inside], v.losses[~inside], "o", color=color, ms=4, mew=0, alpha=0.3)
        face = color if v.bracketed else "white"
        ax.plot(v.n_opt, v.loss, "D", mfc=face, mec=style.INK, mew=1.0, ms=7.5, zorder=5)
        tops.append((v.bracketed, v.losses[inside].max()))
    if not tops:
        return np.inf
    least = min(v.losses.min() for v in valleys)
    # The valleys that count fill the picture; losses far above them would flatten it.
    tops = [top for bracketed, top in tops if bracketed] or [top for _, top in tops]
    return float(max(tops) + 0.06 * (max(tops) - least))


def _surface_law(analysis: Analysis, what: str) -> tuple[Floats, Floats] | None:
    """Return C and the surface's optimum there, where C is 6 N D."""
    fit = analysis.parametric
    if not isinstance(fit, ParametricFit) or analysis.options.convention is Convention.attention:
        return None
    flops = _span(analysis)
    n_opt = optimal_size(fit, flops)
    return flops, n_opt if what == "N" else flops / (6.0 * n_opt)


def _span(analysis: Analysis) -> Floats:
    flops = analysis.cells.frame["flops"]
    return np.geomspace(float(flops.min()) / 1.6, float(flops.max()) * 1.6, 100)


def _optimum(ax: Axes, analysis: Analysis, what: str) -> None:
    """Draw N_opt or D_opt against C with ours, Kaplan's and Chinchilla's slopes."""
    flops = _span(analysis)
    surface = _surface_law(analysis, what)
    fit = analysis.isoflop
    if isinstance(fit, IsoflopFit):
        law = fit.n_law if what == "N" else fit.d_law
        pivot, center = law.fit.log_pivot, law.fit.log_center
        low, high = law.band(flops)
        ax.fill_between(flops, low, high, color=style.OURS, alpha=0.14, lw=0)
        label = "this study, valleys: {:.3f} [{:.3f}, {:.3f}]".format(
            law.fit.exponent, *law.interval
        )
        ax.plot(flops, law.fit.at(flops), color=style.OURS, lw=2.2, label=label)
    else:
        assert surface is not None
        assert isinstance(analysis.parametric, ParametricFit)
        band = optimal_band(analysis.parametric, flops, what)
        ax.fill_between(flops, *band, color=style.SURFACE, alpha=0.14, lw=0)
        pivot = float(np.log(flops).mean())
        center = float(np.interp(pivot, np.log(flops), np.log(surface[1])))
    if surface is not None and isinstance(analysis.parametric, ParametricFit):
        slope, ends = analysis.parametric.values["a"], analysis.parametric.intervals["a"]
        if what == "D":
            slope, ends = 1 - slope, (1 - ends[1], 1 - ends[0])
        label = f"this study, surface: {slope:.3f} [{ends[0]:.3f}, {ends[1]:.3f}]"
        ax.plot(*surface, color=style.SURFACE, lw=1.6, ls=(0, (1, 1.2)), label=label)
    for a, name, color in (
        (KAPLAN_A, "Kaplan et al. 2020", style.KAPLAN),
        (CHINCHILLA_A, "Hoffmann et al. 2022", style.CHINCHILLA),
    ):
        slope = a if what == "N" else 1 - a
        height = np.exp(center + slope * (np.log(flops) - pivot))
        ax.plot(flops, height, color=color, lw=1.4, ls="--", label=f"{name}: {slope:.2f}")
    _optimum_points(ax, analysis.valleys, what)
    style.log_axis(ax.xaxis, "flops")
    style.log_axis(ax.yaxis, "count")
    words = ("parameters N", "size") if what == "N" else ("tokens D", "tokens")
    ax.set(xlabel="compute C (FLOPs)", ylabel=f"compute-optimal {words[0]}")
    ax.set_title(f"Optimal {words[1]} against compute: exponents of C")
    ax.legend(loc="upper left")


def _optimum_points(ax: Axes, valleys: tuple[Valley, ...], what: str) -> None:
    for v in valleys:
        value = v.n_opt if what == "N" else v.d_opt
        if v.n_opt_ci is not None:
            # The interval of D mirrors that of N: at one C their product is fixed.
            spread = np.log(np.array(v.n_opt_ci) / v.n_opt)
            ends = value * np.exp(spread if what == "N" else -spread)
            ax.plot([v.flops, v.flops], ends, color=style.INK, lw=1.0, zorder=4)
        face = style.OURS if v.bracketed else "white"
        ax.plot(v.flops, value, "D", mfc=face, mec=style.INK, mew=1.0, ms=6.5, zorder=5)


def _loss_compute(ax: Axes, analysis: Analysis) -> None:
    frame = analysis.cells.frame
    ax.plot(
        frame["flops"],
        frame["loss"],
        "o",
        color=style.FAINT,
        ms=3.5,
        mew=0,
        alpha=0.5,
        label="runs",
    )
    fit = analysis.parametric
    if isinstance(fit, ParametricFit) and analysis.options.convention is not Convention.attention:
        flops = _span(analysis)
        n_opt = optimal_size(fit, flops)
        best = fit.predict(n_opt, flops / (6.0 * n_opt))
        label = f"surface at its optimum (E = {fit.values['E']:.3g})"
        ax.plot(flops, best, color=style.SURFACE, lw=1.6, ls=(0, (1, 1.2)), label=label)
    for bracketed, face, label in (
        (True, style.OURS, "valleys"),
        (False, "white", "not bracketed"),
    ):
        chosen = [v for v in analysis.valleys if v.bracketed is bracketed]
        if chosen:
            x, y = [v.flops for v in chosen], [v.loss for v in chosen]
            ax.plot(x, y, "D", mfc=face, mec=style.INK, mew=1.0, ms=6.5, zorder=5, label=label)
    style.log_axis(ax.xaxis, "flops")
    ax.set(xlabel="compute C (FLOPs)", ylabel="validation loss (nats per token)")
    ax.set_title("Loss against compute")
    ax.legend(loc="upper right")


def _training_curves(figure: Figure, ax: Axes, curves: list[Curve]) -> None:
    sizes = np.array([c.n_params for c in curves])
    cmap, norm = style.budget_colors(sizes)
    for c in curves:
        ax.plot(c.flops, c.loss, color=cmap(norm(c.n_params)), lw=0.9, alpha=0.75)
        ax.plot(c.final_flops, c.final_loss, "o", color=cmap(norm(c.n_params)), ms=4, mew=0)
    tops = [c.loss[len(c.loss) // 3] for c in curves]
    bottom = min(c.final_loss for c in curves)
    ax.set_ylim(bottom - 0.05 * (max(tops) - bottom), max(tops))
    seen = min(float(c.flops[c.loss <= max(tops)][0]) for c in curves)
    ax.set_xlim(seen / 1.3, max(c.final_flops for c in curves) * 1.3)
    style.log_axis(ax.xaxis, "flops")
    ax.set(xlabel="compute spent (FLOPs)", ylabel="training loss (nats per token)")
    ax.set_title("Training curves")
    bar = figure.colorbar(ScalarMappable(norm, cmap), ax=ax, pad=0.015, aspect=32)
    style.log_axis(bar.ax.yaxis, "count")
    bar.set_label("parameters N")
    bar.outline.set_visible(False)
