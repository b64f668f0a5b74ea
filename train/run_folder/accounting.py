"""Wall time of a run by kind, the interval between checkpoints, and the cost of a run. No torch."""

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

LARGEST_SAVE_SHARE = 0.02
"""Largest share of the time for writing checkpoints; the interval between them follows from it."""

PROCESS_STAT = Path("/proc/self/stat")
"""Linux: proc(5) of this process."""


class TimeKind(StrEnum):
    """Kind of work; every moment of a process belongs to exactly one."""

    train = "train"
    """Steps, without `data`."""
    data = "data"
    """Waiting for the windows of the next steps."""
    evaluation = "evaluation"
    logging = "logging"
    checkpoint = "checkpoint"
    startup = "startup"
    """Building, compiling and warming up."""
    other = "other"


class RunClock:
    """Wall seconds by TimeKind, of the current segment of training, and since the last checkpoint.

    The clock is read only where the kind of work changes.
    """

    def __init__(
        self,
        step: int,
        *,
        replicas: int = 1,
        doing: TimeKind = TimeKind.train,
        startup: float = 0.0,
    ) -> None:
        """Start the clock.

        Args:
            step: Updates applied so far.
            replicas: Runs trained at once; each is charged an equal part of the time.
            doing: Kind of the work until the first change.
            startup: Seconds of start-up before this clock, such as process_seconds().
        """
        self.replicas, self._doing = replicas, doing
        self._seconds = dict.fromkeys(TimeKind, 0.0)
        self._shares = {**dict.fromkeys(TimeKind, 0.0), TimeKind.startup: startup / replicas}
        self._since = self._saved_at = time.perf_counter()
        self._save_seconds = 0.0
        self._from_step, self._from = step, 0.0
        self.segment_seconds = 0.0
        """Seconds of the last segment: steps and their data."""

    def start_segment(self, step: int) -> None:
        """Begin a segment of training at `step`; until `end_segment`, time is `train`."""
        self._turn_to(TimeKind.train)
        self._from_step, self._from = step, self._trained()

    def end_segment(self) -> None:
        """End the segment; until the next one, time is `other`."""
        self._turn_to(TimeKind.other)
        self.segment_seconds = self._trained() - self._from

    def rate(self, step: int, batch_tokens: int) -> float:
        """Tokens per second of one replica over the last segment."""
        return (step - self._from_step) * batch_tokens / max(1e-9, self.segment_seconds)

    @contextlib.contextmanager
    def spending(self, what: TimeKind) -> Iterator[None]:
        """Count the time of a block as `what`; a block nested in it counts as its own kind only."""
        before = self._doing
        self._turn_to(what)
        try:
            yield
        finally:
            self._turn_to(before)

    def divide_among(self, replicas: int) -> None:
        """Charge the time from here on to `replicas` runs in equal parts."""
        self._turn_to(self._doing)
        self.replicas = replicas

    def spent(self, before: Mapping[str, float] | None = None) -> dict[str, float]:
        """Seconds charged to one replica, by TimeKind; over all replicas they sum to wall time.

        Args:
            before: Seconds charged before this clock started, in the same form.
        """
        self._turn_to(self._doing)
        before = before or {}
        return {
            what.value: before.get(what, 0.0) + seconds for what, seconds in self._shares.items()
        }

    def save_is_due(self, minutes: float) -> bool:
        """Whether the last checkpoint, or the start, is more than `minutes` ago.

        The interval is longer where writing a checkpoint takes over LARGEST_SAVE_SHARE of it.
        """
        interval = max(60 * minutes, self._save_seconds / LARGEST_SAVE_SHARE)
        return time.perf_counter() - self._saved_at > interval

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        """Count a block as `checkpoint`; unless it raises, the interval starts anew at its end."""
        with self.spending(TimeKind.checkpoint):
            began = self._since
            yield
        self._saved_at = self._since
        self._save_seconds = self._saved_at - began

    def _turn_to(self, what: TimeKind) -> None:
        """Count the time since the last change, and begin `what`."""
        now = time.perf_counter()
        self._seconds[self._doing] += now - self._since
        self._shares[self._doing] += (now - self._since) / self.replicas
        self._doing, self._since = what, now

    def _trained(self) -> float:
        """Seconds of training up to the last change of kind."""
        return self._seconds[TimeKind.train] + self._seconds[TimeKind.data]


def process_seconds() -> float:
    """Wall seconds since this process started, imports included, to 10 ms; 0 outside Linux."""
    try:
        fields = PROCESS_STAT.read_text(encoding="utf-8").rpartition(")")[2].split()
        # starttime, field 22 in proc(5)
        began = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - began)
    except (OSError, AttributeError):
        return 0.0


LARGEST_NUMBER = 1e300
"""Larger numbers in a run folder or a manifest count as damage."""


@dataclass(frozen=True, kw_only=True)
class RunCost:
    """Cost of one run so far: `cost` in result.json and status.json.

    `flops` and `seconds` are those of the run as if trained alone. The charges count shared work
    once, so they sum to the cost of the study: the steps of a trunk are charged to its longest run,
    and the time of a stack in equal parts to its replicas.
    """

    flops: int
    """Matmuls of all steps, attention included."""
    flops_charged: int
    """FLOPs computed for this run; those of a branch start at its fork step."""
    seconds: float
    """Training time, steps of the trunk included."""
    spent: Mapping[str, float]
    """Wall seconds charged to this run, by TimeKind."""
    stack: int = 1
    """Replicas trained at once."""
    devices: float = 1.0
    """Devices per stack; below 1 where several jobs share one."""
    peak_flops: float | None = None
    """FLOP/s of matmuls measured on one device; None where not recorded."""
    peak_datasheet: float | None = None
    """FLOP/s of the vendor's datasheet; None for an unknown device."""
    forked_from: str | None = None
    """run_id of the trunk that this run branches from."""
    fork_step: int | None = None
    """Steps shared with that trunk."""

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
    """Read the cost of a run; None for a run that has not been trained.

    A run of a version that recorded no cost counts as trained alone: its cost is that of its row,
    or of its steps so far. Anything but a number counts as 0.

    Args:
        plan: `plan` of its entry in the manifest.
        status: Content of status.json.
        result: Content of result.json; empty before completion.
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
    """Seconds by TimeKind; kinds of other versions count as `other`."""
    seconds = dict.fromkeys((kind.value for kind in TimeKind), 0.0)
    for name, value in recorded.items():
        kind = name if name in seconds else TimeKind.other.value
        seconds[kind] += cost_number(value)
    return seconds


def cost_number(value: object) -> float:
    """Return a non-negative number of a file as it is, and 0 for anything else."""
    if isinstance(value, int | float) and 0 <= value < LARGEST_NUMBER:
        return value
    return 0.0
