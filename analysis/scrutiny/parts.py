"""What questions the answer: other countings, forms, windows, choices, runs and held-out budgets.

Each part is a result or a Refusal with its reason; none of them moves the answer itself.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.bootstrap import Interval
from analysis.config import Loss, Options
from analysis.intake.table import RunsTable, clusters
from analysis.isoflop.fit import Valley
from analysis.learning_rate.fit import LearningRateFit, fit_learning_rate
from analysis.learning_rate.optima import find_optima
from analysis.parametric.form_comparison import FormComparison, compare_forms
from analysis.parametric.frontier import CostLaw
from analysis.parametric.result import ParametricFit
from analysis.refusal import Refusal, attempt
from analysis.repetition.fit import RepetitionFit, fit_repetition
from analysis.scrutiny.by_convention import (
    CountedExponent,
    curves_by_convention,
    exponents_by_convention,
)
from analysis.scrutiny.countings import CountedCurves, countings_of
from analysis.scrutiny.influence import InfluenceTable, find_influence
from analysis.scrutiny.local import (
    LocalExponent,
    local_exponent_of_surface,
    local_exponent_of_valleys,
)
from analysis.scrutiny.multiverse import Multiverse, explore
from analysis.scrutiny.rollout import Rollout, validate_rollout

Floats = NDArray[np.float64]

RESAMPLES = 400
"""Resamples behind the intervals of what only questions the answer."""


NO_ANSWER = Refusal("every approach was refused, so there is no answer to question")
NO_SURFACE = Refusal("the surface was refused")


@dataclass(frozen=True)
class Scrutiny:
    """Every part that was asked."""

    by_convention: tuple[CountedExponent, ...]
    multiverse: Multiverse | Refusal
    forms: FormComparison | Refusal
    rollout: Rollout | Refusal
    local: LocalExponent | Refusal
    """The exponent of the surface in windows of compute."""
    local_valleys: LocalExponent | Refusal
    """Whether the law through the valleys bends."""
    counted: CountedCurves | Refusal
    """a(C) of the surface with and without embeddings."""
    influence: InfluenceTable | Refusal
    learning_rate: LearningRateFit | Refusal
    repetition: RepetitionFit | Refusal


def scrutinise(
    *,
    table: RunsTable,
    options: Options,
    runs: pd.DataFrame,
    best: pd.DataFrame,
    valleys: tuple[Valley, ...],
    parametric: ParametricFit | None,
    interval: Interval | None,
    cost: CostLaw,
    stage: Callable[[str], None],
) -> Scrutiny:
    """Ask everything of one table.

    What questions an answer is refused where there is none: fits of such runs are no exponents.

    Args:
        table: What went in.
        options: Method, form, loss and seed; fewer resamples are drawn than it asks for.
        runs: All usable runs, counted in the convention asked for.
        best: Of these, the runs at their cell's best learning rate.
        valleys: Every budget's.
        parametric: The headline's surface; None when refused.
        interval: The headline's 95 % interval of a; None when every approach is refused.
        cost: Of a run in that convention: what a surface's a is read at.
        stage: Told what is being worked on.
    """
    few = min(RESAMPLES, options.bootstrap)
    stage("countings")
    curves = curves_by_convention(table)
    by_convention = exponents_by_convention(table.frame, options, curves)
    stage("every other choice")
    asked = options.convention.name
    along = {name: curves[name] for name in (asked,) if name in curves}
    multiverse: Multiverse | Refusal = NO_ANSWER
    if interval is not None:
        multiverse = attempt(lambda: explore(table.frame, interval=interval, curves=along))
    stage("windows of compute")
    local: LocalExponent | Refusal = NO_SURFACE
    if parametric is not None:
        local = attempt(partial(_local, best, options, cost, few))
    stage("forms of the surface")
    forms = attempt(partial(_forms, best, options, cost))
    stage("forecasts of the largest budgets")
    rollout: Rollout | Refusal = NO_ANSWER
    if interval is not None:
        rollout = attempt(partial(_rollout, best, valleys, options))
    counted: CountedCurves | Refusal = NO_SURFACE
    influence: InfluenceTable | Refusal = NO_SURFACE
    stage("influence of each run")
    if parametric is not None:
        counted = attempt(partial(countings_of, parametric, best, options.convention))
        influence = attempt(partial(_influence, best, options, cost, parametric))
    stage("learning rates")
    learning_rate = attempt(
        lambda: fit_learning_rate(
            find_optima(runs, resamples=few, seed=options.seed), seed=options.seed
        )
    )
    stage("repeated data")
    repetition = attempt(
        partial(fit_repetition, runs, delta=_log_delta(options), seed=options.seed)
    )
    return Scrutiny(
        by_convention=by_convention,
        multiverse=multiverse,
        forms=forms,
        rollout=rollout,
        local=local,
        local_valleys=attempt(partial(local_exponent_of_valleys, valleys)),
        counted=counted,
        influence=influence,
        learning_rate=learning_rate,
        repetition=repetition,
    )


def _log_delta(options: Options) -> float:
    """Return the Huber threshold that stands for the loss chosen, in nats of log loss."""
    chosen = {Loss.huber: options.parametric.delta, Loss.lad: 1e-6, Loss.mse: 1.0}
    return chosen[options.parametric.loss]


def _columns(runs: pd.DataFrame) -> tuple[Floats, Floats, Floats, Floats]:
    n, d, c, nats = (runs[name].to_numpy(float) for name in ("n_params", "tokens", "flops", "loss"))
    return n, d, c, nats


def _local(best: pd.DataFrame, options: Options, cost: CostLaw, resamples: int) -> LocalExponent:
    return local_exponent_of_surface(
        *_columns(best),
        form=options.parametric.form,
        loss=options.parametric.loss,
        delta=options.parametric.delta,
        clusters=clusters(best),
        cost=cost,
        resamples=resamples,
        seed=options.seed,
    )


def _forms(best: pd.DataFrame, options: Options, cost: CostLaw) -> FormComparison:
    n, d, _, nats = _columns(best)
    return compare_forms(
        n,
        d,
        nats,
        loss=options.parametric.loss,
        delta=options.parametric.delta,
        seed=options.seed,
        clusters=clusters(best),
        cost=cost,
    )


def _rollout(best: pd.DataFrame, valleys: tuple[Valley, ...], options: Options) -> Rollout:
    return validate_rollout(
        best,
        valleys,
        form=options.parametric.form,
        loss=options.parametric.loss,
        delta=options.parametric.delta,
        method=options.isoflop.method,
        seed=options.seed,
    )


def _influence(
    best: pd.DataFrame, options: Options, cost: CostLaw, parametric: ParametricFit
) -> InfluenceTable:
    return find_influence(
        *_columns(best),
        best["run_id"].astype(str).tolist(),
        clusters=clusters(best),
        form=options.parametric.form,
        loss=options.parametric.loss,
        delta=options.parametric.delta,
        cost=cost,
        standard_error=_standard_error(parametric),
    )


def _standard_error(fit: ParametricFit) -> float:
    low, high = fit.intervals["a"]
    return (high - low) / (2 * 1.96)
