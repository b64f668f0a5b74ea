"""Which runs share a job: replicas, horizons of one trunk, and what keeps runs apart."""

from dataclasses import replace

import pytest

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
from train.plan.grouping import group_runs, refuse_strangers, trunk_of
from train.plan.planning import PlannedRun, plan_run

WSD = ScheduleConfig(shape=ScheduleShape.wsd, warmup_steps=5, cooldown_fraction=0.2)


def planned(config):
    return PlannedRun(overrides=[], config=config, plan=plan_run(config))


@pytest.fixture
def run_of(make_config):
    """Return a maker of planned runs by steps, lr and seed, wsd unless said otherwise."""

    def make(steps=40, *, lr=0.01, seed=0, **groups):
        fields = {
            "optimizer": OptimizerConfig(lr=lr, batch_tokens=256),
            "budget": BudgetConfig(tokens=steps * 256.0),
            "schedule": WSD,
        }
        return planned(make_config(seed=seed, **{**fields, **groups}))

    return make


def grouped(runs, best=8, begun=None):
    """The stacks of every job."""
    groups = group_runs(
        runs,
        best_stack=lambda run, n: best,
        begun_at=lambda run: (begun or {}).get(run.plan.run_id, 0),
    )
    return [[list(stack) for stack in group.stacks] for group in groups]


def test_runs_that_differ_in_seed_and_optimizer_are_one_stack(run_of):
    def tuned(**settings):
        return run_of(optimizer=OptimizerConfig(**{"lr": 0.01, "batch_tokens": 256, **settings}))

    runs = [
        run_of(),
        run_of(seed=1),
        run_of(lr=0.02),
        *[
            tuned(**{name: value})
            for name, value in {
                "beta1": 0.8,
                "beta2": 0.99,
                "eps": 1e-7,
                "weight_decay": 0.0,
                "grad_clip": 2.0,
            }.items()
        ],
    ]
    assert grouped(runs) == [[runs]]


def test_a_budget_in_another_form_is_the_same_horizon(run_of):
    run, other = run_of(), run_of(seed=1)
    per_param = BudgetConfig(tokens_per_param=other.plan.tokens / other.plan.params.standard)
    again = run_of(seed=1, budget=per_param)
    assert again.plan.steps == run.plan.steps
    assert grouped([run, again]) == [[[run, again]]]


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
    assert [len(stacks[0]) for stacks in grouped(runs, best=8)] == [4, 5]
    assert [len(stacks[0]) for stacks in grouped(runs, best=3)] == [3, 3, 3]
    assert [len(stacks[0]) for stacks in grouped(runs, best=99)] == [9]
    assert [len(stacks[0]) for stacks in grouped(runs, best=0)] == [1] * 9


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

    runs = [run_of(steps, seed=seed) for seed in range(3) for steps in (40, 80)]
    group_runs(runs, best_stack=best)
    assert asked == [(80, 3)]


def test_trunks_may_be_switched_off(run_of):
    runs = [run_of(steps, machine=MachineConfig(trunks=False)) for steps in (80, 40)]
    assert grouped(runs) == [[[run]] for run in runs]


def test_horizons_without_a_trunk_are_jobs_of_their_own(run_of):
    cosine = ScheduleConfig(warmup_steps=5)
    share = ScheduleConfig(shape=ScheduleShape.wsd, warmup_fraction=0.1)
    for schedule in (cosine, share):
        runs = [run_of(steps, schedule=schedule) for steps in (80, 40)]
        assert grouped(runs) == [[[run]] for run in runs]
        assert trunk_of(runs[1], runs) is None


def test_a_constant_schedule_shares_everything(run_of):
    schedule = ScheduleConfig(shape=ScheduleShape.constant, warmup_steps=5)
    runs = [run_of(steps, schedule=schedule) for steps in (80, 40, 20)]
    (group,) = group_runs(runs, best_stack=lambda run, n: n)
    assert group.shared_flops == runs[0].plan.flops_exact


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


def test_twins_in_all_but_the_name_are_two_replicas(run_of):
    """The same horizon asked for by tokens and by FLOPs is two runs, hence two folders."""
    run = run_of()
    per_param = BudgetConfig(tokens_per_param=run.plan.tokens / run.plan.params.standard)
    again = run_of(budget=per_param)
    assert again.plan.run_id != run.plan.run_id
    assert grouped([run, again]) == [[[run, again]]]


def test_a_branch_knows_its_trunk(run_of):
    runs = [run_of(steps, seed=seed) for steps in (40, 80, 160) for seed in (0, 1)]
    assert trunk_of(runs[0], runs) == runs[4]
    assert trunk_of(runs[3], runs) == runs[5]
    assert trunk_of(runs[4], runs) is None


def horizons(run_of, steps):
    (group,) = group_runs([run_of(n) for n in steps], best_stack=lambda run, n: n)
    return group


def test_a_trunk_is_charged_once(run_of):
    group = horizons(run_of, (100, 50))
    (long, short) = group.runs
    per_step = long.plan.flops_exact // 100
    assert short.plan.schedule.fork_step == 40
    assert group.own_flops == 150 * per_step
    assert group.shared_flops == 110 * per_step


def test_five_horizons_apart_by_two_cost_no_more_than_062_of_separate_runs(run_of):
    group = horizons(run_of, [100 * 2**k for k in range(5)])
    per_step = group.runs[-1].plan.flops_exact // 100
    assert group.own_flops == 3100 * per_step
    assert group.shared_flops == (1600 + 160 + 80 + 40 + 20) * per_step  # 0.6129
    assert group.shared_flops <= 0.62 * group.own_flops


def test_nine_horizons_apart_by_root_two_cost_no_more_than_046(run_of):
    group = horizons(run_of, [100, 141, 200, 283, 400, 566, 800, 1131, 1600])
    per_step = group.runs[-1].plan.flops_exact // 100
    assert group.own_flops == 5221 * per_step
    cooldowns = 20 + 28 + 40 + 57 + 80 + 113 + 160 + 226
    assert group.shared_flops == (1600 + cooldowns) * per_step  # 0.4451
    assert group.shared_flops <= 0.46 * group.own_flops


def test_a_group_says_what_it_is(run_of):
    assert str(horizons(run_of, [40])) == "1 run"
    assert str(horizons(run_of, [40, 80])) == "1 x 2 horizons"
    runs = [run_of(seed=seed) for seed in range(3)]
    (group,) = group_runs(runs, best_stack=lambda run, n: n)
    assert str(group) == "3 stacked"


def test_strangers_are_refused_with_what_sets_them_apart(run_of):
    first = run_of()
    refuse_strangers(first, [run_of(80), run_of(lr=0.5, seed=3)])
    with pytest.raises(ConfigError) as raised:
        refuse_strangers(first, [run_of(**APART["eval"])])
    assert f"differs from {first.plan.run_id} in eval; one job trains runs" in str(raised.value)
    with pytest.raises(ConfigError, match=r"in optimizer\.batch_tokens; one job"):
        refuse_strangers(first, [run_of(**APART["batch_tokens"])])
