"""The figures of a benchmark, each with its goal, in the JSON format that all benchmarks share."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Figure:
    """One measured number and its goal."""

    name: str
    value: float
    unit: str
    goal: float = 0.0
    sense: str = "min"
    """Whether the value must be at least ("min") or at most ("max") the goal."""

    @property
    def meets(self) -> bool:
        """Whether the value reaches the goal."""
        return self.value >= self.goal if self.sense == "min" else self.value <= self.goal

    @property
    def has_goal(self) -> bool:
        """Whether there is a goal. "At least 0", the default, is none: no figure is negative."""
        return self.sense == "max" or self.goal > 0

    @property
    def goal_text(self) -> str:
        """The goal as tables print it, such as ">= 1.7"; empty without a goal."""
        return f"{'>=' if self.sense == 'min' else '<='} {self.goal:g}" if self.has_goal else ""

    @property
    def verdict(self) -> str:
        """Either "meets" or "FALLS SHORT"; empty without a goal."""
        if not self.has_goal:
            return ""
        return "meets" if self.meets else "FALLS SHORT"


def write_figures(path: Path, figures: Iterable[Figure]) -> None:
    """Write figures as a JSON list of objects: the fields of Figure, and `meets`."""
    rows = [asdict(figure) | {"meets": figure.meets} for figure in figures]
    path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def read_figures(path: Path) -> list[Figure]:
    """Read what `write_figures` wrote; an empty list without a file."""
    if not path.exists():
        return []
    rows = json.loads(path.read_text(encoding="utf-8"))
    return [Figure(**{key: row[key] for key in row if key != "meets"}) for row in rows]
