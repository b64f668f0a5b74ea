"""What a run costs: FLOPs asked for and computed, device time, and what it was spent on. No torch.

Runs of one job share work. A run keeps its own C for science, as if it had been trained alone; what
was computed once is charged once: a trunk to the longest run that grew from it, and the time of a
stack of replicas to each in equal parts. So charges add up to what a study really cost.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from train.clock import Spend

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
    """Wall seconds by clock.Spend's words: its own, and its share of its stack's."""
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
        spent={Spend.train.value: seconds},
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
        spent={what.value: cost_number(spent.get(what)) for what in Spend},
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
