"""`python -m train.status study=NAME`: a study's state, from its manifest and run folders."""

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from train.errors import ConfigError, WindTunnelError, as_storage_error, did_you_mean
from train.run_folder.manifest import find_study
from train.study.costs import launch_costs, study_costs
from train.study.retries import name_stops
from train.study.run_status import RunStatus, study_status

OPTIONS = ("study", "runs")

HELP = """\
python -m train.status study=NAME [runs=DIR]

Prints every run of a study: its state, what is done of it, its cost C in FLOPs, its newest
validation loss, the time left, the attempts that were cut short by cause, and what is odd about it.
Below: what all runs have cost, which is less than their sum where they shared work, and what the
time was spent on.
States: planned running preempted completed diverged failed, and stale (recorded as running, and no
process holds it: the study's command goes on with it).

  study=NAME   the study, as in configs/study/NAME.yaml
  runs=DIR     where studies lie (default: runs)
"""


def status_table(runs: Sequence[RunStatus]) -> Table:
    """One row a run."""
    table = Table(box=None, pad_edge=False)
    for name in ("run", "state", "done", "C", "loss", "left"):
        table.add_column(
            name, no_wrap=True, justify="left" if name in ("run", "state") else "right"
        )
    for name in ("cut short", "notes"):
        table.add_column(name, overflow="fold")
    for run in runs:
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
        table.add_row(*map(Text, cells))  # what a file says is never markup
    return table


def summary(runs: Sequence[RunStatus]) -> str:
    """Counts by state, the share of FLOPs done, the time left, and attempts cut short by cause."""
    states = sorted({run.state for run in runs})
    counts = ", ".join(f"{sum(run.state == state for run in runs)} {state}" for state in states)
    total = sum(run.flops for run in runs)
    done = sum(run.flops * run.share for run in runs)
    line = f"{len(runs)} runs: {counts}; {done / max(1, total):.0%} of {total:.3g} FLOPs"
    spent = sum(run.seconds for run in runs)
    running = sum(run.state == "running" for run in runs)
    if running and 0 < done < total and spent > 0:
        left = spent * (total - done) / done / running
        line += f"; about {left:.0f} s left at the rate so far, {running} at a time"
    if stops := sum((Counter(run.stops) for run in runs), Counter[str]()):
        attempts = sum(run.attempts for run in runs)
        line += f"; {attempts} attempts, cut short: {name_stops(stops)}"
    return line


def cost_lines(runs: Sequence[RunStatus]) -> list[str]:
    """What the study has cost so far; nothing before it has."""
    costs = [run.cost for run in runs if run.cost is not None]
    return study_costs(costs, n_completed=sum(run.state == "completed" for run in runs)).lines()


def main(words: list[str]) -> int:
    """Print one study's table; return the exit code."""
    if {"--help", "-h", "help"} & set(words):
        sys.stdout.write(HELP)
        return 0
    console = Console(width=None if sys.stdout.isatty() else 160)
    options = {"runs": "runs"}
    try:
        for word in words:
            key, equals, value = word.partition("=")
            if not equals or key not in OPTIONS:
                raise ConfigError(f"{word}: unknown option{did_you_mean(key, OPTIONS)}")
            options[key] = value
        if "study" not in options:
            raise ConfigError("study=NAME is missing: python -m train.status study=NAME [runs=DIR]")
        folder = find_study(Path(options["runs"]), options["study"])
        runs = study_status(folder)
        lines = [summary(runs), *cost_lines(runs), *launch_costs(folder).lines()]
    except (WindTunnelError, OSError) as problem:
        error = as_storage_error(problem) if isinstance(problem, OSError) else problem
        if error is None:
            raise
        Console(stderr=True).print(f"error: {error}", markup=False, highlight=False, soft_wrap=True)
        return error.exit_code
    console.print(status_table(runs))
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
