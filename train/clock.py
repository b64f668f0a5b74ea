"""Where the wall time of a run, or a stack of them, goes; and when its next checkpoint is due."""

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path

LARGEST_SAVE_SHARE = 0.02
"""Checkpoints by minutes keep so far apart that writing them costs at most this share of time."""

PROCESS_FACTS = Path("/proc/self/stat")
"""What Linux tells of this process."""


class Spend(StrEnum):
    """What wall time is spent on. At any moment it is exactly one of these."""

    train = "train"
    """Steps."""
    data = "data"
    """Waiting for windows of tokens to be gathered."""
    evaluation = "evaluation"
    logging = "logging"
    checkpoint = "checkpoint"
    startup = "startup"
    """Building, compiling and warming up."""
    undone = "undone"
    """What a stop threw away: everything after the checkpoint that the restart went on from."""
    other = "other"


class RunClock:
    """Seconds by what they are spent on, of training between boundaries, and since a checkpoint.

    It reads the time where one thing ends and the next begins, and nowhere else.
    """

    def __init__(
        self, step: int, *, replicas: int = 1, doing: Spend = Spend.train, startup: float = 0.0
    ) -> None:
        """Start it.

        Args:
            step: Updates applied so far.
            replicas: Runs that are trained at once, among which the time is divided; see share.
            doing: What goes on until something else is said.
            startup: Seconds of start-up that have passed before, such as process_seconds().
        """
        self._replicas, self._doing = replicas, doing
        self._seconds = dict.fromkeys(Spend, 0.0)
        self._shares = {**dict.fromkeys(Spend, 0.0), Spend.startup: startup / replicas}
        self._since = self._saved_at = time.perf_counter()
        self._save_seconds = 0.0
        self._from_step, self._from = step, 0.0
        self._segment = 0.0

    def resume(self, step: int) -> None:
        """Begin a segment of training at `step`."""
        self._turn_to(Spend.train)
        self._from_step, self._from = step, self._trained()

    def training_seconds(self) -> float:
        """Close the segment: what comes next, until `resume`, is not training.

        Returns:
            Its wall time: steps and their data, without what was spent on anything else.
        """
        self._turn_to(Spend.other)
        self._segment = self._trained() - self._from
        return self._segment

    def rate(self, step: int, batch_tokens: int) -> float:
        """Tokens per second, of one replica, of the segment that training_seconds closed."""
        return (step - self._from_step) * batch_tokens / max(1e-9, self._segment)

    @contextlib.contextmanager
    def spending(self, what: Spend) -> Iterator[None]:
        """Time a block; what is spent in a block inside it counts there alone."""
        before = self._doing
        self._turn_to(what)
        try:
            yield
        finally:
            self._turn_to(before)

    def share(self, replicas: int) -> None:
        """From here on the time is divided among so many, as others came to their ends."""
        self._turn_to(self._doing)
        self._replicas = replicas

    def spent(self, before: Mapping[str, float] | None = None) -> dict[str, float]:
        """Seconds by Spend's words that one replica answers for; their sum is wall time.

        Args:
            before: What it answers for from before this clock began, in the same form.
        """
        self._turn_to(self._doing)
        before = before or {}
        return {
            what.value: before.get(what, 0.0) + seconds for what, seconds in self._shares.items()
        }

    def save_is_due(self, minutes: float) -> bool:
        """Whether the last checkpoint, or the start, is longer ago than its interval."""
        interval = max(60 * minutes, self._save_seconds / LARGEST_SAVE_SHARE)
        return time.perf_counter() - self._saved_at > interval

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        """Time the writing of a checkpoint; one that fails leaves the next as due as it was."""
        with self.spending(Spend.checkpoint):
            began = self._since
            yield
        self._saved_at = self._since
        self._save_seconds = self._saved_at - began

    def _turn_to(self, what: Spend) -> None:
        """End what was going on, and begin `what`."""
        now = time.perf_counter()
        self._seconds[self._doing] += now - self._since
        self._shares[self._doing] += (now - self._since) / self._replicas
        self._doing, self._since = what, now

    def _trained(self) -> float:
        """Seconds of training, up to the last turn."""
        return self._seconds[Spend.train] + self._seconds[Spend.data]


def process_seconds() -> float:
    """Wall seconds since this process began, to 10 ms: its imports, too; 0 where it is not told."""
    try:
        fields = PROCESS_FACTS.read_text(encoding="utf-8").rpartition(")")[2].split()
        began = int(fields[19]) / os.sysconf("SC_CLK_TCK")  # starttime, field 22 in proc(5)
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - began)
    except (OSError, AttributeError):  # not on Linux
        return 0.0


def undone(before: Mapping[str, float], told: Mapping[str, float]) -> dict[str, float]:
    """What a run that restarts has spent, the work that it lost by the stop included.

    Args:
        before: Seconds by Spend's words, as the checkpoint that it goes on from has them.
        told: As its status told them last, later than the checkpoint.
    """
    lost = max(0.0, sum(told.values()) - sum(before.values()))
    return {**before, Spend.undone.value: before.get(Spend.undone, 0.0) + lost}
