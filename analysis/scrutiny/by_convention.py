"""The exponent under every counting of parameters and FLOPs that the table allows.

By this choice alone the same runs give exponents from .37 to .70, so they are shown side by side.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd

from analysis.bootstrap import Interval
from analysis.config import Convention, Options
from analysis.envelope.fit import fit_envelope
from analysis.errors import InputError, RefusedError
from analysis.intake.conventions import in_convention
from analysis.intake.curves import Curve, envelope_curves
from analysis.intake.table import RunsTable, clusters
from analysis.isoflop.budgets import Cells, group_budgets, make_cells
from analysis.isoflop.fit import find_valleys, fit_isoflop
from analysis.isoflop.reslice import reslice
from analysis.isoflop.valley import MIN_SIZES
from analysis.parametric.fit import fit_parametric
from analysis.parametric.frontier import at_cost
from analysis.prediction.draws import fit_cost_law

RESAMPLES = 1000
"""Resamples behind each interval here: enough for a figure, a quarter of the headline's."""

SHARED = 0.5
"""Share of (N, D) points that must lie in budgets before a counting's own budgets are used."""

VALLEYS, PLANNED, SURFACE = "isoflop", "isoflop, C as planned", "parametric"
ENVELOPE = "envelope"


@dataclass(frozen=True)
class CountedExponent:
    """One convention and approach."""

    convention: str
    approach: str
    """isoflop, parametric and envelope count N and C alike; "isoflop, C as planned" counts N in the
    convention and keeps the budgets that the runs were planned to share."""
    a: float
    """N_opt ~ C**a; nan when refused."""
    interval: Interval
    refused: str
    """Why there is no exponent; '' when there is."""


def curves_by_convention(table: RunsTable) -> dict[str, list[Curve]]:
    """Read the envelope's curves under every convention whose columns the table has."""
    curves = {}
    for convention in Convention:
        try:
            runs, _ = in_convention(table.frame, convention)
        except InputError:
            continue
        curves[convention.name] = envelope_curves(table, runs)
    return curves


def exponents_by_convention(
    frame: pd.DataFrame, options: Options, curves: Mapping[str, list[Curve]] | None = None
) -> tuple[CountedExponent, ...]:
    """Fit valleys, surface and envelope under every convention.

    Args:
        frame: Usable runs as the table has them, not yet counted in any convention.
        options: Method, loss and seed; fewer resamples are drawn than it asks for.
        curves: By convention, what the envelope is read from; None leaves the envelope out.

    Returns:
        Two to four rows a convention, in the order of config.Convention. A convention whose
        columns the table lacks has one refused row.
    """
    rows: list[CountedExponent] = []
    for convention in Convention:
        try:
            runs, _ = in_convention(frame, convention)
        except InputError as error:
            rows.append(_refused(convention, "all", str(error)))
            continue
        cells = make_cells(runs)
        # the same cells, since C plays no part in which runs form one
        planned = make_cells(runs.assign(flops=frame["flops"]))
        rows.append(_row(convention, VALLEYS, partial(_by_valleys, cells, planned, options)))
        if not np.allclose(runs["n_params"], frame["n_params"], rtol=1e-6):
            rows.append(_row(convention, PLANNED, partial(_valleys, planned, options)))
        best = runs[cells.best]
        rows.append(_row(convention, SURFACE, partial(_by_surface, best, convention, options)))
        if curves is not None:
            along = curves[convention.name]
            rows.append(_row(convention, ENVELOPE, partial(_by_envelope, along, options)))
    return tuple(rows)


def _row(
    convention: Convention, approach: str, fit: Callable[[], tuple[float, Interval]]
) -> CountedExponent:
    try:
        a, interval = fit()
    except RefusedError as error:
        return _refused(convention, approach, str(error))
    return CountedExponent(convention.name, approach, a, interval, "")


def _refused(convention: Convention, approach: str, why: str) -> CountedExponent:
    nan = float("nan")
    return CountedExponent(convention.name, approach, nan, (nan, nan), why)


def _by_valleys(cells: Cells, planned: Cells, options: Options) -> tuple[float, Interval]:
    """Fit valleys on this counting's budgets, re-cut where the runs were planned in another."""
    if not _shares_budgets(cells) and _shares_budgets(planned):
        cells = make_cells(reslice(cells.frame, planned.frame["flops"].to_numpy(float)))
    return _valleys(cells, options)


def _shares_budgets(cells: Cells) -> bool:
    labels = group_budgets(cells.frame["flops"].to_numpy(float))
    sizes = np.bincount(labels[labels >= 0], minlength=1)
    return bool(sizes[sizes >= MIN_SIZES].sum() >= SHARED * len(labels))


def _valleys(cells: Cells, options: Options) -> tuple[float, Interval]:
    resamples = min(RESAMPLES, options.bootstrap)
    found = find_valleys(cells, options.isoflop.method, resamples, options.seed)
    fit = fit_isoflop(found, cells, options.seed)
    return fit.n_law.fit.exponent, fit.n_law.interval


def _by_surface(
    runs: pd.DataFrame, convention: Convention, options: Options
) -> tuple[float, Interval]:
    n_params, tokens, flops, nats = (
        runs[name].to_numpy(float) for name in ("n_params", "tokens", "flops", "loss")
    )
    fit = fit_parametric(
        n_params,
        tokens,
        nats=nats,
        form=options.parametric.form,
        loss=options.parametric.loss,
        delta=options.parametric.delta,
        resamples=min(RESAMPLES, options.bootstrap),
        seed=options.seed,
        clusters=clusters(runs),
    )
    if convention is Convention.attention:
        fit = at_cost(fit, fit_cost_law(n_params, tokens, flops))
    return fit.values["a"], fit.intervals["a"]


def _by_envelope(curves: list[Curve], options: Options) -> tuple[float, Interval]:
    fit = fit_envelope(curves, resamples=min(RESAMPLES, options.bootstrap), seed=options.seed)
    return fit.n_law.fit.exponent, fit.n_law.interval
