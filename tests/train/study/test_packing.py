"""The order of jobs, and when a group is taken apart: exact makespans in steps of one shape."""

from collections.abc import Callable, Sequence

import pytest

from train.config.experiment import BudgetConfig, OptimizerConfig, ScheduleConfig, ScheduleShape
from train.config.runtime import MachineConfig
from train.config.schema import Config
from train.plan.grouping import RunGroup, group_runs
from train.plan.planning import PlannedRun, plan_run
from train.study.packing import makespan, pack

Groups = Callable[..., list[RunGroup]]


@pytest.fixture
def groups(make_config: Callable[..., Config]) -> Groups:
    """Return a maker of groups: every horizon in steps times every seed, whole stacks."""

    def make(steps: Sequence[int], seeds: int = 1, *, trunks: bool = True) -> list[RunGroup]:
        runs = []
        for n in steps:
            for seed in range(seeds):
                config = make_config(
                    seed=seed,
                    optimizer=OptimizerConfig(lr=0.01, batch_tokens=256),
                    budget=BudgetConfig(tokens=n * 256.0),
                    schedule=ScheduleConfig(shape=ScheduleShape.wsd, warmup_steps=5),
                    machine=MachineConfig(trunks=trunks),
                )
                runs.append(PlannedRun(overrides=[], config=config, plan=plan_run(config)))
        return group_runs(runs, best_stack=lambda run, n: n)

    return make


def step_flops(group: RunGroup) -> int:
    plan = group.runs[0].plan
    return plan.flops_exact // plan.steps


def shapes(groups: Sequence[RunGroup]) -> list[tuple[int, tuple[int, ...]]]:
    """Replicas and horizons of each."""
    return [
        (len(group.replicas), tuple(stack[0].plan.steps for stack in group.stacks))
        for group in groups
    ]


def test_the_longest_starts_first_by_what_it_computes(groups: Groups) -> None:
    apart = groups([20, 80, 40], trunks=False)
    stacked = groups([30], seeds=2)
    packed = pack([*apart, *stacked], 1)
    assert shapes(packed) == [(1, (80,)), (2, (30,)), (1, (40,)), (1, (20,))]


def test_the_makespan_is_that_of_the_slot_that_ends_last(groups: Groups) -> None:
    packed = pack(groups([80, 60, 40, 30], trunks=False), 2)
    steps, busiest = makespan(packed, 2)
    assert steps == 110 * step_flops(packed[0])
    assert [group.runs[0].plan.steps for group in busiest] == [80, 30]
    assert makespan([], 3) == (0, [])


def test_replicas_are_divided_among_slots_that_would_be_idle(groups: Groups) -> None:
    whole = groups([40], seeds=8)
    assert shapes(pack(whole, 1)) == [(8, (40,))]
    assert shapes(pack(whole, 2)) == [(4, (40,)), (4, (40,))]
    assert sorted(shapes(pack(whole, 4))) == [(2, (40,))] * 4


def test_enough_jobs_of_equal_length_are_left_whole(groups: Groups) -> None:
    several = [*groups([40], seeds=4), *groups([40], seeds=4)]
    assert shapes(pack(several, 2)) == [(4, (40,))] * 2
    single = groups([40, 40, 80], trunks=False)
    assert pack(single, 8) == sorted(single, key=lambda each: -each.shared_flops)


def test_the_odd_job_of_three_is_divided(groups: Groups) -> None:
    three = [group for _ in range(3) for group in groups([40], seeds=4)]
    packed = pack(three, 2)
    assert shapes(packed) == [(4, (40,))] * 2 + [(2, (40,))] * 2
    assert makespan(packed, 2)[0] == 240 * step_flops(packed[0])


def test_horizons_are_taken_apart_where_that_ends_earlier(groups: Groups) -> None:
    """All in one: 160 + (16 + 8 + 4 + 2) = 190 steps. Apart: 160 beside 80 + (8 + 4 + 2) = 94."""
    whole = groups([160, 80, 40, 20, 10])
    assert whole[0].shared_flops == 190 * step_flops(whole[0])
    packed = pack(whole, 2)
    assert shapes(packed) == [(1, (160,)), (1, (80, 40, 20, 10))]
    assert makespan(packed, 2)[0] == 160 * step_flops(packed[0])
    assert shapes(pack(whole, 1)) == shapes(whole)


def test_a_gain_of_less_than_a_twentieth_is_not_worth_a_trunk(groups: Groups) -> None:
    """Apart it would be 160 steps instead of 163."""
    whole = groups([160, 15])
    assert whole[0].shared_flops == 163 * step_flops(whole[0])
    assert pack(whole, 2) == whole


def test_every_run_is_in_one_job_whatever_is_taken_apart(groups: Groups) -> None:
    whole = groups([320, 160, 80, 40], seeds=5)
    for n_parallel in (1, 2, 3, 8, 64):
        packed = pack(whole, n_parallel)
        names = sorted(run.plan.run_id for group in packed for run in group.runs)
        assert names == sorted(run.plan.run_id for run in whole[0].runs)


def test_nothing_is_packed_into_nothing() -> None:
    assert pack([], 2) == []
