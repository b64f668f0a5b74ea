"""How far the answer can be trusted, from facts of the study, in plain sentences."""

from dataclasses import dataclass

import numpy as np

from analysis.agreement import (
    Answer,
    Comparison,
    agree_at_all,
    agreement_notes,
    answers_of,
    compare_all,
)
from analysis.envelope.fit import EnvelopeFit
from analysis.intake.table import RunsTable
from analysis.isoflop.budgets import Cells
from analysis.isoflop.fit import IsoflopFit, Valley
from analysis.parametric.result import ParametricFit
from analysis.refusal import fitted
from analysis.repetition.runs import repetition_note
from analysis.scrutiny.local import LocalExponent
from analysis.scrutiny.parts import Scrutiny

FAR_RESIDUALS, FAR_LOG_LOSS = 15.0, 0.05
"""A run is far off when its log residual exceeds both that many medians and that much."""

VANISHING_E = 1e-3
"""An E below this share of the smallest loss is no measurement of E."""


@dataclass(frozen=True)
class Verdict:
    """What to make of the exponents."""

    agree: bool | None
    """Whether the approaches agree; None when fewer than two could be compared."""
    comparisons: tuple[Comparison, ...]
    """Every pair of approaches; an envelope of decaying schedules is compared, not counted."""
    trust: str
    """illustrative, indicative or firm; '' without any fit."""
    notes: tuple[str, ...]


def judge(
    *,
    table: RunsTable,
    cells: Cells,
    isoflop: IsoflopFit | None,
    parametric: ParametricFit | None,
    envelope: EnvelopeFit | None,
    scrutiny: Scrutiny,
    valleys: tuple[Valley, ...],
    run_ids: list[str],
) -> Verdict:
    """Weigh the fits.

    Args:
        table: What went in.
        cells: Best runs by (N, D).
        isoflop: None when refused.
        parametric: None when refused.
        envelope: None when refused.
        scrutiny: What questions them.
        valleys: Every budget, bracketed or not.
        run_ids: Of the runs that the surface was fitted to, in its order.
    """
    answers = answers_of(isoflop, parametric, envelope)
    comparisons = compare_all(answers)
    agree = agree_at_all(comparisons, envelope)
    flops = cells.frame["flops"]
    decades = float(np.log10(flops.max() / flops.min()))
    bracketed = sum(valley.bracketed for valley in valleys)
    holds = not _drifts(scrutiny) and not _fails_ahead(scrutiny)
    trust = _grade(decades, bracketed, answers, agree, holds, cells) if answers else ""
    notes = [
        *([table.stamp + "; the answer may change when they finish."] if table.stamp else []),
        *([_summary(trust, decades, bracketed, len(valleys), answers)] if answers else []),
        *agreement_notes(answers, comparisons, agree, envelope),
        *table.notes,
        *_scrutiny_notes(scrutiny),
        _seeds(cells),
        _learning_rates(table, cells),
        *([f"Nothing here is tested beyond C = {flops.max():.3g} FLOPs."] if answers else []),
        *(isoflop.notes if isoflop else ()),
        *(envelope.notes if envelope else ()),
        *(_surface_notes(parametric, cells, run_ids) if parametric else ()),
        *([note] if (note := repetition_note(table.frame)) else ()),
    ]
    return Verdict(agree, comparisons, trust, tuple(notes))


def _drifts(scrutiny: Scrutiny) -> bool:
    parts = (fitted(scrutiny.local), fitted(scrutiny.local_valleys))
    return any(part is not None and not part.stable for part in parts)


def _fails_ahead(scrutiny: Scrutiny) -> bool:
    rollout = fitted(scrutiny.rollout)
    return rollout is not None and any(item.fails for item in rollout.holdouts[:1])


def _grade(
    decades: float,
    bracketed: int,
    answers: list[Answer],
    agree: bool | None,
    holds: bool,
    cells: Cells,
) -> str:
    """Firm needs range, valleys, precision, replicas and agreement; indicative less of each.

    `holds`: one exponent describes all of the compute, and foresees the largest budgets.
    """
    widths = [answer.half for answer in answers if answer.approach != "envelope"] or [np.inf]
    best = min(widths)
    if (
        holds
        and decades >= 1.99
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


def _summary(
    trust: str, decades: float, bracketed: int, budgets: int, answers: list[Answer]
) -> str:
    valleys = f"{bracketed} of {budgets} valleys bracketed, " if budgets else ""
    widths = " and ".join(f"+-{answer.half:.3f}" for answer in answers)
    return (
        f"{_MEANING[trust]}: {valleys}{decades:.1f} decades of compute, "
        f"95 % intervals of a {widths}."
    )


def _scrutiny_notes(scrutiny: Scrutiny) -> list[str]:
    """Say what moves the answer; what was refused is in the report."""
    multiverse, influence = fitted(scrutiny.multiverse), fitted(scrutiny.influence)
    rollout, repetition = fitted(scrutiny.rollout), fitted(scrutiny.repetition)
    return [
        *_drift(fitted(scrutiny.local), fitted(scrutiny.local_valleys)),
        *([multiverse.sentence] if multiverse else []),
        *([influence.sentence] if influence else []),
        *([repetition.sentence] if repetition else []),
        *(rollout.sentences[:1] if rollout else ()),
    ]


def _drift(by_surface: LocalExponent | None, by_valleys: LocalExponent | None) -> list[str]:
    """Say whether the exponent drifts, in one voice where two tests differ."""
    both = [part for part in (by_surface, by_valleys) if part is not None]
    if len({part.stable for part in both}) < 2:
        opposed = len(both) == 2 and not both[0].stable and both[0].drift * both[1].drift < 0
        tail = ["The two drifts are opposite: the surface does not fit these valleys."]
        return [*(part.sentence for part in both), *(tail if opposed else [])]
    drifting, still = sorted(both, key=lambda part: part.stable)
    return [f"{drifting.sentence} By {still.source} it shows no such drift (p = {still.p:.2g})."]


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
        lie = "1 run lies" if len(far) == 1 else f"{len(far)} runs lie"
        notes.append(f"{lie} far off the surface ({named}): look at what happened there.")
    if fit.values.get("E", np.inf) < VANISHING_E * float(cells.frame["loss"].min()):
        notes.append("E is not identified: the best surface has none, so A and alpha absorb it.")
    if fit.not_identified:
        names = ", ".join(fit.not_identified)
        notes.append(f"Not identified, since the runs bound it on one side at most: {names}.")
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
