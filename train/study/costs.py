"""What a study costs: FLOPs and device time of its runs, and what the slots of its launches did."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from train.run_folder.accounting import RunCost, TimeKind, cost_number
from train.storage.records import sound_rows

SECONDS_PER_HOUR = 3600.0

NAMES = {TimeKind.train: "steps", TimeKind.startup: "start-up", TimeKind.undone: "undone by stops"}
"""What is not called in a report as in the records."""


@dataclass(frozen=True, kw_only=True)
class StudyCosts:
    """What the runs of a study have cost together."""

    n_runs: int
    """Runs that have cost anything."""
    n_completed: int
    flops: int
    """C of what is done of each run, attention included."""
    flops_computed: int
    seconds: float
    """Device time."""
    shares: Mapping[TimeKind, float]
    """Shares of the recorded time, largest first."""
    mfu: float | None
    """FLOPs as a share of what the devices could have multiplied in the training time, by their
    measured peaks; None when no run recorded its peak."""
    mfu_datasheet: float | None
    """The same by the vendors' peaks."""

    @property
    def runs_per_hour(self) -> float:
        """Completed runs per device-hour."""
        return self.n_completed * SECONDS_PER_HOUR / max(1e-9, self.seconds)

    def lines(self) -> list[str]:
        """For people; nothing before any time was spent."""
        if not self.seconds:
            return []
        cost = (
            f"cost: {self.flops:.3g} FLOPs of {self.n_runs} runs, attention included, for "
            f"{self.flops_computed:.3g} computed ({self.flops_computed / max(1, self.flops):.0%}); "
            f"{self.seconds / SECONDS_PER_HOUR:.3g} device-hours, "
            f"{self.runs_per_hour:.3g} completed runs per device-hour"
        )
        shares = ", ".join(
            f"{share:.1%} {NAMES.get(what, what.value)}" for what, share in self.shares.items()
        )
        time = f"time: {shares}"
        if self.mfu is not None:
            time += f"; mean MFU {self.mfu:.1%} of the measured peak"
        if self.mfu_datasheet is not None:
            time += f", {self.mfu_datasheet:.1%} of the datasheet's"
        return [cost, time]


def study_costs(costs: Sequence[RunCost], *, n_completed: int) -> StudyCosts:
    """Add up what runs have cost.

    Args:
        costs: Of every run that has cost anything.
        n_completed: How many of the study's runs are completed.
    """
    by_spend = {
        what: math.fsum(cost.devices * cost.spent.get(what, 0.0) for cost in costs)
        for what in TimeKind
    }
    total = math.fsum(by_spend.values())
    largest_first = sorted(by_spend.items(), key=lambda pair: -pair[1])
    return StudyCosts(
        n_runs=len(costs),
        n_completed=n_completed,
        flops=sum(cost.flops for cost in costs),
        flops_computed=sum(cost.flops_charged for cost in costs),
        seconds=math.fsum(cost.seconds_charged for cost in costs),
        shares={what: seconds / total for what, seconds in largest_first if seconds > 0},
        mfu=_mean_mfu((cost, cost.peak_flops) for cost in costs),
        mfu_datasheet=_mean_mfu((cost, cost.peak_datasheet) for cost in costs),
    )


def _mean_mfu(peaks: Iterable[tuple[RunCost, float | None]]) -> float | None:
    """FLOPs over what the peaks come to in the training time, of runs that have one."""
    done = possible = 0.0
    for cost, peak in peaks:
        if peak is not None:
            trained = cost.spent.get(TimeKind.train, 0.0) + cost.spent.get(TimeKind.data, 0.0)
            done += cost.flops_charged
            possible += peak * cost.devices * trained
    return done / possible if possible > 0 else None


@dataclass(frozen=True, kw_only=True)
class LaunchCosts:
    """What the slots of a study's launches did, all launches together."""

    n_launches: int
    busy: float
    """Slot seconds in which a job's process lived."""
    waiting: float
    """In which a slot was free although a job waited."""
    starved: float
    """In which a slot had no job left to start."""

    def lines(self) -> list[str]:
        """For people; nothing before the first launch ended."""
        total = self.busy + self.waiting + self.starved
        if not total:
            return []
        plural = "es" if self.n_launches > 1 else ""
        return [
            f"slots: {total / SECONDS_PER_HOUR:.3g} hours in {self.n_launches} launch{plural}: "
            f"{self.busy / total:.1%} busy, {self.waiting / total:.1%} free though a job waited, "
            f"{self.starved / total:.1%} without a job"
        ]


def launch_costs(study_folder: Path) -> LaunchCosts:
    """Add up launch.jsonl, which every launch that was not killed has a row in.

    Nothing depends on that file: what cannot be read of it is passed over.
    """
    try:
        rows = list(sound_rows(study_folder / "launch.jsonl"))
    except OSError:
        rows = []
    busy, waiting, starved = (
        math.fsum(cost_number(row.get(f"{what}_seconds")) for row in rows)
        for what in ("busy", "waiting", "starved")
    )
    return LaunchCosts(n_launches=len(rows), busy=busy, waiting=waiting, starved=starved)
