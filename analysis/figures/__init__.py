"""The figures of a report, one module a family. What is not bracketed is drawn hollow.

Each family draws from a result alone; `recipes.py` knows which an Analysis has.
"""

from dataclasses import dataclass
from pathlib import Path

from analysis import style
from analysis.figures.recipes import recipes
from analysis.fits import Analysis


@dataclass(frozen=True)
class Drawn:
    """A figure on disk, and beside it the same as SVG."""

    name: str
    section: str
    """Of the report, where it belongs."""
    caption: str
    path: Path
    """The PNG."""
    width: float
    """Inches."""


def draw_figures(analysis: Analysis, folder: Path) -> list[Drawn]:
    """Draw every figure that the runs allow, as PNG and SVG, in the order of the report.

    Args:
        analysis: What to draw.
        folder: Made if missing; receives NAME.png and NAME.svg.
    """
    drawn = []
    with style.house_style():
        for recipe in recipes(analysis):
            figure = style.new_figure(*recipe.size)
            recipe.draw(figure)
            path = style.save(figure, folder, recipe.name, analysis.table.stamp)
            if recipe.section:
                drawn.append(
                    Drawn(recipe.name, recipe.section, recipe.caption, path, recipe.size[0])
                )
    return drawn
