"""Tables and sentences of the sections after the surface, each from one result."""

import math
from collections.abc import Sequence

from analysis.envelope.fit import EnvelopeFit
from analysis.learning_rate.fit import LearningRateFit
from analysis.learning_rate.joint_power_law import JointLaw
from analysis.repetition.fit import RepetitionFit
from analysis.report.blocks import Grid, Section, ends, span, yes
from analysis.scrutiny.influence import Influence, InfluenceTable
from analysis.scrutiny.local import LocalExponent
from analysis.scrutiny.multiverse import Multiverse
from analysis.scrutiny.rollout import Rollout

SHOWN = 8
"""Rows of each kind of influence."""


def add_envelope(section: Section, fit: EnvelopeFit) -> None:
    """Add where the envelope's optima are, and what was left out of it."""
    section.lead.append(
        f"Approach 1 reads {len(fit.points)} optima off the lower hull of {fit.n_runs} curves "
        f"({fit.source}); {fit.n_failed} of {fit.n_resamples} resamples left too few."
    )
    section.lead += fit.notes
    head = ("C", "N_opt", "D_opt", "D/N", "loss", "run")
    rows = [
        (
            f"{p.flops:.3g}",
            f"{p.n_opt:.4g}",
            f"{p.d_opt:.4g}",
            f"{p.d_opt / p.n_opt:.3g}",
            f"{p.loss:.4f}",
            p.run_id,
        )
        for p in fit.points
    ]
    section.grids.append(Grid("The envelope's optima", head, rows, frozenset({5}), folded=True))
    if fit.left_out:
        left = [(f"{x.flops:.3g}", f"{x.n_params:.4g}", x.run_id, x.why) for x in fit.left_out]
        why = ("C", "N", "run", "why it is no optimum")
        title = "Stretches left out of the envelope"
        section.grids.append(Grid(title, why, left, frozenset({2, 3}), folded=True))


def add_local(section: Section, found: LocalExponent) -> None:
    """Add whether the exponent drifts."""
    section.lead.append(found.sentence)
    head = ("C from", "to", "runs", "a", "95 %")
    rows = [
        (
            f"{w.flops[0]:.3g}",
            f"{w.flops[1]:.3g}",
            str(w.n_runs),
            f"{w.a:.3f}",
            ends(w.interval),
        )
        for w in found.windows
    ]
    title = f"Local exponent, by {found.source}"
    section.grids.append(Grid(title, head, rows, frozenset(), folded=True))


def add_multiverse(section: Section, found: Multiverse) -> None:
    """Add what the choices do to the exponent."""
    section.lead.append(found.sentence)
    section.lead += found.notes
    head = ("choice", "share of the variance of a", "range of its means", "mean a by level")
    rows = [
        (
            effect.choice,
            f"{effect.explained:.0%}",
            f"{effect.span:.3f}",
            ", ".join(f"{level} {a:.3f}" for level, a in effect.levels.items()),
        )
        for effect in found.effects
    ]
    grid = Grid("Which choices move the exponent", head, rows, frozenset({0, 3}), folded=True)
    section.grids.append(grid)


def add_rollout(section: Section, found: Rollout) -> None:
    """Add how well larger budgets were foreseen."""
    section.lead += found.sentences
    head = ("held out", "C", "runs", "error", "bias", "noise", "C alone", "inside 95 %")
    rows = []
    for item in found.holdouts:
        reach = f"{item.held_out[0]:.3g} to {item.held_out[1]:.3g}"
        runs = f"{item.n_held} from {item.n_fitted}"
        told = ("", "", "", "", item.refused)
        if item.loss is not None:
            parts = (item.loss.error, item.loss.bias, item.loss.noise, item.loss.baseline)
            error, bias, noise, alone = (f"{100 * part:.2g} %" for part in parts)
            told = (error, bias, noise, alone, f"{item.loss.coverage:.0%}")
        rows.append((item.name, reach, runs, *told))
    note = "Errors of log loss: root mean square by the surface, and by a power law in C alone."
    left = frozenset({0, 7})
    section.grids.append(Grid("Losses foreseen", head, rows, left, note, folded=True))
    sizes = [
        (
            f"{size.flops:.3g}",
            f"{item.fitted_to:.3g}",
            f"{size.measured:.3g}",
            _number(size.by_valleys),
            "" if math.isnan(size.by_valleys) else span(size.interval),
            _number(size.by_surface),
        )
        for item in found.holdouts
        for size in item.sizes
    ]
    if sizes:
        names = ("C", "fitted up to C", "N_opt measured", "by valleys", "95 %", "by surface")
        section.grids.append(Grid("Optima foreseen", names, sizes, frozenset(), folded=True))


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.3g}"


