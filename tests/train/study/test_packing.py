"""Which jobs a launch starts: timed stacks, the order, and when a group is divided."""

from collections import Counter
from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.train.planned_runs import few_examples, wsd_run
from train.config.runtime import MachineConfig
from train.engine.device import DEVICE_SHARERS, ComputeDevice
from train.plan.counting import STATE_BYTES
from train.plan.grouping import group_runs
from train.run_folder.run_folder import folder_of
from train.study import packing
from train.study.packing import (
    LEAST_GAIN,
    LONGEST_ALONE,
    STATE_SHARE,
    best_stack,
    makespan,
    pack,
    plan_jobs,
    runs_to_start,
    saved_step,
)


@pytest.fixture
def run_of(make_config):
    return partial(wsd_run, make_config)


# what is to be started


def set_state(run, state):
    folder_of(run).path.mkdir(parents=True, exist_ok=True)
    folder_of(run).write_status(state)


def test_what_is_done_is_not_started_and_the_longest_is_started_first(run_of, monkeypatch):
    monkeypatch.setattr(packing, "best_stack", lambda run, n: 1)
    sizes = {"completed": 10, "diverged": 20, "failed": 30, "running": 50, "preempted": 40}
    runs = [run_of(steps, machine=MachineConfig(trunks=False)) for steps in (*sizes.values(), 35)]
    for run, state in zip(runs, sizes, strict=False):
        set_state(run, state)
    assert [run.plan.steps for run in runs_to_start(runs)] == [30, 50, 40, 35]
    assert [[run.plan.steps for run in job.runs] for job in plan_jobs(runs)] == [
        [50],
        [40],
        [35],
        [30],
    ]
    for run in runs:
        set_state(run, "completed")
    assert plan_jobs(runs) == []


def test_a_restart_reaches_the_runs_that_diverged_and_no_others(run_of):
    runs = [run_of(seed=seed, restart=True) for seed in range(3)]
    for run, state in zip(runs, ("completed", "diverged", "failed"), strict=True):
        set_state(run, state)
    assert [run.config.seed for run in runs_to_start(runs)] == [1, 2]


def test_the_newest_checkpoint_says_where_a_run_goes_on(run_of):
    run = run_of()
    assert saved_step(run) == 0
    for name in ("step_00000010", "step_00000020", "step_00000030.partial", "other"):
        (folder_of(run).checkpoints / name).mkdir(parents=True)
    assert saved_step(run) == 20
    set_state(run, "diverged")
    assert saved_step(run) == 0  # it may only start anew


# how many replicas a stack has


@pytest.fixture
def timed(monkeypatch):
    """Let steps of so many replicas take so long; a time of 0 is a full memory."""

    def let(seconds):
        asked = []

        def seconds_per_step(*facts, n_replicas, **more):
            asked.append(n_replicas)
            if not seconds[n_replicas]:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return seconds[n_replicas]

        packing._BEST_STACKS.clear()
        monkeypatch.setattr(packing, "seconds_per_step", seconds_per_step)
        return asked

    return let


@pytest.mark.parametrize(
    ("seconds", "n", "best"),
    [
        ({1: 0.01, 8: 0.02, 4: 0.02, 2: 0.02}, 8, 8),
        ({1: 0.01, 8: 0.08, 4: 0.02, 2: 0.015}, 8, 4),
        ({1: 0.01, 5: 0.06, 3: 0.02, 2: 0.019}, 5, 3),
        ({1: 0.01, 2: 0.0195}, 2, 1),  # a gain within what timings are off by
        ({1: LONGEST_ALONE * 1.01}, 8, 1),
        ({1: 0.01, 8: 0.0, 4: 0.02, 2: 0.02}, 8, 4),
        ({1: 0.0}, 8, 1),
    ],
)
def test_the_fastest_stack_per_run_is_taken_and_timed_once(run_of, timed, seconds, n, best):
    asked, run = timed(seconds), run_of()
    assert best_stack(run, n) == best
    assert asked == list(seconds)
    assert best_stack(replace(run, overrides=["seed=1"]), n) == best  # of the same shape and batch
    assert asked == list(seconds)


def test_another_error_of_a_timing_is_not_hidden(run_of, monkeypatch):
    def broken(*facts, **more):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    packing._BEST_STACKS.clear()
    monkeypatch.setattr(packing, "seconds_per_step", broken)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        best_stack(run_of(), 8)


