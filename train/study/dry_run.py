"""`dry_run=true`: the plan and its price on this device, before a FLOP is spent.

Seconds come from timed steps; memory and disk are counted.
"""

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from train.config.runtime import AttentionKernel
from train.engine.compute_policy import DTYPES, LONGEST_PLAIN, resolve_dtype
from train.engine.device import select_device
from train.engine.memory import activation_bytes
from train.engine.peak_flops import measure_peak_flops
from train.engine.step_timing import seconds_per_step
from train.plan.counting import STATE_BYTES
from train.plan.grouping import RunGroup
from train.plan.identity import short_count
from train.plan.planning import PlannedRun
from train.plan.schedule import evaluation_steps
from train.plan.shape import ModelShape
from train.run_folder.run_folder import folder_of
from train.study.preflight import byte_count, check_data, checkpoint_bytes
from train.study.slots import job_slots, parallel_slots
from train.tracking.tracker import require_tracker


def print_plan(runs: Sequence[PlannedRun], groups: Sequence[RunGroup]) -> None:
    """Print every run's price, the jobs, and the totals.

    Args:
        runs: All runs of the plan.
        groups: Jobs of the unfinished ones, in starting order.

    Raises:
        ConfigError: The device or the tracker is not there, or a run asks for more tokens than its
            prepared data has.
    """
    console = Console(width=None if sys.stdout.isatty() else 220)
    compute = select_device(runs[0].config.machine)
    for run in runs:
        require_tracker(run.config.tracker)
    seconds = seconds_per_run(runs)
    table = Table(box=None, pad_edge=False)
    rows = [_cells(run, seconds[run.plan.run_id]) for run in runs]
    for name in rows[0]:
        table.add_column(name, justify="left" if name in ("run", "state") else "right")
    for cells in rows:
        table.add_row(*cells.values())
    console.print(table)
    plans = [run.plan for run in runs]
    left = [_seconds_of(group, seconds) for group in groups]
    machine = runs[0].config.machine
    # the longest job, or all of them packed without a gap
    clock = max(max(left, default=0.0), sum(left) / parallel_slots(machine))
    lines = [
        f"{len(runs)} runs on {compute.name}, {len(job_slots(machine))} at once: "
        f"{sum(6 * plan.params.standard * plan.tokens for plan in plans):.4g} FLOPs (6ND), "
        f"{sum(plan.flops_exact for plan in plans):.4g} exact, "
        f"{short_count(sum(plan.tokens for plan in plans))} tokens; "
        f"{_duration(sum(left))} of work to do "
        f"({_duration(sum(seconds.values()))} for all, each alone), "
        f"at least {_duration(clock)} on the clock; "
        f"{byte_count(sum(map(disk_bytes, runs)))} of disk at most",
        *job_lines(groups),
        *check_data(runs, may_prepare=False),
    ]
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)


def job_lines(groups: Sequence[RunGroup]) -> list[str]:
    """A line for all jobs, and one for each job of several runs."""
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
    """Seconds of a job. Shared trunk steps count once; the stacking speed-up is ignored."""
    alone = sum(seconds[run.plan.run_id] for run in group.runs)
    return alone * group.shared_flops / group.own_flops


def _cells(run: PlannedRun, seconds: float) -> dict[str, str]:
    """A run's row of the table, by column."""
    plan = run.plan
    return {
        "run": plan.run_id,
        "state": folder_of(run).state(),
        "N kaplan": str(plan.params.kaplan),
        "N standard": str(plan.params.standard),
        "N total": str(plan.params.total),
        "tokens": str(plan.tokens),
        "D/N": f"{plan.tokens / plan.params.standard:.1f}",
        "steps": str(plan.steps),
        "rounding": f"{plan.rounding:+.3%}",
        "C 6ND": f"{6 * plan.params.standard * plan.tokens:.4g}",
        "C exact": f"{plan.flops_exact:.4g}",
        "lr": f"{plan.lr:.3g}",
        "memory": byte_count(memory_bytes(run)),
        "disk": byte_count(disk_bytes(run)),
        "time": _duration(seconds),
    }


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


LONGEST_STEP_SECONDS = 2.0
"""Steps expected to take longer are not timed but estimated from their FLOPs."""

ASSUMED_MFU = 0.3
"""MFU assumed before the first step was timed: what models of 0.1 to 1 million parameters reach on
a CPU core (ours)."""


def seconds_per_run(runs: Sequence[PlannedRun]) -> dict[str, float]:
    """Seconds of each run alone on this device, evaluations included, by run_id.

    Each (shape, batch) is timed for three steps on random tokens, smallest first. Steps of more
    than LONGEST_STEP_SECONDS are estimated at the FLOP/s of the largest one timed.
    """
    compute = select_device(runs[0].config.machine)
    per_step: dict[tuple[ModelShape, int], float] = {}
    dtype = resolve_dtype(runs[0].config.machine, compute)
    rate = ASSUMED_MFU * measure_peak_flops(compute, DTYPES[dtype])
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
    """Steps of the run plus its evaluations, whose forward pass costs 1/3 of a step per token."""
    evaluations = len(evaluation_steps(run.plan.steps, run.config.eval.points))
    return run.plan.steps + evaluations * run.config.eval.tokens / run.plan.batch_tokens / 3


def memory_bytes(run: PlannedRun) -> int:
    """Weights, gradients, moments, and the activations of one micro-batch: an upper estimate.

    Without machine.micro_batch_seqs the whole batch counts, which is split where it does not fit.
    """
    plan, machine = run.plan, run.config.machine
    seqs = machine.micro_batch_seqs or plan.batch_tokens // plan.shape.seq_len
    may_be_plain = (
        machine.attention is not AttentionKernel.sdpa and plan.shape.seq_len <= LONGEST_PLAIN
    )
    activations = activation_bytes(plan.shape, seqs=seqs, is_plain=may_be_plain)
    return STATE_BYTES * plan.params.total + activations


def disk_bytes(run: PlannedRun) -> int:
    """The checkpoints that a run keeps, and one more while it is written."""
    return checkpoint_bytes(run) * (run.config.machine.checkpoint_keep + 1)
