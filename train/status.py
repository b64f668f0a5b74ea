"""`python -m train.status study=NAME`: state and cost of a study, from its run folders."""

import math
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from train.errors import ConfigError, WindTunnelError, as_storage_error, did_you_mean
from train.run_folder.accounting import RunCost, TimeKind
from train.run_folder.manifest import find_study
from train.study.run_status import RunStatus, name_stops, study_status

OPTIONS = ("study", "runs")

SECONDS_PER_HOUR = 3600.0

KIND_NAMES = {TimeKind.train: "steps", TimeKind.startup: "start-up"}
"""Names in the report where they differ from the records."""

HELP = """\
python -m train.status study=NAME [runs=DIR]

Prints a row per run: state, progress, FLOPs (C), newest validation loss, time left, attempts cut
short by cause, and notes on damaged or unusual records.
Below: the cost of all runs, with shared steps counted once, and the time by kind of work.
States: planned running preempted completed diverged failed, and stale (recorded as running, but no
process holds its lock; the study's command continues it).

  study=NAME   name of the study, as in configs/study/NAME.yaml
  runs=DIR     folder of the studies (default: runs)
"""


def status_table(runs: Sequence[RunStatus]) -> Table:
    """Table with one row per run."""
    table = Table(box=None, pad_edge=False)
    for name in ("run", "state", "done", "C", "loss", "left"):
        table.add_column(
            name, no_wrap=True, justify="left" if name in ("run", "state") else "right"
        )
    for name in ("cut short", "notes"):
        table.add_column(name, overflow="fold")
    for run in runs:
        # Text, because strings from files must not be parsed as markup
        cells = (
            run.run_id,
            run.state,
            f"{run.share:.0%}",
            f"{run.flops:.3g}",
            f"{run.loss:.4f}" if run.loss is not None else "",
            f"{run.seconds_left:.0f} s" if run.seconds_left is not None else "",
            name_stops(run.stops),
            run.reason,
        )
        table.add_row(*map(Text, cells))
    return table


def summary(runs: Sequence[RunStatus]) -> str:
    """One line: runs by state, FLOPs done, time left, attempts cut short by cause."""
    states = sorted({run.state for run in runs})
    counts = ", ".join(f"{sum(run.state == state for run in runs)} {state}" for state in states)
    total = sum(run.flops for run in runs)
    done = sum(run.flops * run.share for run in runs)
    line = f"{len(runs)} runs: {counts}; {done / max(1, total):.0%} of {total:.3g} FLOPs"
    seconds = sum(run.seconds for run in runs)
    running = sum(run.state == "running" for run in runs)
    if running and 0 < done < total and seconds > 0:
        left = seconds * (total - done) / done / running
        line += f"; about {left:.0f} s left at the rate so far, {running} at a time"
    if stops := sum((Counter(run.stops) for run in runs), Counter[str]()):
        attempts = sum(run.attempts for run in runs)
        line += f"; {attempts} attempts, cut short: {name_stops(stops)}"
    return line


def cost_lines(runs: Sequence[RunStatus]) -> list[str]:
    """FLOPs, device time and its kinds over all runs; empty before the first run was trained.

    Shared work counts once; see RunCost.
    """
    costs = [run.cost for run in runs if run.cost is not None]
    seconds = {
        kind: math.fsum(cost.devices * cost.spent.get(kind, 0.0) for cost in costs)
        for kind in TimeKind
    }
    total = math.fsum(seconds.values())
    if not total:
        return []
    flops = sum(cost.flops for cost in costs)
    computed = sum(cost.flops_charged for cost in costs)
    hours = total / SECONDS_PER_HOUR
    n_completed = sum(run.state == "completed" for run in runs)
    shares = ", ".join(
        f"{seconds[kind] / total:.1%} {KIND_NAMES.get(kind, kind)}"
        for kind in sorted(TimeKind, key=lambda kind: -seconds[kind])
        if seconds[kind]
    )
    mfu, mfu_datasheet = (_mean_mfu(costs, peak) for peak in ("peak_flops", "peak_datasheet"))
    return [
        f"cost: {flops:.3g} FLOPs of {len(costs)} runs, attention included, for {computed:.3g} "
        f"computed ({computed / max(1, flops):.0%}); {hours:.3g} device-hours, "
        f"{n_completed / hours:.3g} completed runs per device-hour",
        f"time: {shares}"
        + (f"; mean MFU {mfu:.1%} of the measured peak" if mfu is not None else "")
        + (f", {mfu_datasheet:.1%} of the datasheet's" if mfu_datasheet is not None else ""),
    ]


def _mean_mfu(costs: Sequence[RunCost], peak: str) -> float | None:
    """Model FLOPs utilisation over the training time of all runs that recorded this peak."""
    known = [cost for cost in costs if getattr(cost, peak) is not None]
    possible = math.fsum(
        getattr(cost, peak)
        * cost.devices
        * (cost.spent.get(TimeKind.train, 0.0) + cost.spent.get(TimeKind.data, 0.0))
        for cost in known
    )
    return sum(cost.flops_charged for cost in known) / possible if possible else None


def main(arguments: list[str]) -> int:
    """Print the table of one study; return the exit code."""
    if {"--help", "-h", "help"} & set(arguments):
        sys.stdout.write(HELP)
        return 0
    console = Console(width=None if sys.stdout.isatty() else 160)
    options = {"runs": "runs"}
    try:
        for argument in arguments:
            key, equals, value = argument.partition("=")
            if not equals or key not in OPTIONS:
                raise ConfigError(f"{argument}: unknown option{did_you_mean(key, OPTIONS)}")
            options[key] = value
        if "study" not in options:
            raise ConfigError("study=NAME is missing: python -m train.status study=NAME [runs=DIR]")
        runs = study_status(find_study(Path(options["runs"]), options["study"]))
    except (WindTunnelError, OSError) as problem:
        error = as_storage_error(problem) if isinstance(problem, OSError) else problem
        if error is None:
            raise
        Console(stderr=True).print(f"error: {error}", markup=False, highlight=False, soft_wrap=True)
        return error.exit_code
    console.print(status_table(runs))
    for line in (summary(runs), *cost_lines(runs)):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
