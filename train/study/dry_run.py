"""`dry_run=true`: the plan, priced before a FLOP is spent.

What a plan costs on this device: seconds by timed steps, memory and disk by counting.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from train.config.runtime import AttentionKernel
from train.config.schema import Config
from train.data.prepare import prepare, prepared_folder
from train.data.shards import open_dataset
from train.engine.compute_policy import DTYPES, LONGEST_PLAIN, resolve_dtype
from train.engine.device import select_device
from train.engine.memory import activation_bytes
from train.engine.peak_flops import measure_peak_flops
from train.engine.step_timing import seconds_per_step
from train.plan.grouping import RunGroup
from train.plan.identity import short_count
from train.plan.planning import PlannedRun, RunPlan
from train.plan.schedule import evaluation_steps
from train.plan.shape import ModelShape
from train.plan.validate import check_enough_tokens
from train.run_folder.run_folder import folder_of
from train.study.slots import job_slots, parallel_slots
from train.tracking.tracker import require_tracker

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
        table.add_row(*_cells(run, folder_of(run).state(), seconds[run.plan.run_id]))
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


LONGEST_STEP_SECONDS = 2.0
"""A step that should take longer is not taken to price a plan, but reckoned from FLOPs."""

ASSUMED_SHARE = 0.3
"""Share of the measured matrix-product peak that a step is taken to reach before one was timed:
what steps of 0.1 to 1 million parameters reach on a CPU core (ours)."""


def seconds_per_run(runs: Sequence[PlannedRun]) -> dict[str, float]:
    """Seconds of each run alone on this device, evaluations included, by run_id.

    Every distinct (shape, batch) is timed for three steps on random tokens, smallest first. Steps
    of over LONGEST_STEP_SECONDS are reckoned at the rate of the largest one timed.
    """
    compute = select_device(runs[0].config.machine)
    per_step: dict[tuple[ModelShape, int], float] = {}
    dtype = resolve_dtype(runs[0].config.machine, compute)
    rate = ASSUMED_SHARE * measure_peak_flops(compute, DTYPES[dtype])
    for run in sorted(runs, key=_step_flops):
        key = (run.plan.shape, run.plan.batch_tokens)
        if key not in per_step and _step_flops(run) / rate <= LONGEST_STEP_SECONDS:
            per_step[key] = seconds_per_step(
                run.plan.shape,
                run.config.machine,
                compute,
                schedule=run.plan.schedule,
                batch_seqs=run.plan.batch_tokens // run.plan.shape.seq_len,
            )
            rate = _step_flops(run) / per_step[key]
        per_step.setdefault(key, _step_flops(run) / rate)
    return {
        run.plan.run_id: per_step[run.plan.shape, run.plan.batch_tokens] * _steps_worth(run)
        for run in runs
    }


def _step_flops(run: PlannedRun) -> int:
    return run.plan.token_flops.train * run.plan.batch_tokens


def _steps_worth(run: PlannedRun) -> float:
    """Steps of the run, and its evaluations, whose forward pass is a third of a step per token."""
    evaluations = len(evaluation_steps(run.plan.steps, run.config.eval.points))
    return run.plan.steps + evaluations * run.config.eval.tokens / run.plan.batch_tokens / 3


def memory_bytes(config: Config, plan: RunPlan) -> int:
    """Weights, gradients and two moments in float32, and the activations of one micro-batch.

    An upper estimate; without machine.micro_batch_seqs the whole batch is counted, which is split
    when it does not fit.
    """
    batch_seqs = plan.batch_tokens // config.data.seq_len
    seqs = config.machine.micro_batch_seqs or batch_seqs
    may_be_plain = (
        config.machine.attention is not AttentionKernel.sdpa and plan.shape.seq_len <= LONGEST_PLAIN
    )
    activations = activation_bytes(plan.shape, seqs=seqs, is_plain=may_be_plain)
    return 16 * plan.params.total + activations


def checkpoint_bytes(plan: RunPlan) -> int:
    """One checkpoint: weights and two moments in float32."""
    return 12 * plan.params.total


def disk_bytes(config: Config, plan: RunPlan) -> int:
    """Checkpoints of a run, one more than kept while it is written."""
    return checkpoint_bytes(plan) * (config.machine.checkpoint_keep + 1)
