"""What stands in which section of the page. A section without content is left out."""

from collections import Counter
from dataclasses import replace

from analysis.envelope.fit import EnvelopeFit
from analysis.fits import Analysis
from analysis.learning_rate.fit import LearningRateFit
from analysis.parametric.form_comparison import FormComparison
from analysis.parametric.result import ParametricFit
from analysis.refusal import Refusal
from analysis.repetition.fit import RepetitionFit
from analysis.report import evidence, grids
from analysis.report.blocks import Grid, Plot, Section
from analysis.report.provenance import provenance
from analysis.scrutiny.influence import InfluenceTable
from analysis.scrutiny.local import LocalExponent
from analysis.scrutiny.multiverse import Multiverse
from analysis.scrutiny.rollout import Rollout


def page_sections(analysis: Analysis, plots: dict[str, list[Plot]], command: str) -> list[Section]:
    """Return the sections in order.

    Args:
        analysis: What to report.
        plots: Figures by the name of their section.
        command: The command line, for the provenance.
    """
    sections = [
        _exponents(analysis),
        _surface(analysis),
        _envelope(analysis),
        _drift(analysis),
        _choices(analysis),
        _foreseen(analysis),
        _influence(analysis),
        _learning_rate(analysis),
        _repetition(analysis),
        _refused(analysis),
        _excluded(analysis),
        provenance(analysis, command),
    ]
    for section in sections:
        section.figures = placed(plots.get(section.name, []))
    return [section for section in sections if not section.empty]


def placed(figures: list[Plot]) -> list[Plot]:
    """Mark the narrow figure that has no neighbour: its caption stands beside it.

    Wide ones take a row each, and later narrow ones move up into what they leave free.
    """
    narrow = [k for k, figure in enumerate(figures) if not figure.wide]
    if len(narrow) % 2:
        figures[narrow[-1]] = replace(figures[narrow[-1]], alone=True)
    return figures


def _exponents(analysis: Analysis) -> Section:
    section = Section("exponents", "Exponents and optima")
    if rows := analysis.by_convention:
        section.grids.append(grids.conventions(rows))
    if analysis.valleys:
        section.grids.append(grids.valleys(analysis.valleys))
    return section


def _surface(analysis: Analysis) -> Section:
    section = Section("surface", "The loss surface")
    fit = analysis.parametric
    if isinstance(fit, ParametricFit):
        section.formula = f"L(N, D) = {fit.formula.equation}"
        section.grids += [grids.parameters(fit), grids.certificate(fit)]
    if isinstance(analysis.forms, FormComparison):
        section.grids.append(grids.forms(analysis.forms))
    return section


def _envelope(analysis: Analysis) -> Section:
    section = Section("envelope", "Training curves")
    fit = analysis.envelope
    if isinstance(fit, EnvelopeFit):
        evidence.add_envelope(section, fit)
    return section


def _drift(analysis: Analysis) -> Section:
    section = Section("drift", "Does one exponent hold?")
    for found in (analysis.local, analysis.local_valleys):
        if isinstance(found, LocalExponent):
            evidence.add_local(section, found)
    return section


def _choices(analysis: Analysis) -> Section:
    section = Section("choices", "What other choices would say")
    many = analysis.multiverse
    if isinstance(many, Multiverse):
        evidence.add_multiverse(section, many)
    return section


def _foreseen(analysis: Analysis) -> Section:
    section = Section("foreseen", "Does it foresee larger budgets?")
    if isinstance(analysis.rollout, Rollout):
        evidence.add_rollout(section, analysis.rollout)
    return section


def _influence(analysis: Analysis) -> Section:
    section = Section("influence", "Which runs carry it")
    table = analysis.influence
    if isinstance(table, InfluenceTable):
        evidence.add_influence(section, table)
    return section


def _learning_rate(analysis: Analysis) -> Section:
    section = Section("learning_rate", "Learning rate and batch")
    fit = analysis.learning_rate
    if isinstance(fit, LearningRateFit):
        evidence.add_learning_rate(section, fit)
    return section


def _repetition(analysis: Analysis) -> Section:
    section = Section("repetition", "Repeated data")
    fit = analysis.repetition
    if isinstance(fit, RepetitionFit):
        evidence.add_repetition(section, fit)
    return section


PARTS = {
    "isoflop": "IsoFLOP valleys",
    "parametric": "Parametric surface",
    "envelope": "Envelope of training curves",
    "forms": "Comparison of forms",
    "local": "Local exponent of the surface",
    "local_valleys": "Bend of the valleys' law",
    "multiverse": "Multiverse of choices",
    "rollout": "Rollout to larger budgets",
    "influence": "Influence",
    "learning_rate": "Learning-rate law",
    "repetition": "Repeated data",
}
"""Fields of an Analysis that may be a Refusal, by name."""


def _refused(analysis: Analysis) -> Section:
    section = Section("refused", "What was refused and why")
    parts = ((title, getattr(analysis, name)) for name, title in PARTS.items())
    rows = [(title, part.why) for title, part in parts if isinstance(part, Refusal)]
    if rows:
        section.grids.append(Grid("", ("what", "why"), rows, frozenset({0, 1})))
    return section


def _excluded(analysis: Analysis) -> Section:
    section = Section("excluded", "What was excluded")
    table = analysis.table
    counted = sorted(Counter(item.reason for item in table.excluded).items())
    if not counted:
        section.lead.append("Nothing: every run was used.")
        return section
    section.lead.append(", ".join(f"{count} {reason}" for reason, count in counted) + ".")
    named = [item for item in table.excluded if item.reason != "filtered"]
    if named:
        rows = [(item.run_id, item.reason, item.detail) for item in named]
        title = f"{len(named)} by name"
        left = frozenset({0, 1, 2})
        section.grids.append(
            Grid(
                title,
                ("run", "reason", "detail"),
                rows,
                left,
                folded=len(named) > 12,
                verbatim=True,
            )
        )
    return section
