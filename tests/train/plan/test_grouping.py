"""Which runs share a job: replicas, horizons of one trunk, and what keeps runs apart."""

from collections import Counter
from dataclasses import replace
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.train.planned_runs import WSD, few_examples, wsd_run
from train.config.experiment import (
    BudgetConfig,
    DataConfig,
    EvalConfig,
    ModelConfig,
    OptimizerConfig,
    ScheduleConfig,
    ScheduleShape,
)
from train.config.runtime import MachineConfig, StudyConfig
from train.errors import ConfigError
from train.plan.grouping import family, group_runs, refuse_strangers, replica, trunk_of
from train.plan.schedule import shares_trunk


@pytest.fixture
def run_of(make_config):
    return partial(wsd_run, make_config)


def whole(runs, best=8, begun=None):
    begun_at = (lambda run: begun.get(run.plan.run_id, 0)) if begun else lambda run: 0
    return group_runs(runs, best_stack=lambda run, n: best, begun_at=begun_at)


def grouped(*args, **options):
    """The stacks of every job."""
    return [[list(stack) for stack in group.stacks] for group in whole(*args, **options)]


OPTIMIZERS = [{"beta1": 0.8}, {"beta2": 0.99}, {"eps": 1e-7}, {"weight_decay": 0.0}]


def test_runs_that_differ_in_seed_and_optimizer_are_one_stack(run_of):
    tuned = [
        OptimizerConfig(**{"lr": 0.01, "batch_tokens": 256, **settings})
        for settings in (*OPTIMIZERS, {"grad_clip": 2.0})
    ]
    runs = [run_of(), run_of(seed=1), run_of(lr=0.02), *(run_of(optimizer=each) for each in tuned)]
    assert grouped(runs) == [[runs]]


APART = {
    "steps": {"steps": 20},
    "batch_tokens": {
        "optimizer": OptimizerConfig(lr=0.01, batch_tokens=512),
        "budget": BudgetConfig(tokens=40 * 512.0),
    },
    "model": {"model": ModelConfig(d_model=64, head_dim=16)},
    "rotary_base": {"model": ModelConfig(d_model=32, head_dim=16, rotary_base=500.0)},
    "data": {"data": DataConfig(vocab_size=64, seq_len=32)},
    "eval": {"eval": EvalConfig(points=3, tokens=1_024)},
    "schedule": {"schedule": replace(WSD, final_lr_ratio=0.0)},
    "machine": {"machine": MachineConfig(log_every=11)},
    "study": {"study": StudyConfig(name="other")},
}


@pytest.mark.parametrize("what", APART)
def test_what_a_stack_has_in_common(run_of, what):
    run = run_of(machine=MachineConfig(log_every=10, trunks=False))
    machine = {"machine": run.config.machine}
    other = run_of(**{"seed": 1, **machine, **APART[what]})
    assert grouped([run, other]) == [[[run]], [[other]]]


def test_replicas_keep_their_horizons_in_one_job(run_of):
    runs = {(steps, lr): run_of(steps, lr=lr) for lr in (0.01, 0.02, 0.03) for steps in (40, 80)}
    first, second = grouped(list(runs.values()), best=2)
    assert first == [[runs[80, 0.01]], [runs[40, 0.01]]]
    assert second == [[runs[80, 0.02], runs[80, 0.03]], [runs[40, 0.02], runs[40, 0.03]]]


def test_replicas_are_cut_evenly(run_of):
    runs = [run_of(seed=seed) for seed in range(9)]
    for best, sizes in {8: [4, 5], 3: [3, 3, 3], 99: [9], 0: [1] * 9}.items():
        assert [len(stacks[0]) for stacks in grouped(runs, best=best)] == sizes


@few_examples
@given(
    points=st.lists(
        st.tuples(
            st.sampled_from([20, 40, 80, 160]), st.integers(0, 3), st.sampled_from([0.01, 0.02])
        ),
        unique=True,
        max_size=12,
    ),
    best=st.integers(0, 6),
    trunks=st.booleans(),
    begun=st.sets(st.integers(0, 11)),
)
def test_every_run_is_in_one_job_of_runs_that_can_step_together(
    run_of, points, best, trunks, begun
):
    machine = MachineConfig(trunks=trunks)
    runs = [run_of(steps, seed=seed, lr=lr, machine=machine) for steps, seed, lr in points]
    at = {run.plan.run_id: 10 for number, run in enumerate(runs) if number in begun}
    groups = whole(runs, best, at)
    assert Counter(id(run) for group in groups for run in group.runs) == Counter(map(id, runs))
    for group in groups:
        assert len({family(run) for run in group.runs}) == 1
        assert len(group.replicas) <= max(1, best)
        for stack in group.stacks:
            assert len({(run.plan.steps, at.get(run.plan.run_id, 0)) for run in stack}) == 1
            assert len({replica(run) for run in stack}) == len(stack)
        for longest, *others in group.replicas:
            assert trunks or not others
            for other in others:
                assert replica(other) == replica(longest)
                assert other.plan.steps < longest.plan.steps
                assert shares_trunk(other.plan.schedule, longest.plan.schedule)
        assert group.shared_flops <= group.own_flops


