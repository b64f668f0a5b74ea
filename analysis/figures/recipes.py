"""Which figures an analysis allows: name, place in the report, size, and how to draw each."""

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from analysis import style
from analysis.envelope.fit import EnvelopeFit
from analysis.figures import compute, exponents, identified, optimum, surface, valleys
from analysis.figures.evidence import evidence
from analysis.figures.exponents import Row
from analysis.figures.optimum import Line, line_of_law
from analysis.figures.recipe import PLAIN, Recipe
from analysis.fits import Analysis
from analysis.intake.curves import Curve, envelope_curves, load_curves
from analysis.isoflop.fit import IsoflopFit
from analysis.parametric.frontier import optimal_band, optimal_size
from analysis.parametric.result import ParametricFit

Floats = NDArray[np.float64]

_REACH = 1.6
"""Factor by which lines go beyond the runs' compute on each side."""

_DOTS, _DASHES = (1.0, 1.2), (5.0, 1.5)


def recipes(analysis: Analysis) -> Iterator[Recipe]:
    """Yield the figures in the order of the report."""
    yield from _answer(analysis)
    yield from _surface(analysis)
    yield from _training(analysis)
    yield from evidence(analysis)


def _answer(analysis: Analysis) -> Iterator[Recipe]:
    rows = exponent_rows(analysis)
    shown = sum(not row.refused for row in rows)
    if shown:
        section = "exponents" if shown > 1 else ""  # one alone is its card again
        size = (6.4, exponents.height(rows))
        draw = partial(_draw_exponents, rows)
        yield Recipe("exponents", section, exponents.caption(rows), size, draw)
    draw = partial(_draw_curves, analysis)
    caption = valleys.CAPTION if analysis.valleys else valleys.BARE
    yield Recipe("isoflop_curves", "exponents", caption, PLAIN, draw)
    if optimum_lines(analysis, "N"):
        for name, what in (("n_opt", "N"), ("d_opt", "D")):
            caption = optimum.CAPTION.format(what=what)
            yield Recipe(name, "exponents", caption, PLAIN, partial(_draw_optimum, analysis, what))
        yield Recipe("overview", "", "", (12.6, 4.6), partial(_draw_overview, analysis))
    draw = partial(_draw_loss, analysis)
    caption = compute.LOSS.format(
        valleys=compute.VALLEYS if analysis.valleys else "",
        surface=compute.SURFACE if _surface_at_6nd(analysis) is not None else "",
    )
    yield Recipe("loss_compute", "exponents", caption, PLAIN, draw)


def _surface(analysis: Analysis) -> Iterator[Recipe]:
    fit = analysis.parametric
    if not isinstance(fit, ParametricFit):
        return
    runs = analysis.best
    n, d, c, nats = (runs[k].to_numpy(float) for k in ("n_params", "tokens", "flops", "loss"))
    draw = partial(_draw_contours, fit, n, d, c)
    yield Recipe("contours", "surface", surface.CONTOURS, PLAIN, draw)
    draw = partial(_draw_identified, fit)
    size = (6.4, identified.height(fit))
    yield Recipe("identified", "surface", identified.caption(fit), size, draw)
    draw = partial(surface.draw_residuals, fit=fit, n_params=n, tokens=d, flops=c, losses=nats)
    yield Recipe("residuals", "surface", surface.RESIDUALS, (10.6, 3.8), draw)


def _training(analysis: Analysis) -> Iterator[Recipe]:
    fit = analysis.envelope
    if isinstance(fit, EnvelopeFit):
        curves = envelope_curves(analysis.table, analysis.runs)
        draw = partial(_draw_training, curves, fit)
        caption = compute.TRAINING.format(source=fit.source) + compute.CONTACTS
        yield Recipe("training_curves", "envelope", caption, PLAIN, draw)
    elif curves := load_curves(analysis.table, analysis.runs):
        draw = partial(_draw_training, curves, None)
        caption = compute.TRAINING.format(source=curves[0].source)
        yield Recipe("training_curves", "envelope", caption, PLAIN, draw)


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
    curved = analysis.envelope
    if isinstance(curved, EnvelopeFit):
        law = curved.n_law
        rows.append(exponents.Exponent(asked, "envelope", law.fit.exponent, law.interval))
    have = {row.approach for row in rows}
    others = analysis.by_convention
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
    curved = analysis.envelope
    if isinstance(curved, EnvelopeFit):
        law = curved.n_law if what == "N" else curved.d_law
        lines.append(line_of_law("envelope", style.ENVELOPE, _DASHES, law, flops))
    return lines


def _surface_at_6nd(analysis: Analysis) -> ParametricFit | None:
    """Return the surface where C is 6 N D, so that its optimum is known in closed form."""
    fit = analysis.parametric
    if not isinstance(fit, ParametricFit) or not analysis.cost.is_6nd:
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


def _draw_identified(fit: ParametricFit, figure: Figure) -> None:
    identified.draw(figure.subplots(), fit)


def _draw_training(curves: list[Curve], fit: EnvelopeFit | None, figure: Figure) -> None:
    compute.draw_training(figure, figure.subplots(), curves, fit)
