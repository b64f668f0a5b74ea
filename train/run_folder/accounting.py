"""Wall time of a run by kind, when its next checkpoint is due, and what the run costs. No torch."""

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

LARGEST_SAVE_SHARE = 0.02
"""Checkpoints by minutes keep so far apart that writing them costs at most this share of time."""

PROCESS_FACTS = Path("/proc/self/stat")
"""What Linux tells of this process."""


class TimeKind(StrEnum):
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
    other = "other"


class RunClock:
    """Seconds by what they are spent on, of training between boundaries, and since a checkpoint.

    It reads the time where one thing ends and the next begins, and nowhere else.
    """

    def __init__(
        self,
        step: int,
        *,
        replicas: int = 1,
        doing: TimeKind = TimeKind.train,
        startup: float = 0.0,
    ) -> None:
        """Start it.

        Args:
            step: Updates applied so far.
            replicas: Runs that are trained at once, among which the time is divided.
            doing: What goes on until something else is said.
            startup: Seconds of start-up that have passed before, such as process_seconds().
        """
        self.replicas, self._doing = replicas, doing
        self._seconds = dict.fromkeys(TimeKind, 0.0)
        self._shares = {**dict.fromkeys(TimeKind, 0.0), TimeKind.startup: startup / replicas}
        self._since = self._saved_at = time.perf_counter()
        self._save_seconds = 0.0
        self._from_step, self._from = step, 0.0
        self.segment_seconds = 0.0
        """Wall time of the last segment: steps and their data."""

    def start_segment(self, step: int) -> None:
        """Begin a segment of training at `step`."""
        self._turn_to(TimeKind.train)
        self._from_step, self._from = step, self._trained()

    def end_segment(self) -> None:
        """End the segment: what comes next, until `start_segment`, is not training."""
        self._turn_to(TimeKind.other)
        self.segment_seconds = self._trained() - self._from

    def rate(self, step: int, batch_tokens: int) -> float:
        """Tokens per second, of one replica, of the segment that ended."""
        return (step - self._from_step) * batch_tokens / max(1e-9, self.segment_seconds)

    @contextlib.contextmanager
    def spending(self, what: TimeKind) -> Iterator[None]:
        """Time a block; what is spent in a block inside it counts there alone."""
        before = self._doing
        self._turn_to(what)
        try:
            yield
        finally:
            self._turn_to(before)

    def divide_among(self, replicas: int) -> None:
        """Divide the time from here on among `replicas` runs."""
        self._turn_to(self._doing)
        self.replicas = replicas

    def spent(self, before: Mapping[str, float] | None = None) -> dict[str, float]:
        """Seconds by the names of TimeKind that one replica answers for; their sum is wall time.

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
        with self.spending(TimeKind.checkpoint):
            began = self._since
            yield
        self._saved_at = self._since
        self._save_seconds = self._saved_at - began

    def _turn_to(self, what: TimeKind) -> None:
        """End what was going on, and begin `what`."""
        now = time.perf_counter()
        self._seconds[self._doing] += now - self._since
        self._shares[self._doing] += (now - self._since) / self.replicas
        self._doing, self._since = what, now

    def _trained(self) -> float:
        """Seconds of training, up to the last turn."""
        return self._seconds[TimeKind.train] + self._seconds[TimeKind.data]


def process_seconds() -> float:
    """Wall seconds since this process began, to 10 ms: its imports, too; 0 where it is not told."""
    try:
        fields = PROCESS_FACTS.read_text(encoding="utf-8").rpartition(")")[2].split()
        began = int(fields[19]) / os.sysconf("SC_CLK_TCK")  # starttime, field 22 in proc(5)
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - began)
    except (OSError, AttributeError):  # not on Linux
        return 0.0


LARGEST_NUMBER = 1e300
"""A larger number in a run folder or a manifest is damage."""


@dataclass(frozen=True, kw_only=True)
class RunCost:
    """What one run has cost so far: `cost` in result.json and status.json.

    `flops` and `seconds` are those of the run trained alone. The charges count shared work once, so
    that they add up to the cost of a study: a trunk is charged to the longest run that continues
    it, and the time of a stack in equal parts to its replicas.
    """

    flops: int
    """Matrix products of all its steps, attention included."""
    flops_charged: int
    """Those computed for this run alone: a branch's begin at its fork step."""
    seconds: float
    """Training time, its trunk's steps included."""
    spent: Mapping[str, float]
    """Wall seconds charged to this run, by TimeKind."""
    stack: int = 1
    """Replicas trained at once."""
    devices: float = 1.0
    """Devices per stack; below 1 where several jobs share one."""
    peak_flops: float | None = None
    """Measured FLOP/s of one device's matrix products; None where not recorded."""
    peak_datasheet: float | None = None
    """The vendor's number; None for a device that we do not know."""
    forked_from: str | None = None
    """run_id of the run whose trunk it branches from."""
    fork_step: int | None = None
    """Steps taken from that trunk."""

    @property
    def seconds_charged(self) -> float:
        """Device seconds charged to this run."""
        return self.devices * sum(self.spent.values())

    def to_json(self) -> dict[str, Any]:
        """The value of `cost` in result.json and status.json."""
        return {
            **asdict(self),
            "seconds": round(self.seconds, 3),
            "seconds_charged": round(self.seconds_charged, 3),
            "spent": {kind: round(seconds, 3) for kind, seconds in self.spent.items()},
        }


