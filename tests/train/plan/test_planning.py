"""From budgets to whole steps, against arithmetic done by hand."""

import re

import pytest

from train.config.experiment import (
    BudgetConfig,
    FlopConvention,
    LearningRateRule,
    ModelConfig,
    OptimizerConfig,
    Positions,
    ScheduleConfig,
)
from train.errors import ConfigError
from train.plan.planning import budget_tokens, peak_lr, plan_run, whole_steps

# width 32, two layers, vocabulary 64, windows of 32: by hand
KAPLAN = 2 * 12 * 32**2  # 24,576
STANDARD = KAPLAN + 64 * 32  # 26,624
TOTAL = STANDARD + 64 * 32 + 2 * (2 * 32 + 2 * 16) + 32  # embedding; norms of width 32 and 16
EXACT = 6 * STANDARD + 12 * 2 * 32 * 32  # 12 L d T


def test_a_plan_by_hand(make_config):
    plan = plan_run(make_config())
    assert (plan.params.kaplan, plan.params.standard, plan.params.total) == (
        KAPLAN,
        STANDARD,
        TOTAL,
    )
    assert (plan.steps, plan.batch_tokens, plan.tokens) == (40, 256, 10_240)
    assert plan.flops == 6 * STANDARD * 10_240
    assert plan.flops_exact == EXACT * 10_240
    assert plan.rounding == 0.0
    assert plan.lr == 0.01
    assert plan.run_id.startswith("d32l2-10.2k-lr1.00e-02-s0-")


@pytest.mark.parametrize(
    ("convention", "per_token"),
    [
        ("kaplan", 6 * KAPLAN),
        ("standard", 6 * STANDARD),
        ("total", 6 * TOTAL),
        ("attention", EXACT),
    ],
)
def test_a_flop_budget_is_divided_by_the_convention_s_flops_per_token(
    make_config, convention, per_token
):
    budget = BudgetConfig(flops=1e10, convention=FlopConvention[convention])
    plan = plan_run(make_config(budget=budget))
    assert plan.flops_per_token == per_token
    assert plan.asked_tokens == 1e10 / per_token
    assert plan.steps == round(1e10 / per_token / 256)
    assert plan.flops == per_token * plan.steps * 256
    assert plan.flops == pytest.approx(1e10, rel=0.005)


def test_tokens_per_param_counts_standard_parameters(make_config):
    plan = plan_run(make_config(budget=BudgetConfig(tokens_per_param=20.0)))
    assert plan.asked_tokens == 20 * 26_624 == 532_480
    assert plan.steps == 2080  # 532,480 / 256, exactly


def test_a_warm_up_per_parameter_counts_standard_parameters(make_config):
    config = make_config(
        schedule=ScheduleConfig(warmup_tokens_per_param=0.1),
        model=ModelConfig(d_model=32, head_dim=16, positions=Positions.learned),
    )
    assert plan_run(config).schedule.warmup_steps == 10  # 2,662.4 tokens of batches of 256


def test_rounding_says_how_far_whole_steps_moved_the_budget(make_config):
    plan = plan_run(make_config(budget=BudgetConfig(tokens=100.25 * 256)))
    assert plan.steps == 100
    assert plan.rounding == pytest.approx(-0.25 / 100.25, abs=1e-15)


def test_no_budget_overflows():
    assert whole_steps(2.0**100, 2**12) == 2**88


def test_a_budget_beyond_64_bits_is_exact(make_config):
    plan = plan_run(make_config(budget=BudgetConfig(flops=1e30)))
    assert type(plan.flops) is int
    assert plan.flops == 6 * STANDARD * plan.steps * 256
    assert plan.flops == pytest.approx(1e30, rel=1e-12)


@pytest.mark.parametrize("asked", [100.502, 101 - 0.503])
def test_rounding_below_half_a_percent_is_accepted(asked):
    assert whole_steps(asked * 256, 256) == round(asked)


def test_rounding_over_half_a_percent_is_refused_with_the_nearest_budget():
    message = (
        "the budget asks for 2640 tokens = 10.312 steps of 256; whole steps would change it by "
        "-3.03% (at most 0.5 %); use a smaller optimizer.batch_tokens or budget.tokens=2560"
    )
    with pytest.raises(ConfigError, match=re.escape(message)):
        whole_steps(2640, 256)


