"""`dry_run=true`: the plan, priced before a FLOP is spent."""

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from train.config import Config
from train.data.prepare import prepare, prepared_folder
from train.data.shards import open_dataset
from train.device import select_device
from train.grouping import RunGroup
from train.identity import short_count
from train.manifest import PlannedRun
from train.pricing import disk_bytes, memory_bytes, seconds_per_run
from train.slots import job_slots, parallel_slots
from train.tracker import require_tracker
from train.validate import check_enough_tokens

COLUMNS = (
    "run",
    "state",
    "N kaplan",
    "N standard",
    "N total",
    "tokens",
    "D/N",
    "steps",
    "rounding",
    "C 6ND",
    "C exact",
    "lr",
    "memory",
    "disk",
    "time",
)


def print_plan(runs: Sequence[PlannedRun], groups: Sequence[RunGroup]) -> None:
    """Print every run's price, the jobs and the totals; train nothing.

    Args:
        runs: All that were asked for.
        groups: The jobs of those that are not done, in their order.
    """
    console = Console(width=None if sys.stdout.isatty() else 220)
    compute = select_device(runs[0].config.machine)
    for run in runs:
        require_tracker(run.config.tracker)
    seconds = seconds_per_run(runs)
    table = Table(box=None, pad_edge=False)
    for name in COLUMNS:
        table.add_column(name, justify="left" if name in ("run", "state") else "right")
    for run in runs:
        table.add_row(*_cells(run, run.folder.state(), seconds[run.plan.run_id]))
    console.print(table)
    plans = [run.plan for run in runs]
    left = [_seconds_of(group, seconds) for group in groups]
    machine = runs[0].config.machine
    workers, n_parallel = len(job_slots(machine)), parallel_slots(machine)
    lines = [
        f"{len(runs)} runs on {compute.name}, {workers} at once: "
        f"{sum(6 * plan.params.standard * plan.tokens for plan in plans):.4g} FLOPs (6ND), "
        f"{sum(plan.flops_exact for plan in plans):.4g} exact, "
        f"{short_count(sum(plan.tokens for plan in plans))} tokens; "
        f"{_duration(sum(left))} of work to do "
        f"({_duration(sum(seconds.values()))} for all, each alone), "
        f"at least {_duration(_clock(left, n_parallel))} on the clock; "
        f"{_bytes(sum(disk_bytes(run.config, run.plan) for run in runs))} of disk at most",
        *job_lines(groups),
        *data_lines(runs),
    ]
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)


def job_lines(groups: Sequence[RunGroup]) -> list[str]:
    """What the jobs compute, and one line for each that trains several runs."""
    if not groups:
        return []
    n_runs = sum(len(group.runs) for group in groups)
    own = sum(group.own_flops for group in groups)
    shared = sum(group.shared_flops for group in groups)
    lines = [
        f"to train: jobs {len(groups)}, runs {n_runs}; C of all runs {own:.4g} FLOPs exact, "
        f"computed {shared:.4g} ({shared / own:.1%}; what runs share counts once)"
    ]
    for group in groups:
        if len(group.runs) > 1:
            longest = group.runs[0].plan
            lines.append(
                f"  {group}: {longest.run_id} and {len(group.runs) - 1} more, "
                f"computed {group.shared_flops:.4g} FLOPs of {group.own_flops:.4g}"
            )
    return lines


def _seconds_of(group: RunGroup, seconds: dict[str, float]) -> float:
    """Seconds of a job whose shared steps are taken once; a stack's own gain is not reckoned."""
    alone = sum(seconds[run.plan.run_id] for run in group.runs)
    return alone * group.shared_flops / group.own_flops


def _clock(left: list[float], n_parallel: int) -> float:
    """Least wall-clock seconds: the longest job, or all of them packed without a gap."""
    return max(max(left, default=0.0), sum(left) / n_parallel)


def data_lines(runs: Sequence[PlannedRun]) -> list[str]:
    """One line per dataset: what it has, or that it is not prepared yet.

    Raises:
        ConfigError: A run asks for more tokens than the prepared data has.
    """
    longest: dict[Path, PlannedRun] = {}
    for run in runs:
        folder = prepared_folder(run.config.data, Path(run.config.paths.data))
        if folder not in longest or longest[folder].plan.tokens < run.plan.tokens:
            longest[folder] = run
    return [_data_line(folder, run.config, run) for folder, run in longest.items()]


def _data_line(folder: Path, config: Config, run: PlannedRun) -> str:
    if not folder.exists():
        return f"data {config.data.name}: not prepared yet; its length is checked when it is"
    prepare(config.data, Path(config.paths.data))  # it is there: only compared with the settings
    n_tokens = open_dataset(folder).n_tokens("train")
    epochs = check_enough_tokens(
        run.plan,
        n_tokens=n_tokens,
        seq_len=config.data.seq_len,
        allow_repeat=config.data.allow_repeat,
        name=config.data.name,
    )
    return f"data {config.data.name}: {n_tokens} tokens; the longest run takes {epochs:.2f} epochs"


def _cells(run: PlannedRun, state: str, seconds: float) -> list[str]:
    plan = run.plan
    return [
        plan.run_id,
        state,
        str(plan.params.kaplan),
        str(plan.params.standard),
        str(plan.params.total),
        str(plan.tokens),
        f"{plan.tokens / plan.params.standard:.1f}",
        str(plan.steps),
        f"{plan.rounding:+.3%}",
        f"{6 * plan.params.standard * plan.tokens:.4g}",
        f"{plan.flops_exact:.4g}",
        f"{plan.lr:.3g}",
        _bytes(memory_bytes(run.config, plan)),
        _bytes(disk_bytes(run.config, plan)),
        _duration(seconds),
    ]


def _bytes(count: float) -> str:
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= scale:
            return f"{count / scale:.3g} {unit}"
    return f"{count / 1e3:.3g} kB"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