@pytest.mark.parametrize(("sharers", "best"), [(None, 8), ("1", 8), ("2", 4), ("8", 1)])
def test_the_states_of_a_stack_take_their_share_of_what_a_job_will_have(
    run_of, timed, monkeypatch, sharers, best
):
    timed({1: 0.01, 8: 0.02, 4: 0.02, 2: 0.02})
    run = run_of()
    budget = int(8.5 * STATE_BYTES * run.plan.params.total / STATE_SHARE)

    class Device(ComputeDevice):
        def memory_budget(self):
            return budget // self.sharers

    slot = {} if sharers is None else {DEVICE_SHARERS: sharers}
    monkeypatch.setattr(packing, "job_slots", lambda machine: [slot])
    monkeypatch.setattr(
        packing, "select_device", lambda machine: Device(torch.device("cpu"), "device")
    )
    assert best_stack(run, 8) == best


# the order of groups, and their division among slots


@pytest.fixture
def groups(run_of):
    """Return a maker of groups: every horizon in steps times every seed, whole stacks."""

    def make(steps, seeds=1, *, trunks=True):
        machine = MachineConfig(trunks=trunks)
        runs = [run_of(n, seed=seed, machine=machine) for n in steps for seed in range(seeds)]
        return group_runs(runs, best_stack=lambda run, n: n)

    return make


def step_flops(group):
    return group.runs[0].plan.flops_exact // group.runs[0].plan.steps


def shapes(groups):
    """Replicas and horizons of each."""
    return [
        (len(group.replicas), tuple(stack[0].plan.steps for stack in group.stacks))
        for group in groups
    ]


def test_the_longest_starts_first_by_what_it_computes(groups):
    packed = pack([*groups([20, 80, 40], trunks=False), *groups([30], seeds=2)], 1)
    assert shapes(packed) == [(1, (80,)), (2, (30,)), (1, (40,)), (1, (20,))]


def test_the_makespan_is_that_of_the_slot_that_ends_last(groups):
    packed = pack(groups([80, 60, 40, 30], trunks=False), 2)
    steps, busiest = makespan(packed, 2)
    assert steps == 110 * step_flops(packed[0])
    assert [group.runs[0].plan.steps for group in busiest] == [80, 30]
    assert makespan([], 3) == (0, [])


@pytest.mark.parametrize(
    ("n_groups", "n_parallel", "seeds"),
    [(1, 1, [8]), (1, 2, [4, 4]), (1, 4, [2] * 4), (2, 2, [8] * 2), (3, 2, [8, 8, 4, 4])],
)
def test_replicas_are_divided_among_slots_that_would_be_idle(groups, n_groups, n_parallel, seeds):
    packed = pack([group for _ in range(n_groups) for group in groups([40], seeds=8)], n_parallel)
    assert shapes(packed) == [(n, (40,)) for n in seeds]


def test_horizons_are_taken_apart_where_that_ends_earlier(groups):
    """All in one: 160 + (16 + 8 + 4 + 2) = 190 steps. Apart: 160 beside 80 + (8 + 4 + 2) = 94."""
    whole = groups([160, 80, 40, 20, 10])
    assert whole[0].shared_flops == 190 * step_flops(whole[0])
    packed = pack(whole, 2)
    assert shapes(packed) == [(1, (160,)), (1, (80, 40, 20, 10))]
    assert makespan(packed, 2)[0] == 160 * step_flops(packed[0])
    assert shapes(pack(whole, 1)) == shapes(whole)


def test_a_gain_of_less_than_a_twentieth_is_not_worth_a_trunk(groups):
    """Apart it would be 160 steps instead of 163."""
    whole = groups([160, 15])
    assert whole[0].shared_flops == 163 * step_flops(whole[0])
    assert pack(whole, 2) == whole


@few_examples
@given(
    steps=st.lists(st.integers(10, 400), unique=True, max_size=6),
    seeds=st.integers(1, 6),
    trunks=st.booleans(),
    n_parallel=st.integers(1, 40),
)
def test_packing_keeps_every_run_and_is_longer_for_no_slots(
    groups, steps, seeds, trunks, n_parallel
):
    whole = groups(steps, seeds, trunks=trunks)
    packed = pack(whole, n_parallel)
    names = [Counter(run.plan.run_id for g in some for run in g.runs) for some in (whole, packed)]
    assert names[0] == names[1]
    costs = [group.shared_flops for group in packed]
    assert costs == sorted(costs, reverse=True)
    longest_first = sorted(whole, key=lambda group: group.shared_flops, reverse=True)
    before, after = (makespan(some, n_parallel)[0] for some in (longest_first, packed))
    assert after >= max([*costs, sum(costs) / n_parallel])
    assert packed == longest_first or after <= before * (1 - LEAST_GAIN)