def test_the_nearest_budget_of_a_refusal_is_accepted():
    with pytest.raises(ConfigError) as refused:
        whole_steps(2700, 256)
    (nearest,) = re.findall(r"budget\.tokens=(\d+)$", str(refused.value))
    assert whole_steps(float(nearest), 256) == 11


def test_fewer_tokens_than_one_batch_are_refused():
    message = (
        "the budget asks for 255 tokens, fewer than one batch of optimizer.batch_tokens=256; "
        "ask for at least 256 tokens or lower the batch"
    )
    with pytest.raises(ConfigError, match=re.escape(message)):
        whole_steps(255, 256)
    assert whole_steps(256, 256) == 1


def test_an_empty_batch_is_refused():
    with pytest.raises(ConfigError, match=r"optimizer\.batch_tokens=0: must be positive"):
        whole_steps(100, 0)


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (BudgetConfig(), "must be given, got none"),
        (
            BudgetConfig(tokens=1e6, flops=1e12),
            "got budget.tokens=1e+06, budget.flops=1e+12; set the others to null",
        ),
        (
            BudgetConfig(tokens=1.0, flops=2.0, tokens_per_param=3.0),
            "got budget.tokens=1, budget.flops=2, budget.tokens_per_param=3",
        ),
        (BudgetConfig(tokens=0.0), "budget.tokens=0: must be positive and finite"),
        (BudgetConfig(flops=-1e9), "budget.flops=-1e+09: must be positive and finite"),
        (BudgetConfig(flops=float("inf")), "budget.flops=inf: must be positive and finite"),
        (BudgetConfig(tokens_per_param=float("nan")), "budget.tokens_per_param=nan: must be"),
        (BudgetConfig(tokens_per_param=1e308), "tokens_per_param=1e+308: asks for more tokens"),
    ],
)
def test_a_budget_is_one_positive_number(make_config, budget, message):
    params = plan_run(make_config()).params
    with pytest.raises(ConfigError, match=re.escape(message)):
        budget_tokens(budget, params=params, flops_per_token=6 * params.standard)


RULE = LearningRateRule(coefficient=0.002, reference_params=1e6, exponent=-0.5, maximum=0.05)


@pytest.mark.parametrize(
    ("n_params", "lr"),
    [(1_000_000, 0.002), (4_000_000, 0.001), (10_000, 0.02), (1_600, 0.05), (100, 0.05)],
)
def test_the_rule_falls_with_size_below_its_cap(n_params, lr):
    assert peak_lr(OptimizerConfig(lr_rule=RULE), n_params_standard=n_params) == pytest.approx(lr)


def test_the_multiplier_scales_the_rule_and_a_given_rate_alike():
    by_rule = OptimizerConfig(lr_rule=RULE, lr_multiplier=3.0)
    assert peak_lr(by_rule, n_params_standard=4_000_000) == pytest.approx(0.003)
    assert peak_lr(by_rule, n_params_standard=100) == pytest.approx(0.15)  # of the capped rate
    given = OptimizerConfig(lr=0.01, lr_rule=RULE, lr_multiplier=3.0)
    assert peak_lr(given, n_params_standard=100) == pytest.approx(0.03)


def test_the_default_rule_is_capped_below_its_own_bound_and_falls_over_the_ladder():
    default = OptimizerConfig()
    rates = [peak_lr(default, n_params_standard=n) for n in (10_240, 10**5, 10**7, 2 * 10**8)]
    assert rates == sorted(rates, reverse=True)
    assert len(set(rates)) == 4
    assert peak_lr(default, n_params_standard=1) == default.lr_rule.maximum


def test_the_plan_uses_the_standard_count_for_the_rule(make_config):
    optimizer = OptimizerConfig(lr_rule=RULE, batch_tokens=256)
    plan = plan_run(make_config(optimizer=optimizer, model=ModelConfig(d_model=64)))
    n_params = 2 * 12 * 64**2 + 64 * 64
    assert plan.lr == pytest.approx(0.002 * (n_params / 1e6) ** -0.5)


def test_the_rounding_advice_is_in_the_form_that_was_given():
    with pytest.raises(ConfigError, match=r"or budget\.flops=1\.00663e\+09$"):
        whole_steps(1e9 / 61_440, 512, budget=("flops", 1e9))
    # 1e9 FLOPs at 6 * 10,240 are 31.79 steps of 512; 32 steps are 1.00663e9
