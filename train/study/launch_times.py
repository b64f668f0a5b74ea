"""What the slots of a launch did: seconds at work, free though a job waited, and without a job."""

import time
from dataclasses import dataclass, field
from typing import Any


@dataclass(kw_only=True)
class LaunchTimes:
    """Slot seconds of one launch, counted on while it lasts; two slots for 3 s are 6."""

    n_slots: int
    busy: float = 0.0
    """A job's process lived, its start included."""
    waiting: float = 0.0
    """Free although a job waited: what the launcher itself costs."""
    starved: float = 0.0
    """Free with no job left to start, as at a launch's end."""
    _counted_to: float = field(default_factory=lambda: time.monotonic(), repr=False)

    @property
    def wall(self) -> float:
        """Seconds that are counted so far, by the clock."""
        return (self.busy + self.waiting + self.starved) / self.n_slots

    @property
    def idle_share(self) -> float:
        """Share of all slot seconds that a slot was free although a job waited."""
        return self._share(self.waiting)

    def count(self, *, n_running: int, n_waiting: int) -> None:
        """Count the time since the last call, in which so many jobs ran and waited."""
        now = time.monotonic()
        seconds, self._counted_to = now - self._counted_to, now
        free = self.n_slots - n_running
        waited = min(free, n_waiting)
        self.busy += n_running * seconds
        self.waiting += waited * seconds
        self.starved += (free - waited) * seconds

    def notice_late(self, *, n_ended: int, n_waiting: int, seconds: float) -> None:
        """Take back `seconds` of jobs that were counted as running and had ended, at worst."""
        waited = min(n_ended, n_waiting)
        self.busy -= n_ended * seconds
        self.waiting += waited * seconds
        self.starved += (n_ended - waited) * seconds

    def row(self) -> dict[str, Any]:
        """As launch.jsonl has it: seconds by the clock, and slot seconds."""
        return {
            "slots": self.n_slots,
            "wall_seconds": round(self.wall, 3),
            "busy_seconds": round(self.busy, 3),
            "waiting_seconds": round(self.waiting, 3),
            "starved_seconds": round(self.starved, 3),
        }

    def __str__(self) -> str:
        """`63.0 s on 2 slots: 96.1% busy, 0.4% free though a job waited, 3.5% without a job`."""
        return (
            f"{self.wall:.1f} s on {self.n_slots} slot{'s' if self.n_slots > 1 else ''}: "
            f"{self._share(self.busy):.1%} busy, {self.idle_share:.1%} free though a job waited, "
            f"{self._share(self.starved):.1%} without a job"
        )

    def _share(self, seconds: float) -> float:
        total = self.busy + self.waiting + self.starved
        return seconds / total if total else 0.0
