"""Which figures an analysis allows: name, place in the report, size, and how to draw each."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from analysis import style
from analysis.config import Convention
from analysis.curves import Curve, load_curves
from analysis.figures import compute, exponents, optimum, surface, valleys
from analysis.figures.exponents import Row
from analysis.figures.optimum import Line, line_of_law
from analysis.fits import Analysis
from analysis.frontier import optimal_band, optimal_size
from analysis.isoflop import IsoflopFit
from analysis.parametric import ParametricFit

Floats = NDArray[np.float64]

_REACH = 1.6
"""Factor by which lines go beyond the runs' compute on each side."""

_DOTS = (1.0, 1.2)

_PLAIN = (6.4, 4.4)


@dataclass(frozen=True)
class Recipe:
    """One figure to be drawn."""

    name: str
    section: str
    """Of the report; '' keeps it out."""
    caption: str
    size: tuple[float, float]
    """Width and height in inches."""
    draw: Callable[[Figure], None]


def recipes(analysis: Analysis) -> Iterator[Recipe]:
    """Yield the figures in the order of the report."""
    yield from _answer(analysis)
    yield from _surface(analysis)
    curves = load_curves(analysis.table)
    if curves:
        draw = partial(_draw_training, analysis, curves)
        yield Recipe("training_curves", "envelope", compute.TRAINING, _PLAIN, draw)


def _answer(analysis: Analysis) -> Iterator[Recipe]:
    rows = exponent_rows(analysis)
    if any(not row.refused for row in rows):
        size = (6.4, exponents.height(rows))
        draw = partial(_draw_exponents, rows)
        yield Recipe("exponents", "exponents", exponents.CAPTION, size, draw)
    draw = partial(_draw_curves, analysis)
    yield Recipe("isoflop_curves", "exponents", valleys.CAPTION, _PLAIN, draw)
    if optimum_lines(analysis, "N"):
        for name, what in (("n_opt", "N"), ("d_opt", "D")):
            caption = optimum.CAPTION.format(what=what)
            yield Recipe(name, "exponents", caption, _PLAIN, partial(_draw_optimum, analysis, what))
        yield Recipe("overview", "", "", (12.6, 4.6), partial(_draw_overview, analysis))
    draw = partial(_draw_loss, analysis)
    yield Recipe("loss_compute", "exponents", compute.LOSS, _PLAIN, draw)


def _surface(analysis: Analysis) -> Iterator[Recipe]:
    fit = analysis.parametric
    if not isinstance(fit, ParametricFit):
        return
    runs = analysis.runs[analysis.cells.best]
    n, d, c, nats = (runs[k].to_numpy(float) for k in ("n_params", "tokens", "flops", "loss"))
    draw = partial(_draw_contours, fit, n, d, c)
    yield Recipe("contours", "surface", surface.CONTOURS, _PLAIN, draw)
    draw = partial(surface.draw_residuals, fit=fit, n_params=n, tokens=d, flops=c, losses=nats)
    yield Recipe("residuals", "surface", surface.RESIDUALS, (10.6, 3.8), draw)


def exponent_rows(analysis: Analysis) -> list[Row]:
    """Return every exponent there is, those of the convention asked for first."""
    asked = analysis.options.convention.name
    rows: list[Row] = []
    fit, fitted = analysis.isoflop, analysis.parametric
    if isinstance(fit, IsoflopFit):
        law = fit.n_law
        rows.append(exponents.Exponent(asked, "isoflop", law.fit.exponent, law.interval))
    if isinstance(fitted, ParametricFit):
        a, interval = fitted.values["a"], fitted.intervals["a"]
        rows.append(exponents.Exponent(asked, "parametric", a, interval))
    have = {row.approach for row in rows}
    others = getattr(analysis, "by_convention", ())
    rows += [row for row in others if row.convention == asked and row.approach not in have]
    return rows + [row for row in others if row.convention != asked]


def optimum_lines(analysis: Analysis, what: str) -> list[Line]:
    """Return each approach's N_opt or D_opt (`what`) over the runs' compute."""
    flops = _span(analysis)
    lines = []
    if isinstance(analysis.isoflop, IsoflopFit):
        law = analysis.isoflop.n_law if what == "N" else analysis.isoflop.d_law
        lines.append(line_of_law("valleys", style.OURS, (), law, flops))
    fit = _surface_at_6nd(analysis)
    if fit is not None:
        a, (low, high), n_opt = fit.values["a"], fit.intervals["a"], optimal_size(fit, flops)
        slope, ends = (a, (low, high)) if what == "N" else (1 - a, (1 - high, 1 - low))
        center = n_opt if what == "N" else flops / (6.0 * n_opt)
        band = optimal_band(fit, flops, what)
        lines.append(Line("surface", style.SURFACE, _DOTS, slope, ends, center, *band))
    return lines


def _surface_at_6nd(analysis: Analysis) -> ParametricFit | None:
    """Return the surface where C is 6 N D, so that its optimum is known in closed form."""
    fit = analysis.parametric
    if not isinstance(fit, ParametricFit) or analysis.options.convention is Convention.attention:
        return None
    return fit


def _span(analysis: Analysis) -> Floats:
    flops = analysis.cells.frame["flops"]
    return np.geomspace(float(flops.min()) / _REACH, float(flops.max()) * _REACH, 100)


def _cells(analysis: Analysis, *names: str) -> tuple[Floats, ...]:
    return tuple(analysis.cells.frame[name].to_numpy(float) for name in names)


def _draw_exponents(rows: Sequence[Row], figure: Figure) -> None:
    exponents.draw(figure.subplots(), rows)


def _draw_curves(analysis: Analysis, figure: Figure) -> None:
    _curves(analysis, figure, figure.subplots())


def _curves(analysis: Analysis, figure: Figure, ax: Axes) -> None:
    n_params, flops, losses = _cells(analysis, "n_params", "flops", "loss")
    valleys.draw(figure, ax, analysis.valleys, n_params, flops, losses)


def _draw_optimum(analysis: Analysis, what: str, figure: Figure) -> None:
    _optimum(analysis, what, figure.subplots())


def _optimum(analysis: Analysis, what: str, ax: Axes) -> None:
    optimum.draw(ax, what, _span(analysis), optimum_lines(analysis, what), analysis.valleys)


def _draw_overview(analysis: Analysis, figure: Figure) -> None:
    left, right = figure.subplots(1, 2)
    _curves(analysis, figure, left)
    _optimum(analysis, "N", right)


def _draw_loss(analysis: Analysis, figure: Figure) -> None:
    best = None
    if (fit := _surface_at_6nd(analysis)) is not None:
        flops = _span(analysis)
        n_opt = optimal_size(fit, flops)
        losses = fit.predict(n_opt, flops / (6.0 * n_opt))
        best = (flops, losses, fit.values.get("E", 0.0))
    flops, losses = _cells(analysis, "flops", "loss")
    compute.draw_loss(figure.subplots(), flops, losses, analysis.valleys, best)


def _draw_contours(
    fit: ParametricFit, n_params: Floats, tokens: Floats, flops: Floats, figure: Figure
) -> None:
    surface.draw_contours(figure, figure.subplots(), fit, n_params, tokens, flops)


def _draw_training(analysis: Analysis, curves: list[Curve], figure: Figure) -> None:
    compute.draw_training(figure, figure.subplots(), curves, None)