def add_influence(section: Section, table: InfluenceTable) -> None:
    """Add who carries the answer."""
    section.lead.append(table.sentence)
    section.lead += table.notes
    head = ("left out", "", "rows", "a without", "change of a", "change of E", "flagged")
    rows = [
        row
        for kind, part in (("run", table.runs), ("budget", table.budgets), ("size", table.sizes))
        for row in _influences(kind, part)
    ]
    grid = Grid("Influence", head, rows, frozenset({0, 1}), f"Flagged: {table.rule}.", folded=True)
    section.grids.append(grid)


def _influences(kind: str, part: Sequence[Influence]) -> list[tuple[str, ...]]:
    return [
        (
            kind,
            item.name,
            str(item.rows),
            "no answer" if math.isnan(item.a) else f"{item.a:.4f}",
            "" if math.isnan(item.delta_a) else f"{item.delta_a:+.4f}",
            "" if math.isnan(item.delta_floor) else f"{item.delta_floor:+.4f}",
            "flagged" if item.flagged else "",
        )
        for item in part[:SHOWN]
    ]


def add_learning_rate(section: Section, fit: LearningRateFit) -> None:
    """Add the laws of learning rate and batch, and every group's optimum."""
    section.lead.append(
        f"A learning rate off by a factor of 2 costs {100 * fit.penalty:.2g} % of the loss "
        "({:.2g} to {:.2g} %).".format(*(100 * end for end in fit.penalty_range))
    )
    section.lead += fit.notes
    rows = _law("learning rate", fit.lr_law)
    if fit.batch_law is not None:
        rows += _law("batch (tokens)", fit.batch_law)
    else:
        section.lead.append(f"No batch law: {fit.batch_refused}.")
    law = ("law of", "number", "value", "95 %")
    section.grids.append(Grid("Laws", law, rows, frozenset({0, 1})))
    head = ("N", "D", "learning rate", "95 %", "batch", "95 %", "loss", "used")
    groups = [
        (
            f"{g.n_params:.4g}",
            f"{g.tokens:.4g}",
            f"{g.lr_opt:.3g}",
            span(g.lr_ci) if g.lr_ci else "",
            "" if math.isnan(g.batch_opt) else f"{g.batch_opt:.3g}",
            span(g.batch_ci) if g.batch_ci else "",
            f"{g.loss:.4f}",
            yes(bool(used), g.why),
        )
        for g, used in zip(fit.survey.groups, fit.used, strict=True)
    ]
    title = f"Optima of {len(groups)} (N, D)"
    section.grids.append(Grid(title, head, groups, frozenset({7}), folded=True))


def _law(name: str, law: JointLaw) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [
        (name, "coefficient", f"{law.coefficient:.3g}", span(law.coefficient_ci))
    ]
    letters = {"n_params": "exponent of N", "tokens": "exponent of D"}
    for variable in law.names:
        words = letters.get(variable, f"exponent of {variable}")
        rows.append((name, words, f"{law.exponent(variable):.3f}", ends(law.interval(variable))))
    return rows


def add_repetition(section: Section, fit: RepetitionFit) -> None:
    """Add what repeated tokens are worth."""
    section.lead.append(fit.sentence)
    section.lead += fit.notes
    head = ("epochs", "worth of as many fresh tokens", "95 %")
    worths = [
        (str(epochs), f"{worth[0]:.2f}", f"[{worth[1]:.2f}, {worth[2]:.2f}]")
        for epochs, worth in sorted(fit.worth.items())
    ]
    section.grids.append(Grid("Worth of repeated tokens", head, worths, frozenset()))
    names = ("number", "value", "95 %", "identified")
    numbers = [
        (name, f"{fit.values[name]:.4g}", span(fit.intervals[name]), yes(not why, "; ".join(why)))
        for name, why in fit.reasons.items()
    ]
    section.grids.append(Grid("R_D and R_N", names, numbers, frozenset({0, 3}), folded=True))
