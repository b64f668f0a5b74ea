"""A benchmark's figures, each against its goal, in the one format that all benchmarks write."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Figure:
    """One figure of a benchmark."""

    name: str
    value: float
    unit: str
    goal: float = 0.0
    sense: str = "min"
    """Whether value must be at least ("min") or at most ("max") the goal."""

    @property
    def meets(self) -> bool:
        """Whether the goal is reached."""
        return self.value >= self.goal if self.sense == "min" else self.value <= self.goal

    @property
    def is_judged(self) -> bool:
        """Whether there is a goal; a count without one is at least zero."""
        return self.sense == "max" or self.goal > 0


def write_figures(path: Path, figures: Iterable[Figure]) -> None:
    """Write a list of figures as JSON, `meets` with each."""
    told = [asdict(figure) | {"meets": figure.meets} for figure in figures]
    path.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