def read_cost(
    plan: Mapping[str, Any], status: Mapping[str, Any], result: Mapping[str, Any]
) -> RunCost | None:
    """Read a run's cost from its folder; None for a run that has cost nothing yet.

    Runs of versions that recorded no cost count as trained alone, by their row or their steps so
    far. Values that are no numbers count as 0.

    Args:
        plan: `plan` of the run's entry in the manifest.
        status: Content of status.json.
        result: Content of result.json; empty before the run is completed.
    """
    for recorded in (result.get("cost"), status.get("cost")):
        if isinstance(recorded, Mapping):
            return _cost_from_json(recorded)
    row = result.get("row")
    if not isinstance(row, Mapping):
        row = {}
    step_flops = cost_number(plan.get("flops_exact")) / max(1.0, cost_number(plan.get("steps")))
    flops = int(cost_number(row.get("flops_exact")) or step_flops * cost_number(status.get("step")))
    seconds = cost_number(row.get("seconds")) or cost_number(status.get("seconds"))
    if not flops and not seconds:
        return None
    spent = {TimeKind.train.value: seconds}
    return RunCost(flops=flops, flops_charged=flops, seconds=seconds, spent=spent)


def _cost_from_json(recorded: Mapping[str, Any]) -> RunCost:
    number = {name: cost_number(recorded.get(name)) for name in RunCost.__dataclass_fields__}
    spent, fork = recorded.get("spent"), recorded.get("forked_from")
    return RunCost(
        flops=int(number["flops"]),
        flops_charged=int(number["flops_charged"]),
        seconds=number["seconds"],
        spent=_seconds_by_kind(spent if isinstance(spent, Mapping) else {}),
        stack=int(number["stack"]) or 1,
        devices=number["devices"] or 1.0,
        peak_flops=number["peak_flops"] or None,
        peak_datasheet=number["peak_datasheet"] or None,
        forked_from=fork if isinstance(fork, str) else None,
        fork_step=int(number["fork_step"]) or None,
    )


def _seconds_by_kind(recorded: Mapping[str, Any]) -> dict[str, float]:
    """Seconds of every TimeKind; kinds of other versions count as `other`."""
    seconds = dict.fromkeys((kind.value for kind in TimeKind), 0.0)
    for name, value in recorded.items():
        kind = name if name in seconds else TimeKind.other.value
        seconds[kind] += cost_number(value)
    return seconds


def cost_number(value: object) -> float:
    """Read a non-negative number from a file that may be damaged; 0 for anything else.

    Integers keep all their digits.
    """
    if isinstance(value, int | float) and 0 <= value < LARGEST_NUMBER:
        return value
    return 0.0
