"""Where the wall time of a run, or a stack of them, goes; and when its next checkpoint is due.

What a run costs: FLOPs asked for and computed, device time, and what it was spent on. No torch.

Runs of one job share work. A run keeps its own C for science, as if it had been trained alone; what
was computed once is charged once: a trunk to the longest run that grew from it, and the time of a
stack of replicas to each in equal parts. So charges add up to what a study really cost.
"""

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
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
    undone = "undone"
    """What a stop threw away: everything after the checkpoint that the restart went on from."""
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
            replicas: Runs that are trained at once, among which the time is divided; see share.
            doing: What goes on until something else is said.
            startup: Seconds of start-up that have passed before, such as process_seconds().
        """
        self._replicas, self._doing = replicas, doing
        self._seconds = dict.fromkeys(TimeKind, 0.0)
        self._shares = {**dict.fromkeys(TimeKind, 0.0), TimeKind.startup: startup / replicas}
        self._since = self._saved_at = time.perf_counter()
        self._save_seconds = 0.0
        self._from_step, self._from = step, 0.0
        self._segment = 0.0

    def resume(self, step: int) -> None:
        """Begin a segment of training at `step`."""
        self._turn_to(TimeKind.train)
        self._from_step, self._from = step, self._trained()

    def training_seconds(self) -> float:
        """Close the segment: what comes next, until `resume`, is not training.

        Returns:
            Its wall time: steps and their data, without what was spent on anything else.
        """
        self._turn_to(TimeKind.other)
        self._segment = self._trained() - self._from
        return self._segment

    def rate(self, step: int, batch_tokens: int) -> float:
        """Tokens per second, of one replica, of the segment that training_seconds closed."""
        return (step - self._from_step) * batch_tokens / max(1e-9, self._segment)

    @contextlib.contextmanager
    def spending(self, what: TimeKind) -> Iterator[None]:
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
        self._shares[self._doing] += (now - self._since) / self._replicas
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


def undone(before: Mapping[str, float], told: Mapping[str, float]) -> dict[str, float]:
    """What a run that restarts has spent, the work that it lost by the stop included.

    Args:
        before: Seconds by the names of TimeKind, as the checkpoint that it goes on from has them.
        told: As its status told them last, later than the checkpoint.
    """
    lost = max(0.0, sum(told.values()) - sum(before.values()))
    return {**before, TimeKind.undone.value: before.get(TimeKind.undone, 0.0) + lost}


LARGEST_NUMBER = 1e300
"""A number of a run folder beyond it is not one."""


@dataclass(frozen=True, kw_only=True)
class RunCost:
    """What one run has cost so far: `cost` in result.json and in status.json."""

    flops: int
    """Matrix products of its steps, attention included, as if trained alone."""
    flops_charged: int
    """Those that were computed for this run; steps that a stop made it repeat count once."""
    seconds: float
    """Training time, as if trained alone: with its trunk's, and its stack's undivided."""
    seconds_charged: float
    """Device time of everything that was done for this run."""
    spent: Mapping[str, float] = field(default_factory=dict)
    """Wall seconds by the names of TimeKind: its own, and its share of its stack's."""
    stack: int = 1
    """Runs that were trained at once."""
    devices: float = 1.0
    """Devices at work for the stack; a part of one where several jobs shared it."""
    peak_flops: float | None = None
    """Measured FLOP/s of a matrix product on one device; None when it was not recorded."""
    peak_datasheet: float | None = None
    """The vendor's, where the device is known."""
    forked_from: str | None = None
    """Run whose trunk it goes on from."""
    fork_step: int | None = None
    """Steps of that trunk."""

    def facts(self) -> dict[str, Any]:
        """As it is written."""
        return {
            "flops": self.flops,
            "flops_charged": self.flops_charged,
            "seconds": round(self.seconds, 3),
            "seconds_charged": round(self.seconds_charged, 3),
            "spent": {what: round(seconds, 3) for what, seconds in self.spent.items()},
            "stack": self.stack,
            "devices": self.devices,
            "peak_flops": self.peak_flops,
            "peak_datasheet": self.peak_datasheet,
            "forked_from": self.forked_from,
            "fork_step": self.fork_step,
        }


