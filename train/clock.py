"""A run's clock: how long it trains, and when its next checkpoint is due."""

import contextlib
import time
from collections.abc import Iterator

LARGEST_SAVE_SHARE = 0.02
"""Checkpoints by minutes keep so far apart that writing them costs at most this share of time."""


class RunClock:
    """Seconds of training proper, between boundaries, and since the last checkpoint."""

    def __init__(self, step: int) -> None:
        self._saved_at, self._save_seconds = time.monotonic(), 0.0
        self.resume(step)

    def resume(self, step: int) -> None:
        """Begin a segment of training at `step`."""
        self._from_step, self._from = step, time.perf_counter()

    def training_seconds(self) -> float:
        """Close the segment: what comes next, until `resume`, is not training."""
        self._seconds = time.perf_counter() - self._from
        return self._seconds

    def rate(self, step: int, batch_tokens: int) -> float:
        """Tokens per second of the segment that training_seconds closed."""
        return (step - self._from_step) * batch_tokens / max(1e-9, self._seconds)

    def save_is_due(self, minutes: float) -> bool:
        """Whether the last checkpoint, or the start, is longer ago than its interval."""
        interval = max(60 * minutes, self._save_seconds / LARGEST_SAVE_SHARE)
        return time.monotonic() - self._saved_at > interval

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        """Time the writing of a checkpoint."""
        began = time.monotonic()
        yield
        self._saved_at = time.monotonic()
        self._save_seconds = self._saved_at - began
