"""Run every approach on one table, and everything that questions them.

An approach that cannot be fitted is a Refusal with its reason, never a number.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pandas as pd

from analysis.agreement import Answer, answers_of
from analysis.config import Convention, Options
from analysis.envelope.fit import EnvelopeFit, fit_envelope
from analysis.errors import RefusedError
from analysis.intake.conventions import in_convention
from analysis.intake.curves import envelope_curves
from analysis.intake.table import RunsTable, clusters
from analysis.isoflop import fit as isoflop
from analysis.isoflop.budgets import Cells, group_budgets, make_cells
from analysis.isoflop.fit import IsoflopFit, Valley
from analysis.parametric.fit import Progress, fit_parametric
from analysis.parametric.frontier import SIX_ND, CostLaw, at_cost
from analysis.parametric.result import ParametricFit
from analysis.prediction.draws import fit_cost_law
from analysis.refusal import Refusal as Refusal
from analysis.refusal import attempt, fitted
from analysis.scrutiny.parts import Scrutiny, scrutinise
from analysis.verdict import Verdict, judge

Stage = Callable[[str], None]
"""Told what is being worked on."""


@dataclass(frozen=True)
class Surveyed:
    """What the valleys say, before anything else is fitted."""

    options: Options
    table: RunsTable
    runs: pd.DataFrame
    """Usable runs, n_params and flops counted in the convention asked for."""
    flops_counting: str
    cost: CostLaw
    """How C follows from N and D in that convention."""
    cells: Cells
    valleys: tuple[Valley, ...]
    """Every budget's, also when the approach is refused."""
    isoflop: IsoflopFit | Refusal

    @property
    def best(self) -> pd.DataFrame:
        """Runs at their cell's best learning rate: what the surface is fitted to."""
        return self.runs[self.cells.best]


@dataclass(frozen=True)
class Fitted(Surveyed):
    """Every approach's answer."""

    parametric: ParametricFit | Refusal
    envelope: EnvelopeFit | Refusal

    @property
    def answers(self) -> list[Answer]:
        """The exponents that there are."""
        return answers_of(fitted(self.isoflop), fitted(self.parametric), fitted(self.envelope))


@dataclass(frozen=True)
class Analysis(Fitted, Scrutiny):
    """All that a report needs."""

    verdict: Verdict


def survey(table: RunsTable, options: Options) -> Surveyed:
    """Count in the convention asked for and fit the valleys.

    Raises:
        InputError: The table lacks a column that the convention needs.
    """
    runs, counting = in_convention(table.frame, options.convention)
    cells = make_cells(runs)
    n, d, c = (runs[name].to_numpy(float) for name in ("n_params", "tokens", "flops"))
    cost = fit_cost_law(n, d, c) if options.convention is Convention.attention else SIX_ND
    valleys: tuple[Valley, ...] = ()
    by_valleys: IsoflopFit | Refusal
    try:
        found = isoflop.find_valleys(cells, options.isoflop.method, options.bootstrap, options.seed)
        valleys = found.valleys
        by_valleys = isoflop.fit_isoflop(found, cells, options.seed)
    except RefusedError as error:
        by_valleys = Refusal(str(error) + _other_convention(runs, table, options))
    return Surveyed(options, table, runs, counting, cost, cells, valleys, by_valleys)


def fit_approaches(surveyed: Surveyed, progress: Progress) -> Fitted:
    """Fit the surface and the envelope too.

    Args:
        surveyed: What the valleys say.
        progress: Told how many refits of the surface were just done.
    """
    options = surveyed.options
    by_surface = attempt(partial(fit_by_surface, surveyed, progress))
    curves = envelope_curves(surveyed.table, surveyed.runs)
    by_envelope = attempt(
        lambda: fit_envelope(curves, resamples=options.bootstrap, seed=options.seed)
    )
    return Fitted(**vars(surveyed), parametric=by_surface, envelope=by_envelope)


def question(fits: Fitted, stage: Stage = lambda name: None) -> Analysis:
    """Ask of the answers all that questions them, and weigh them.

    Args:
        fits: The answers.
        stage: Told what is being worked on.
    """
    answers = fits.answers
    questioned = scrutinise(
        table=fits.table,
        options=fits.options,
        runs=fits.runs,
        best=fits.best,
        valleys=fits.valleys,
        parametric=fitted(fits.parametric),
        interval=answers[0].interval if answers else None,
        cost=fits.cost,
        stage=stage,
    )
    verdict = judge(
        table=fits.table,
        cells=fits.cells,
        isoflop=fitted(fits.isoflop),
        parametric=fitted(fits.parametric),
        envelope=fitted(fits.envelope),
        scrutiny=questioned,
        valleys=fits.valleys,
        run_ids=fits.best["run_id"].astype(str).tolist(),
    )
    return Analysis(**vars(fits), **vars(questioned), verdict=verdict)


def analyse(surveyed: Surveyed, progress: Progress, stage: Stage = lambda name: None) -> Analysis:
    """Fit every approach and question the answers."""
    return question(fit_approaches(surveyed, progress), stage)


def _other_convention(runs: pd.DataFrame, table: RunsTable, options: Options) -> str:
    """Say so when the runs share the C they were planned with, but not the one asked for."""
    planned = group_budgets(table.frame["flops"].to_numpy(float))
    asked = group_budgets(runs["flops"].to_numpy(float))
    if (planned >= 0).all() and ((asked < 0).any() or planned.max() < asked.max()):
        return (
            f"; the runs share the budgets they were planned with, but not C as counted by "
            f"convention={options.convention.name}: use the convention of their budgets"
        )
    return ""


def fit_by_surface(surveyed: Surveyed, progress: Progress = lambda done: None) -> ParametricFit:
    """Fit the surface of the options to the runs at their cell's best learning rate.

    Raises:
        RefusedError: The runs do not determine it.
    """
    runs, options = surveyed.best, surveyed.options
    fit = fit_parametric(
        runs["n_params"].to_numpy(float),
        runs["tokens"].to_numpy(float),
        nats=runs["loss"].to_numpy(float),
        form=options.parametric.form,
        loss=options.parametric.loss,
        delta=options.parametric.delta,
        resamples=options.bootstrap,
        seed=options.seed,
        clusters=clusters(runs),
        progress=progress,
    )
    return fit if surveyed.cost.is_6nd else at_cost(fit, surveyed.cost)