def run_cost(
    *,
    step_flops: int,
    step: int,
    seconds: float,
    spent: Mapping[str, float],
    stack: int = 1,
    devices: float = 1.0,
    peak_flops: float | None = None,
    peak_datasheet: float | None = None,
    forked_from: str | None = None,
    fork_step: int | None = None,
) -> RunCost:
    """The cost of a run that has come to `step`.

    Args:
        step_flops: FLOPs of one step of this run, attention included.
        step: Steps done, those of its trunk included.
        seconds: Training time as if alone, all attempts.
        spent: Wall seconds charged to this run, as RunClock.spent returns them, all attempts.
        stack: Runs trained at once.
        devices: Devices at work for the stack; a part of one where several jobs share it.
        peak_flops: Measured FLOP/s of one device.
        peak_datasheet: The vendor's, where the device is known.
        forked_from: Run whose trunk it goes on from, and that is charged for it.
        fork_step: Steps of that trunk.
    """
    return RunCost(
        flops=step * step_flops,
        flops_charged=(step - (fork_step or 0)) * step_flops,
        seconds=seconds,
        seconds_charged=devices * sum(spent.values()),
        spent=dict(spent),
        stack=stack,
        devices=devices,
        peak_flops=peak_flops,
        peak_datasheet=peak_datasheet,
        forked_from=forked_from,
        fork_step=fork_step,
    )


def read_cost(
    plan: Mapping[str, Any], status: Mapping[str, Any], result: Mapping[str, Any]
) -> RunCost | None:
    """What a run's folder says that it has cost, or None before it has cost anything.

    Runs of versions that did not record it are counted by their row, or by their steps so far, as
    trained alone. What is no number is taken for nothing.

    Args:
        plan: Of the run's entry in the manifest.
        status: Content of status.json.
        result: Content of result.json; empty before the end.
    """
    for recorded in (result.get("cost"), status.get("cost")):
        if isinstance(recorded, Mapping):
            return _from_facts(recorded)
    row = result.get("row")
    if not isinstance(row, Mapping):
        row = {}
    step_flops = cost_number(plan.get("flops_exact")) / max(1.0, cost_number(plan.get("steps")))
    flops = int(cost_number(row.get("flops_exact")) or step_flops * cost_number(status.get("step")))
    seconds = cost_number(row.get("seconds")) or cost_number(status.get("seconds"))
    if not flops and not seconds:
        return None
    return RunCost(
        flops=flops,
        flops_charged=flops,
        seconds=seconds,
        seconds_charged=seconds,
        spent={TimeKind.train.value: seconds},
    )


def _from_facts(facts: Mapping[str, Any]) -> RunCost:
    spent, fork = facts.get("spent"), facts.get("forked_from")
    if not isinstance(spent, Mapping):
        spent = {}
    return RunCost(
        flops=int(cost_number(facts.get("flops"))),
        flops_charged=int(cost_number(facts.get("flops_charged"))),
        seconds=cost_number(facts.get("seconds")),
        seconds_charged=cost_number(facts.get("seconds_charged")),
        spent={what.value: cost_number(spent.get(what)) for what in TimeKind},
        stack=int(cost_number(facts.get("stack"))) or 1,
        devices=cost_number(facts.get("devices")) or 1.0,
        peak_flops=cost_number(facts.get("peak_flops")) or None,
        peak_datasheet=cost_number(facts.get("peak_datasheet")) or None,
        forked_from=fork if isinstance(fork, str) else None,
        fork_step=int(cost_number(facts.get("fork_step"))) or None,
    )


def cost_number(value: object) -> float:
    """A number that can be a cost, or 0: these come from files that anything may have happened to.

    Integers keep all their digits.
    """
    if isinstance(value, int | float) and 0 <= value < LARGEST_NUMBER:
        return value
    return 0.0
