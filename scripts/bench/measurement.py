"""One measurement of a benchmark, and how much time it may take."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.figures import Figure


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How long to measure."""

    rounds: int
    """Rounds of timing; in each, every contender is timed once."""
    block_seconds: float
    """CPU seconds of one timed block of steps."""
    is_quick: bool
    """Whether the whole benchmark has 3 minutes (--quick)."""
    is_tiny: bool
    """Whether this only checks that everything runs (--tiny); the figures mean nothing."""
    folder: Path
    """Temporary folder; the caller deletes it."""

    @property
    def contender_seconds(self) -> float:
        """Estimated seconds to time one contender, its warm-up included."""
        return (self.rounds + 3) * max(self.block_seconds, 0.5)

    @property
    def may_compile(self) -> bool:
        """Whether torch.compile is used. A tiny run has no time: its "compiled" step is eager."""
        return not self.is_tiny

    @property
    def data(self) -> Path:
        """Root folder of prepared token shards."""
        return self.folder / "data"


@dataclass(frozen=True)
class Measurement:
    """One thing to measure, which takes seconds to minutes."""

    name: str
    seconds: float
    """Estimated duration, for the progress bar and for --quick."""
    take: Callable[[], list[Figure]]


class LeftOutError(Exception):
    """A measurement cannot be taken on this machine; the message says why."""
