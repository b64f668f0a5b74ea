"""Which jobs a launch starts, and in what order.

Unfinished runs that share work are grouped into jobs (plan/grouping.py), stacked only as far as a
few timed steps on this device show a gain, divided where slots would idle, and started longest
first. Stacking pays where one run leaves the device idle: small matmuls, whose launch overhead
exceeds their arithmetic. Large ones gain nothing, and a stack beyond the caches loses.
"""

import heapq
import math
from collections.abc import Hashable, Sequence
from dataclasses import replace

from train.config.runtime import MachineConfig
from train.engine.device import DEVICE_SHARERS, ComputeDevice, release_memory, select_device
from train.engine.step_timing import seconds_per_step
from train.errors import is_out_of_memory
from train.plan.counting import STATE_BYTES
from train.plan.grouping import RunGroup, group_runs
from train.plan.planning import PlannedRun
from train.run_folder.checkpoint import STEP_FOLDER
from train.run_folder.run_folder import folder_of
from train.storage.records import FINISHED_STATES
from train.study.slots import job_slots, parallel_slots

LEAST_GAIN = 0.05
"""Least share of time that a stack or a division must save: timings are off by a few per cent, and
the parts of a divided group lose what they shared."""

LONGEST_ALONE = 0.05
"""Seconds per step of one run above which it fills the device, so that no stack is timed (ours)."""

STATE_SHARE = 0.25
"""Share of a job's memory that weights, gradients and moments of a stack may take."""


def plan_jobs(runs: Sequence[PlannedRun]) -> list[RunGroup]:
    """Jobs that a launch of these runs starts, in starting order; finished runs are left out."""
    todo = runs_to_start(runs)
    if not todo:
        return []
    groups = group_runs(todo, best_stack=best_stack, begun_at=saved_step)
    return pack(groups, parallel_slots(todo[0].config.machine))


def runs_to_start(runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    """Unfinished runs, and with restart=true the diverged ones."""
    todo = []
    for run in runs:
        state = folder_of(run).state()
        if state not in FINISHED_STATES or (run.config.restart and state == "diverged"):
            todo.append(run)
    return todo


def saved_step(run: PlannedRun) -> int:
    """Step of the run's newest checkpoint, by name; 0 without one or for a run that restarts."""
    if folder_of(run).state() == "diverged":
        return 0
    names = [path.name for path in folder_of(run).checkpoints.glob("step_*")]
    steps = [name.rpartition("_")[2] for name in names if STEP_FOLDER.fullmatch(name)]
    return max(map(int, steps), default=0)


_BEST_STACKS: dict[Hashable, int] = {}


def best_stack(run: PlannedRun, n: int) -> int:
    """How many of `n` replicas of a run to train in one stack, timed once per shape and batch.

    Args:
        run: Any replica; its shape, batch and machine decide.
        n: Number of replicas, at least 2.

    Returns:
        The fastest per run of n, n / 2, n / 4, ...; 1 where none is faster or one step is long.
    """
    key = (run.plan.shape, run.plan.batch_tokens, repr(run.config.machine), n)
    if key not in _BEST_STACKS:
        _BEST_STACKS[key] = _time_stacks(run, n)
    return _BEST_STACKS[key]


def _time_stacks(run: PlannedRun, n: int) -> int:
    compute = _device_of_a_job(run.config.machine)
    state = STATE_BYTES * run.plan.params.total
    size = max(1, min(n, int(STATE_SHARE * compute.memory_budget() / state)))
    alone = _step_seconds(run, compute, 1)
    if alone > LONGEST_ALONE:
        return 1
    best, fastest = 1, alone * (1 - LEAST_GAIN)
    while size > 1:
        per_run = _step_seconds(run, compute, size) / size
        if per_run < fastest:
            best, fastest = size, per_run
        size = -(-size // 2) if size > 2 else 1
    return best


def _step_seconds(run: PlannedRun, compute: ComputeDevice, n_replicas: int) -> float:
    """Seconds of a step of all replicas; infinite where they do not fit the memory."""
    try:
        return seconds_per_step(
            run.plan.shape,
            run.config.machine,
            compute,
            schedule=run.plan.schedule,
            batch_seqs=run.plan.batch_tokens // run.plan.shape.seq_len,
            n_replicas=n_replicas,
        )
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    # outside the except block, where the error no longer references what did not fit
    release_memory()
    return math.inf


def _device_of_a_job(machine: MachineConfig) -> ComputeDevice:
    """The device with the share of its memory that each job of a launch gets."""
    sharers = int(job_slots(machine)[0].get(DEVICE_SHARERS, "1"))
    return replace(select_device(machine), sharers=sharers)


def pack(groups: Sequence[RunGroup], n_parallel: int) -> list[RunGroup]:
    """Order groups longest first, and divide the largest while that shortens the launch.

    Longest first is at most 4/3 of the best makespan (Graham 1969, Bounds on multiprocessing timing
    anomalies, theorem 2). The cost of a group is its shared FLOPs: a trunk counts once, and once in
    each part of a divided group.

    Args:
        groups: The runs of one job each.
        n_parallel: Jobs that compute at the same time without slowing each other.
    """
    best = packed = sorted(groups, key=_cost, reverse=True)
    n_tried = 0
    # of several equally long jobs, each may have to be divided before the makespan shrinks
    while packed and n_tried < n_parallel:
        target = makespan(best, n_parallel)[0] * (1 - LEAST_GAIN)
        # even without idle slots
        if sum(map(_cost, packed)) / n_parallel > target:
            break
        divided = _divided(packed, n_parallel)
        if divided is None:
            break
        packed, n_tried = divided, n_tried + 1
        if makespan(packed, n_parallel)[0] <= target:
            best, n_tried = packed, 0
    return best


def makespan(groups: Sequence[RunGroup], n_parallel: int) -> tuple[int, list[RunGroup]]:
    """FLOPs of the slot that ends last when groups start in this order, and its groups."""
    loads = [(0, slot) for slot in range(n_parallel)]
    placed: list[list[RunGroup]] = [[] for _ in loads]
    for group in groups:
        load, slot = heapq.heappop(loads)
        placed[slot].append(group)
        heapq.heappush(loads, (load + _cost(group), slot))
    longest, slot = max(loads)
    return longest, placed[slot]


def _divided(packed: Sequence[RunGroup], n_parallel: int) -> list[RunGroup] | None:
    """Divide the largest group of the slot that ends last; None where it cannot be divided.

    Of the possible divisions: the shortest makespan, then the fewest FLOPs.
    """
    largest = max(makespan(packed, n_parallel)[1], key=_cost)
    rest = [group for group in packed if group is not largest]
    candidates = [sorted([*rest, *parts], key=_cost, reverse=True) for parts in _parts_of(largest)]
    return min(
        candidates,
        key=lambda groups: (makespan(groups, n_parallel)[0], sum(map(_cost, groups))),
        default=None,
    )


def _parts_of(group: RunGroup) -> list[tuple[RunGroup, RunGroup]]:
    """Divisions of a group: half of its replicas, or its longest horizons from the others."""
    parts = []
    half = (len(group.replicas) + 1) // 2
    if half < len(group.replicas):
        parts.append((group.replicas[:half], group.replicas[half:]))
    for cut in range(1, len(group.stacks)):
        longest = tuple(horizons[:cut] for horizons in group.replicas)
        parts.append((longest, tuple(horizons[cut:] for horizons in group.replicas)))
    return [(RunGroup(replicas=first), RunGroup(replicas=second)) for first, second in parts]


def _cost(group: RunGroup) -> int:
    return group.shared_flops
