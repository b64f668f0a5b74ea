"""report.html: one self-contained page, the answer first. The words are in report.html.j2."""

import base64
import platform
from collections import Counter
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import jinja2

from analysis.bootstrap import Interval
from analysis.figures import Drawn
from analysis.fits import Analysis, Refusal
from analysis.parametric import NAMES, ParametricFit


@dataclass(frozen=True)
class Answer:
    """One approach's line at the top of the page."""

    name: str
    exponent: str
    interval: str
    tokens: str
    refused: str


def write_report(analysis: Analysis, figures: list[Drawn], path: Path, command: str) -> None:
    """Write the page with its images inside.

    Args:
        analysis: What to report.
        figures: Drawn figures, in order.
        path: The page to write.
        command: The command line, for the provenance.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    table = analysis.table
    page = environment.get_template("report.html.j2").render(
        title=table.name,
        stamp=table.stamp,
        answers=_answers(analysis),
        verdict=analysis.verdict,
        figures=[(item, _inline(item.path)) for item in figures],
        valleys=analysis.valleys,
        parameters=_parameters(analysis.parametric),
        surface=analysis.parametric if isinstance(analysis.parametric, ParametricFit) else None,
        used=len(table.frame),
        rows=table.n_rows,
        excluded=[item for item in table.excluded if item.reason != "filtered"],
        counted=sorted(Counter(item.reason for item in table.excluded).items()),
        provenance=_provenance(analysis, command),
    )
    path.write_text(page, encoding="utf-8")


def _answers(analysis: Analysis) -> list[Answer]:
    fit = analysis.isoflop
    if isinstance(fit, Refusal):
        answers = [Answer("IsoFLOP valleys", "", "", "", fit.why)]
    else:
        a, b = fit.n_law, fit.d_law
        tokens = f"D_opt ~ C^{b.fit.exponent:.3f} {_ends(b.interval)}"
        answers = [
            Answer("IsoFLOP valleys", f"{a.fit.exponent:.3f}", _ends(a.interval), tokens, "")
        ]
    surface = analysis.parametric
    if isinstance(surface, Refusal):
        return [*answers, Answer("Parametric surface", "", "", "", surface.why)]
    low, high = surface.intervals["a"]
    tokens = f"D_opt ~ C^{surface.b:.3f} {_ends((1 - high, 1 - low))}"
    a_text = f"{surface.values['a']:.3f}"
    return [*answers, Answer("Parametric surface", a_text, _ends((low, high)), tokens, "")]


def _ends(interval: Interval) -> str:
    return f"[{interval[0]:.3f}, {interval[1]:.3f}]"


def _parameters(fit: ParametricFit | Refusal) -> list[tuple[str, str, str]]:
    if isinstance(fit, Refusal):
        return []
    return [
        (name, f"{fit.values[name]:.6g}", "[{:.4g}, {:.4g}]".format(*fit.intervals[name]))
        for name in NAMES
    ]


def _inline(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")


def _provenance(analysis: Analysis, command: str) -> list[tuple[str, str]]:
    options = analysis.options
    return [
        ("command", command),
        ("input", analysis.table.source),
        ("sha256", analysis.table.sha256),
        ("counting", f"N {options.convention.name}, C {analysis.flops_counting}"),
        ("bootstrap", f"{options.bootstrap} resamples, seed {options.seed}"),
        ("windtunnel", code_version()),
        ("python", platform.python_version()),
        ("numpy, scipy", f"{metadata.version('numpy')}, {metadata.version('scipy')}"),
    ]


def code_version() -> str:
    """Return the installed version of the package."""
    try:
        return metadata.version("windtunnel")
    except metadata.PackageNotFoundError:
        return "not installed: run from a source tree"
