"""How far the answer can be trusted, from facts of the study, in plain sentences."""

from dataclasses import dataclass

import numpy as np

from analysis.bootstrap import Interval
from analysis.budgets import Cells
from analysis.isoflop import IsoflopFit, Valley
from analysis.parametric import ParametricFit
from analysis.table import RunsTable

AGREE_SIGMAS = 1.96
"""Approaches agree when their exponents differ by less, in joint standard errors."""

WIDE = 0.08
"""Half-width of an interval of a that would agree with almost anything."""

FAR_RESIDUALS, FAR_LOG_LOSS = 15.0, 0.05
"""A run is far off when its log residual exceeds both that many medians and that much."""

VANISHING_E = 1e-3
"""An E below this share of the smallest loss is no measurement of E."""


@dataclass(frozen=True)
class Verdict:
    """What to make of the exponents."""

    agree: bool | None
    """Whether the approaches agree; None when fewer than two could be fitted."""
    trust: str
    """illustrative, indicative or firm; '' without any fit."""
    notes: tuple[str, ...]


def judge(
    *,
    table: RunsTable,
    cells: Cells,
    isoflop: IsoflopFit | None,
    parametric: ParametricFit | None,
    valleys: tuple[Valley, ...],
    run_ids: list[str],
) -> Verdict:
    """Weigh the fits.

    Args:
        table: What went in.
        cells: Best runs by (N, D).
        isoflop: None when refused.
        parametric: None when refused.
        valleys: Every budget, bracketed or not.
        run_ids: Of the runs that the surface was fitted to, in its order.
    """
    agree = _agree(isoflop, parametric)
    widths = [_half(interval) for interval in _intervals(isoflop, parametric)]
    flops = cells.frame["flops"]
    decades = float(np.log10(flops.max() / flops.min()))
    bracketed = sum(valley.bracketed for valley in valleys)
    trust = _grade(decades, bracketed, widths, agree, cells) if widths else ""
    notes = [
        *([table.stamp + "; the answer may change when they finish."] if table.stamp else []),
        *([_summary(trust, decades, bracketed, len(valleys), widths)] if widths else []),
        *_agreement(isoflop, parametric, agree),
        _seeds(cells),
        _learning_rates(table, cells),
        *([f"Nothing here is tested beyond C = {flops.max():.3g} FLOPs."] if widths else []),
        *(isoflop.notes if isoflop else ()),
        *(_surface_notes(parametric, cells, run_ids) if parametric else ()),
        *table.notes,
    ]
    return Verdict(agree, trust, tuple(notes))


def _intervals(isoflop: IsoflopFit | None, parametric: ParametricFit | None) -> list[Interval]:
    return [
        *([isoflop.n_law.interval] if isoflop else []),
        *([parametric.intervals["a"]] if parametric else []),
    ]


def _half(interval: Interval) -> float:
    return 0.5 * (interval[1] - interval[0])


def _agree(isoflop: IsoflopFit | None, parametric: ParametricFit | None) -> bool | None:
    if isoflop is None or parametric is None:
        return None
    error = np.hypot(_half(isoflop.n_law.interval), _half(parametric.intervals["a"])) / 1.96
    difference = abs(isoflop.n_law.fit.exponent - parametric.values["a"])
    return bool(difference <= AGREE_SIGMAS * error)


def _grade(
    decades: float, bracketed: int, widths: list[float], agree: bool | None, cells: Cells
) -> str:
    """Firm needs range, valleys, precision, replicas and agreement; indicative less of each."""
    best = min(widths)
    if (
        decades >= 1.99
        and bracketed >= 5
        and max(widths) <= 0.05
        and agree is True
        and cells.seed_freedom >= 3
        and cells.lr_tried >= 3
    ):
        return "firm"
    if decades >= 0.99 and bracketed >= 4 and best <= 0.1 and agree is not False:
        return "indicative"
    return "illustrative"


_MEANING = {
    "firm": "Firm within its range of compute",
    "indicative": "Indicative: the direction is measured, the second digit can still move",
    "illustrative": "Illustrative: it shows the method, do not plan large runs by it",
}


def _summary(trust: str, decades: float, bracketed: int, budgets: int, widths: list[float]) -> str:
    valleys = f"{bracketed} of {budgets} valleys bracketed, " if budgets else ""
    return (
        f"{_MEANING[trust]}: {valleys}{decades:.1f} decades of compute, "
        f"95 % intervals of a +-{' and +-'.join(f'{w:.3f}' for w in widths)}."
    )


def _agreement(
    isoflop: IsoflopFit | None, parametric: ParametricFit | None, agree: bool | None
) -> list[str]:
    if isoflop is None or parametric is None:
        return (
            ["Only one approach could be fitted, so none checks it."]
            if (isoflop or parametric)
            else []
        )
    one, other = isoflop.n_law.fit.exponent, parametric.values["a"]
    values = f"a = {one:.3f} by valleys, {other:.3f} by the surface"
    if not agree:
        return [
            f"The approaches DISAGREE ({values}): at least one is biased, report neither alone."
        ]
    if max(_half(isoflop.n_law.interval), _half(parametric.intervals["a"])) > WIDE:
        return [f"The approaches do not contradict each other, within wide intervals ({values})."]
    return [f"The approaches agree ({values})."]


def _seeds(cells: Cells) -> str:
    if cells.seed_freedom == 0:
        return (
            "No run was repeated with another seed: run-to-run noise is inferred from residuals, "
            "not measured."
        )
    return (
        f"Seeds scatter the loss by {100 * cells.seed_sd:.2g} % (sd, {cells.seed_freedom} degrees "
        "of freedom)."
    )


def _learning_rates(table: RunsTable, cells: Cells) -> str:
    if "lr" not in table.frame or table.frame["lr"].isna().all():
        return (
            "The learning rates are not in the table: whether they suited every size, which moves "
            "the exponent, is unknown."
        )
    if cells.lr_tried >= 3:
        edges = int((cells.frame["lr_edge"] != "").sum())
        tail = f"; {edges} best ones were on the grid's edge" if edges else ""
        return f"Learning rates were searched, up to {cells.lr_tried} per size and budget{tail}."
    return (
        "Learning rates follow a rule and were not searched at each size: one that suits small "
        "models better than large ones (or the reverse) moves the exponent."
    )


def _surface_notes(fit: ParametricFit, cells: Cells, run_ids: list[str]) -> list[str]:
    notes = []
    size = np.abs(fit.residuals)
    far = np.flatnonzero(size > max(FAR_RESIDUALS * float(np.median(size)), FAR_LOG_LOSS))
    if len(far):
        worst = sorted(far, key=lambda k: -size[k])[:3]
        named = ", ".join(f"{run_ids[k]} by {100 * np.expm1(size[k]):.3g} %" for k in worst)
        notes.append(f"{len(far)} runs lie far off the surface ({named}): look at them.")
    if fit.values["E"] < VANISHING_E * float(cells.frame["loss"].min()):
        notes.append("E is not identified: the best surface has none, so A and alpha absorb it.")
    if fit.n_failed:
        total = fit.n_failed + len(fit.draws)
        notes.append(
            f"{fit.n_failed} of {total} bootstrap refits did not converge and are left out."
        )
    if fit.n_basins > 1:
        notes.append("The surface has a second optimum nearly as good; the intervals cover both.")
    if fit.residual_sd > 0.02:
        notes.append(
            f"The surface misses single losses by {100 * fit.residual_sd:.1f} % (sd): it fits "
            "these runs loosely, and its exponent averages over the misfit."
        )
    return notes
