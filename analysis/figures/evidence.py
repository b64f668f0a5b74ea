"""Figures of what stands behind the answer: drift, choices, rollout, influence, tuning, repeats."""

from collections.abc import Iterator
from functools import partial

from matplotlib.figure import Figure

from analysis.figures import influence, learning_rate, local, multiverse, repetition, rollout
from analysis.figures.recipe import PLAIN, Recipe
from analysis.fits import Analysis
from analysis.isoflop.fit import IsoflopFit
from analysis.learning_rate.fit import LearningRateFit
from analysis.parametric.result import ParametricFit
from analysis.repetition.fit import RepetitionFit
from analysis.scrutiny.countings import CountedCurves
from analysis.scrutiny.influence import InfluenceTable
from analysis.scrutiny.local import LocalExponent
from analysis.scrutiny.multiverse import Multiverse
from analysis.scrutiny.rollout import Rollout


def evidence(analysis: Analysis) -> Iterator[Recipe]:
    """Yield the figures of the sections after the surface."""
    asked = (analysis.local, analysis.local_valleys)
    if found := tuple(item for item in asked if isinstance(item, LocalExponent)):
        draw = partial(_draw_local, analysis, found)
        caption = local.CAPTION + _counted_caption(analysis)
        yield Recipe("local_exponent", "drift", caption, PLAIN, draw)
    many = analysis.multiverse
    if isinstance(many, Multiverse):
        draw = partial(multiverse.draw, found=many)
        yield Recipe("multiverse", "choices", multiverse.CAPTION, multiverse.size(many), draw)
    ahead = analysis.rollout
    if isinstance(ahead, Rollout) and rollout.drawable(ahead):
        draw = partial(rollout.draw, found=ahead)
        yield Recipe("rollout", "foreseen", rollout.caption(ahead), rollout.size(ahead), draw)
    table = analysis.influence
    if isinstance(table, InfluenceTable):
        size = influence.size(table)
        draw = partial(influence.draw, table=table)
        yield Recipe("influence", "influence", influence.CAPTION, size, draw)
    rates = analysis.learning_rate
    if isinstance(rates, LearningRateFit):
        draw = partial(_draw_rates, rates)
        yield Recipe("lr_valleys", "learning_rate", learning_rate.VALLEYS, PLAIN, draw)
        both = rates.batch_law is not None
        size = (10.6, 4.2) if both else PLAIN
        caption = learning_rate.LAW + (learning_rate.BATCH if both else "")
        draw = partial(learning_rate.draw_laws, fit=rates)
        yield Recipe("lr_law", "learning_rate", caption, size, draw)
    repeats = analysis.repetition
    if isinstance(repeats, RepetitionFit):
        draw = partial(_draw_repetition, repeats)
        yield Recipe("repetition", "repetition", repetition.CAPTION, PLAIN, draw)


def _draw_local(analysis: Analysis, found: tuple[LocalExponent, ...], figure: Figure) -> None:
    overall = {}
    if isinstance(analysis.isoflop, IsoflopFit):
        overall["valleys"] = analysis.isoflop.n_law.fit.exponent
    if isinstance(analysis.parametric, ParametricFit):
        overall["surface"] = analysis.parametric.values["a"]
    counted = analysis.counted.curves if isinstance(analysis.counted, CountedCurves) else ()
    local.draw(figure.subplots(), found, overall, counted)


def _counted_caption(analysis: Analysis) -> str:
    if not isinstance(analysis.counted, CountedCurves):
        return ""
    return local.COUNTED + (local.PUBLISHED if analysis.counted.published else "")


def _draw_rates(fit: LearningRateFit, figure: Figure) -> None:
    learning_rate.draw_valleys(figure, figure.subplots(), fit.survey)


def _draw_repetition(fit: RepetitionFit, figure: Figure) -> None:
    repetition.draw(figure.subplots(), fit)
