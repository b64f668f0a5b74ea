"""Run every approach on one table.

An approach that cannot be fitted is a Refusal with its reason, never a number.
"""

from dataclasses import dataclass

import pandas as pd

from analysis import isoflop, parametric
from analysis.budgets import Cells, group_budgets, make_cells
from analysis.config import Options
from analysis.conventions import in_convention
from analysis.errors import RefusedError
from analysis.isoflop import IsoflopFit, Valley
from analysis.parametric import ParametricFit, Progress
from analysis.table import RunsTable
from analysis.verdict import Verdict, judge

NO_ENVELOPE = (
    "the envelope of training curves is not part of this version; use isoflop and parametric"
)


@dataclass(frozen=True)
class Refusal:
    """Why an approach has no answer."""

    why: str


@dataclass(frozen=True)
class Surveyed:
    """What the valleys say, before the surface is fitted."""

    options: Options
    table: RunsTable
    runs: pd.DataFrame
    """Usable runs, n_params and flops counted in the convention asked for."""
    flops_counting: str
    cells: Cells
    valleys: tuple[Valley, ...]
    """Every budget's, also when the approach is refused."""
    isoflop: IsoflopFit | Refusal


@dataclass(frozen=True)
class Analysis(Surveyed):
    """All that a report needs."""

    parametric: ParametricFit | Refusal
    verdict: Verdict


def survey(table: RunsTable, options: Options) -> Surveyed:
    """Count in the convention asked for and fit the valleys.

    Raises:
        InputError: The table lacks a column that the convention needs.
    """
    runs, counting = in_convention(table.frame, options.convention)
    cells = make_cells(runs)
    method, resamples, seed = options.isoflop.method, options.bootstrap, options.seed
    valleys: tuple[Valley, ...] = ()
    by_valleys: IsoflopFit | Refusal
    try:
        found = isoflop.find_valleys(cells, method, resamples, seed)
        valleys = found.valleys
        by_valleys = isoflop.fit_isoflop(found, cells, seed)
    except RefusedError as error:
        by_valleys = Refusal(str(error) + _other_convention(runs, table, options))
    return Surveyed(options, table, runs, counting, cells, valleys, by_valleys)


def analyse(surveyed: Surveyed, progress: Progress) -> Analysis:
    """Fit the surface too, and weigh the answers."""
    by_surface = _fit_parametric(surveyed.runs[surveyed.cells.best], surveyed.options, progress)
    by_valleys = surveyed.isoflop
    return Analysis(
        **vars(surveyed),
        parametric=by_surface,
        verdict=judge(
            table=surveyed.table,
            cells=surveyed.cells,
            isoflop=by_valleys if isinstance(by_valleys, IsoflopFit) else None,
            parametric=by_surface if isinstance(by_surface, ParametricFit) else None,
            valleys=surveyed.valleys,
            run_ids=surveyed.runs.loc[surveyed.cells.best, "run_id"].astype(str).tolist(),
        ),
    )


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


def _fit_parametric(
    runs: pd.DataFrame, options: Options, progress: Progress
) -> ParametricFit | Refusal:
    try:
        return parametric.fit_parametric(
            runs["n_params"].to_numpy(float),
            runs["tokens"].to_numpy(float),
            nats=runs["loss"].to_numpy(float),
            loss=options.parametric.loss,
            delta=options.parametric.delta,
            resamples=options.bootstrap,
            seed=options.seed,
            progress=progress,
        )
    except RefusedError as error:
        return Refusal(str(error))
