"""What a page is made of: sections with text, figures and tables of words."""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Grid:
    """A table. A cell of "yes", "no" or "no: why" is coloured."""

    title: str
    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    left: frozenset[int] = frozenset({0})
    """Columns of words, aligned left."""
    note: str = ""
    folded: bool = False
    """Whether a reader opens it."""
    verbatim: bool = False
    """Whether its words are shown letter by letter, to be searched for and copied."""
    formulas: int | None = None
    """The column that holds formulas."""


@dataclass(frozen=True)
class Plot:
    """A figure as an element of the page."""

    name: str
    caption: str
    svg: str
    wide: bool
    alone: bool = False
    """Whether it is narrow and no other stands beside it."""


@dataclass
class Section:
    """A heading and what is under it; left out of the page while nothing is."""

    name: str
    title: str
    formula: str = ""
    """What is fitted, in Python's notation."""
    lead: list[str] = field(default_factory=list)
    figures: list[Plot] = field(default_factory=list)
    grids: list[Grid] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        """Whether there is nothing to show."""
        return not (self.formula or self.lead or self.figures or self.grids)


@dataclass(frozen=True)
class Answer:
    """One approach's card at the top of the page."""

    name: str
    exponent: str = ""
    interval: str = ""
    tokens: str = ""
    refused: str = ""


def ends(interval: tuple[float, float], digits: int = 3) -> str:
    """Write an interval of exponents."""
    low, high = interval
    return f"[{low:.{digits}f}, {high:.{digits}f}]"


def span(interval: tuple[float, float]) -> str:
    """Write an interval of any quantity."""
    return "[{:.4g}, {:.4g}]".format(*interval)


def yes(flag: bool, why: str = "") -> str:
    """Write a yes or a no, with its reason."""
    return "yes" if flag else f"no: {why}" if why else "no"
