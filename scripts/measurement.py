"""What a benchmark's parts have in common: how much effort, what is measured, what is left out."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmark_figures import Figure


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How long to measure."""

    rounds: int
    """Of contenders in turn."""
    block_seconds: float
    """CPU seconds of a block of calls."""
    is_quick: bool
    """Whether the whole has 3 minutes."""
    is_tiny: bool
    """Whether the figures mean nothing, only that everything runs."""
    folder: Path
    """For files, emptied by whoever made it."""

    @property
    def contender_seconds(self) -> float:
        """About how long one of those that take turns takes, with its first steps."""
        return (self.rounds + 3) * max(self.block_seconds, 0.5)

    @property
    def may_compile(self) -> bool:
        """Whether there is time to; without it what is called compiled is not."""
        return not self.is_tiny

    @property
    def data(self) -> Path:
        """Root of prepared data."""
        return self.folder / "data"


@dataclass(frozen=True)
class Measurement:
    """One thing to measure, which takes seconds or minutes."""

    name: str
    seconds: float
    """About how long it takes, for the time that is left."""
    take: Callable[[], list[Figure]]


class LeftOutError(Exception):
    """A measurement cannot be taken here; the message is the reason."""
