"""One figure to be drawn."""

from collections.abc import Callable
from dataclasses import dataclass

from matplotlib.figure import Figure

PLAIN = (6.4, 4.4)
"""Inches of a figure of which two stand side by side in the report."""


@dataclass(frozen=True)
class Recipe:
    """A figure's name, place in the report, size, and how to draw it."""

    name: str
    section: str
    """Of the report; '' keeps it out."""
    caption: str
    size: tuple[float, float]
    """Width and height in inches."""
    draw: Callable[[Figure], None]
