"""`dry_run=true`: the plan, priced before a FLOP is spent."""

import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from train.config import Config
from train.data.prepare import prepare, prepared_folder
from train.data.shards import open_dataset
from train.device import select_device
from train.identity import short_count
from train.manifest import PlannedRun
from train.pricing import disk_bytes, memory_bytes, seconds_per_run
from train.records import FINISHED_STATES
from train.rundir import RunFolder
from train.slots import job_slots
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


def print_plan(runs: list[PlannedRun]) -> None:
    """Print every run's price and the totals; train nothing."""
    console = Console(width=None if sys.stdout.isatty() else 220)
    machine = runs[0].config.machine
    compute = select_device(machine)
    for run in runs:
        require_tracker(run.config.tracker)
    seconds = seconds_per_run(runs)
    table = Table(box=None, pad_edge=False)
    for name in COLUMNS:
        table.add_column(name, justify="left" if name in ("run", "state") else "right")
    left = []
    for run in runs:
        state = _folder(run).state()
        if state not in FINISHED_STATES:
            left.append(seconds[run.plan.run_id])
        table.add_row(*_cells(run, state, seconds[run.plan.run_id]))
    console.print(table)
    workers = len(job_slots(machine))
    total_seconds = sum(seconds.values())
    plans = [run.plan for run in runs]
    console.print(
        f"{len(runs)} runs on {compute.name}, {workers} at once: "
        f"{sum(6 * plan.params.standard * plan.tokens for plan in plans):.4g} FLOPs (6ND), "
        f"{sum(plan.flops_exact for plan in plans):.4g} exact, "
        f"{short_count(sum(plan.tokens for plan in plans))} tokens; "
        f"{_duration(total_seconds)} of work, {_duration(sum(left))} not done yet, "
        f"at least {_duration(_clock(left, workers))} on the clock; "
        f"{_bytes(sum(disk_bytes(run.config, run.plan) for run in runs))} of disk at most",
        highlight=False,
        soft_wrap=True,
    )
    for line in data_lines(runs):
        console.print(line, highlight=False, soft_wrap=True)


def _clock(left: list[float], workers: int) -> float:
    """Least wall-clock seconds: the longest run, or all of them packed without a gap."""
    return max(max(left, default=0.0), sum(left) / workers)


def data_lines(runs: list[PlannedRun]) -> list[str]:
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


def _folder(run: PlannedRun) -> RunFolder:
    config = run.config
    return RunFolder(Path(config.paths.runs) / config.study.name / run.plan.run_id)


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
