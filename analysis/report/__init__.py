"""report.html: one self-contained page, the answer first. The words are in page.html.j2."""

import html
from pathlib import Path

import jinja2
from markupsafe import Markup

from analysis import style
from analysis.figures import Drawn
from analysis.fits import Analysis
from analysis.report.answers import answer_cards
from analysis.report.blocks import Plot
from analysis.report.sections import page_sections
from analysis.report.typeset import formula, typeset

NO_ANSWER = (
    "No exponent: every approach was refused. What was refused and why names the runs to add."
)

WIDE = 8.0
"""Inches from which a figure takes the page's whole width."""

PIXELS_PER_INCH = 58
"""Of a wide figure on a narrow screen, where it scrolls: 10 point letters stay 8 pixels high."""


def write_report(analysis: Analysis, figures: list[Drawn], path: Path, command: str) -> None:
    """Write the page with its figures inside, as vectors in the colours of the reader's theme.

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
    environment.filters |= {"typeset": typeset, "formula": formula}
    light, dark = style.theme_css()
    look = environment.get_template("page.css").render(light=light, dark=dark)
    plots: dict[str, list[Plot]] = {}
    for item in figures:
        plots.setdefault(item.section, []).append(_plot(item))
    cards = answer_cards(analysis)
    none = [NO_ANSWER] if all(card.refused for card in cards) else []
    page = environment.get_template("page.html.j2").render(
        title=analysis.table.name,
        style=Markup(look),  # noqa: S704 - our own file
        stamp=analysis.table.stamp,
        answers=cards,
        notes=[*none, *analysis.verdict.notes],
        sections=page_sections(analysis, plots, command),
        used=len(analysis.table.frame),
        rows=analysis.table.n_rows,
    )
    path.write_text(page, encoding="utf-8")


def _plot(item: Drawn) -> Plot:
    """Read the figure's vector file into the page's colours."""
    svg = item.path.with_suffix(".svg").read_text(encoding="utf-8")
    body = style.themed(svg, item.name, html.escape(item.caption))
    wide = item.width > WIDE
    if wide:
        least = round(item.width * PIXELS_PER_INCH)
        body = body.replace("<svg ", f'<svg style="min-width:{least}px" ', 1)
    return Plot(item.name, item.caption, Markup(body), wide)  # noqa: S704 - ours, escaped
