"""What stands in which section of the page. A section without content is left out."""

import platform
from collections import Counter
from importlib import metadata

from analysis.fits import Analysis, Refusal
from analysis.parametric import ParametricFit
from analysis.report import grids
from analysis.report.blocks import Grid, Plot, Section


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
        Section("envelope", "Training curves"),
        Section("hidden", "What the exponent hides"),
        Section("learning_rate", "Learning rate and batch"),
        Section("repetition", "Repeated data"),
        _refused(analysis),
        _excluded(analysis),
        _provenance(analysis, command),
    ]
    for section in sections:
        section.figures = plots.get(section.name, [])
    return [section for section in sections if not section.empty]


def _exponents(analysis: Analysis) -> Section:
    section = Section("exponents", "Exponents and optima")
    if analysis.valleys:
        section.grids.append(grids.valleys(analysis.valleys))
    return section


def _surface(analysis: Analysis) -> Section:
    section = Section("surface", "The loss surface")
    fit = analysis.parametric
    if isinstance(fit, ParametricFit):
        section.lead.append(grids.FORMULAS[fit.form])
        section.grids += [grids.parameters(fit), grids.certificate(fit)]
    return section


def _refused(analysis: Analysis) -> Section:
    section = Section("refused", "What was refused and why")
    rows = [
        (title, item.why)
        for title, item in (
            ("IsoFLOP valleys", analysis.isoflop),
            ("Parametric surface", analysis.parametric),
        )
        if isinstance(item, Refusal)
    ]
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
            Grid(title, ("run", "reason", "detail"), rows, left, folded=len(named) > 12)
        )
    return section


def _provenance(analysis: Analysis, command: str) -> Section:
    options = analysis.options
    rows = [
        ("command", command),
        ("input", analysis.table.source),
        ("sha256", analysis.table.sha256),
        ("counting", f"N {options.convention.name}, C {analysis.flops_counting}"),
        ("bootstrap", f"{options.bootstrap} resamples, seed {options.seed}"),
        ("windtunnel", code_version()),
        ("python", platform.python_version()),
        ("numpy, scipy", f"{metadata.version('numpy')}, {metadata.version('scipy')}"),
    ]
    grid = Grid("", ("what", "value"), rows, frozenset({0, 1}))
    return Section("provenance", "Provenance", grids=[grid])


def code_version() -> str:
    """Return the installed version of the package."""
    try:
        return metadata.version("windtunnel")
    except metadata.PackageNotFoundError:
        return "not installed: run from a source tree"