def test_the_machine_s_limit_goes_before_a_timing(run_of):
    def never(run, n):
        raise AssertionError

    runs = [run_of(seed=seed, machine=MachineConfig(stack=2)) for seed in range(4)]
    assert [len(group.replicas) for group in group_runs(runs, best_stack=never)] == [2, 2]
    assert len(group_runs([run_of()], best_stack=never)) == 1  # nothing to stack, nothing to time


def test_the_timing_is_asked_for_the_longest_run_and_the_replicas_there_are(run_of):
    asked = []

    def best(run, n):
        asked.append((run.plan.steps, n))
        return n

    group_runs([run_of(n, seed=seed) for seed in range(3) for n in (40, 80)], best_stack=best)
    assert asked == [(80, 3)]


@pytest.mark.parametrize(
    "settings",
    [
        {"machine": MachineConfig(trunks=False)},
        {"schedule": ScheduleConfig(warmup_steps=5)},
        {"schedule": ScheduleConfig(shape=ScheduleShape.wsd, warmup_fraction=0.1)},
    ],
)
def test_horizons_without_a_trunk_are_jobs_of_their_own(run_of, settings):
    runs = [run_of(steps, **settings) for steps in (80, 40)]
    assert grouped(runs) == [[[run]] for run in runs]
    if "schedule" in settings:
        assert trunk_of(runs[1], runs) is None


def test_a_constant_schedule_shares_everything(run_of):
    schedule = ScheduleConfig(shape=ScheduleShape.constant, warmup_steps=5)
    (group,) = whole([run_of(steps, schedule=schedule) for steps in (80, 40, 20)])
    assert group.shared_flops == group.runs[0].plan.flops_exact


def test_runs_with_other_horizons_or_that_go_on_elsewhere_are_not_stacked(run_of):
    runs = {(steps, seed): run_of(steps, seed=seed) for seed in (0, 1, 2) for steps in (80, 40)}
    lacking = [run for key, run in runs.items() if key != (40, 2)]
    assert grouped(lacking) == [
        [[runs[80, 0], runs[80, 1]], [runs[40, 0], runs[40, 1]]],
        [[runs[80, 2]]],
    ]
    begun = {runs[80, 1].plan.run_id: 30}
    assert grouped(list(runs.values()), begun=begun) == [
        [[runs[80, 0], runs[80, 2]], [runs[40, 0], runs[40, 2]]],
        [[runs[80, 1]], [runs[40, 1]]],
    ]


@pytest.mark.parametrize("seed", [0, 1])
def test_the_same_horizon_in_another_form_of_the_budget_is_another_replica(run_of, seed):
    """Two folders, also where all but the form is the same."""
    run = run_of()
    per_param = BudgetConfig(tokens_per_param=run.plan.tokens / run.plan.params.standard)
    again = run_of(seed=seed, budget=per_param)
    assert again.plan.steps == run.plan.steps
    assert again.plan.run_id != run.plan.run_id
    assert grouped([run, again]) == [[[run, again]]]


def test_a_branch_knows_its_trunk(run_of):
    runs = [run_of(steps, seed=seed) for steps in (40, 80, 160) for seed in (0, 1)]
    assert trunk_of(runs[0], runs) == runs[4]
    assert trunk_of(runs[3], runs) == runs[5]
    assert trunk_of(runs[4], runs) is None


@pytest.mark.parametrize(
    ("steps", "own", "shared"),
    [
        ([100, 50], 150, 110),
        # apart by 2: at most 0.62 of separate runs
        ([100, 200, 400, 800, 1600], 3100, 1600 + 160 + 80 + 40 + 20),
        # apart by the root of 2: at most 0.46
        (
            [100, 141, 200, 283, 400, 566, 800, 1131, 1600],
            5221,
            1600 + 20 + 28 + 40 + 57 + 80 + 113 + 160 + 226,
        ),
    ],
)
def test_a_trunk_is_charged_once(run_of, steps, own, shared):
    (group,) = whole([run_of(n) for n in steps])
    per_step = group.runs[0].plan.flops_exact // max(steps)
    assert (group.own_flops, group.shared_flops) == (own * per_step, shared * per_step)


def test_a_group_says_what_it_is(run_of):
    for runs, words in (
        ([run_of()], "1 run"),
        ([run_of(40), run_of(80)], "1 x 2 horizons"),
        ([run_of(seed=seed) for seed in range(3)], "3 stacked"),
    ):
        assert [str(group) for group in whole(runs)] == [words]


def test_strangers_are_refused_with_what_sets_them_apart(run_of):
    first = run_of()
    refuse_strangers(first, [run_of(80), run_of(lr=0.5, seed=3)])
    for what, words in {"eval": "eval", "batch_tokens": "optimizer.batch_tokens"}.items():
        with pytest.raises(ConfigError) as raised:
            refuse_strangers(first, [run_of(**APART[what])])
        assert f"differs from {first.plan.run_id} in {words}; one job" in str(raised.value)
