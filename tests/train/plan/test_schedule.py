"""Learning-rate multipliers at steps worked out by hand."""

import math

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from train.config.experiment import Cooldown, ScheduleConfig, ScheduleShape
from train.plan.schedule import evaluation_steps, resolve_schedule, shares_trunk

many_examples = settings(max_examples=500, deadline=None, derandomize=True)


def schedule(shape, *, steps=100, **settings):
    config = ScheduleConfig(shape=ScheduleShape[shape], **settings)
    return resolve_schedule(config, total_steps=steps, batch_tokens=10, n_params_standard=248)


def test_warm_up_rises_evenly_and_reaches_one_at_its_end():
    constant = schedule("constant", warmup_steps=4)
    assert [constant.multiplier(step) for step in range(6)] == [0.2, 0.4, 0.6, 0.8, 1.0, 1.0]


@st.composite
def schedules(draw):
    return schedule(
        draw(st.sampled_from([shape.name for shape in ScheduleShape])),
        steps=draw(st.integers(8, 60)),
        warmup_steps=draw(st.sampled_from([0, 1, 3, 8])),
        cooldown=draw(st.sampled_from(list(Cooldown))),
        cooldown_fraction=draw(st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.0])),
        final_lr_ratio=draw(st.sampled_from([0.0, 0.1])),
        horizon_tokens=600.0,
    )


@given(schedules())
@many_examples
def test_every_shape_rises_to_the_peak_then_never_rises_again(resolved):
    peak = resolved.warmup_steps
    assume(peak + resolved.cooldown_steps < resolved.total_steps)
    values = [resolved.multiplier(step) for step in range(resolved.total_steps)]
    assert values[: peak + 1] == sorted(values[: peak + 1])
    assert values[peak:] == sorted(values[peak:], reverse=True)
    assert max(values) == values[peak] == 1.0
    assert min(values[peak:]) >= resolved.final_ratio


@pytest.mark.parametrize(
    ("given", "steps"),
    [
        ({"warmup_steps": 12}, 12),
        ({"warmup_tokens": 124.0}, 12),  # 12.4 batches of 10
        ({"warmup_tokens_per_param": 0.5}, 12),  # 124 tokens at 248 parameters
        ({"warmup_fraction": 0.125}, 12),  # of 100: 12.5 rounds to even
        ({}, 0),
    ],
)
def test_warm_up_is_given_in_steps_tokens_tokens_per_param_or_a_fraction(given, steps):
    assert schedule("cosine", **given).warmup_steps == steps


def test_cosine_at_hand_worked_steps():
    cosine = schedule("cosine", warmup_steps=20, final_lr_ratio=0.1)
    assert cosine.multiplier(20) == 1.0
    assert cosine.multiplier(40) == pytest.approx(0.1 + 0.9 * (0.5 + math.sqrt(2) / 4), abs=1e-15)
    assert cosine.multiplier(60) == pytest.approx(0.55, abs=1e-15)  # half-way
    assert cosine.multiplier(100) == pytest.approx(0.1, abs=1e-15)  # the horizon, never trained


def test_linear_at_hand_worked_steps():
    linear = schedule("linear", warmup_steps=20, final_lr_ratio=0.0)
    values = [linear.multiplier(step) for step in (20, 40, 60, 99)]
    assert values == pytest.approx([1.0, 0.75, 0.5, 1 / 80], abs=1e-15)


def test_constant_stays():
    constant = schedule("constant")
    assert {constant.multiplier(step) for step in range(100)} == {1.0}


@pytest.mark.parametrize(
    ("cooldown", "at_85", "at_95"),
    [
        (Cooldown.linear, 0.1 + 0.9 * 0.75, 0.1 + 0.9 * 0.25),
        (Cooldown.one_minus_sqrt, 0.1 + 0.9 * 0.5, 0.1 + 0.9 * (1 - math.sqrt(0.75))),
    ],
)
def test_wsd_is_flat_and_then_cools_over_its_last_part(cooldown, at_85, at_95):
    wsd = schedule(
        "wsd", warmup_steps=5, cooldown=cooldown, cooldown_fraction=0.2, final_lr_ratio=0.1
    )
    assert wsd.cooldown_steps == 20
    assert {wsd.multiplier(step) for step in range(5, 81)} == {1.0}
    assert wsd.multiplier(85) == pytest.approx(at_85, abs=1e-15)
    assert wsd.multiplier(95) == pytest.approx(at_95, abs=1e-15)
    assert wsd.multiplier(100) == pytest.approx(0.1, abs=1e-15)


def test_wsd_trunks_of_all_horizons_agree_until_their_cooldowns():
    short = schedule("wsd", steps=100, warmup_steps=5)
    long = schedule("wsd", steps=400, warmup_steps=5)
    assert [short.multiplier(s) for s in range(80)] == [long.multiplier(s) for s in range(80)]
    assert short.multiplier(90) < long.multiplier(90) == 1.0


def test_a_warm_up_per_parameter_is_the_same_for_every_horizon():
    warm = [schedule("wsd", steps=n, warmup_tokens_per_param=1.0) for n in (50, 100, 4000)]
    assert [one.warmup_steps for one in warm] == [25, 25, 25]
    share = [schedule("wsd", steps=n, warmup_fraction=0.05) for n in (100, 200)]
    assert not shares_trunk(*share)


@pytest.mark.parametrize(
    ("shape", "settings", "fork"),
    [
        ("wsd", {"cooldown_fraction": 0.2}, 80),
        ("wsd", {"cooldown_fraction": 0.0}, 100),
        ("wsd", {"cooldown_fraction": 1.0}, 0),
        ("constant", {"cooldown_fraction": 0.2}, 100),
        ("cosine", {}, None),
        ("linear", {}, None),
        ("kaplan", {"horizon_tokens": 5000.0}, None),
    ],
)
def test_a_run_leaves_its_trunk_where_its_cooldown_starts(shape, settings, fork):
    assert schedule(shape, **settings).fork_step == fork


@given(schedules(), schedules())
@many_examples
def test_a_shared_trunk_is_equal_multipliers_up_to_the_fork_step_of_the_shorter(short, long):
    """By brute force; `long` must not have left the trunk either."""
    if short.fork_step is None or long.fork_step is None:
        assert not shares_trunk(short, long)
        return
    steps = range(short.fork_step)
    equal = [short.multiplier(step) for step in steps] == [long.multiplier(s) for s in steps]
    assert shares_trunk(short, long) is (equal and 0 < short.fork_step <= long.fork_step)


def test_of_two_runs_that_share_a_trunk_one_is_the_longer():
    short, long = (schedule("wsd", steps=steps, warmup_steps=5) for steps in (100, 200))
    assert shares_trunk(short, long)
    assert not shares_trunk(long, short)


def test_a_constant_run_shares_the_trunk_of_a_longer_wsd_run():
    constant = schedule("constant", steps=80, warmup_steps=5)
    assert shares_trunk(constant, schedule("wsd", steps=100, warmup_steps=5))  # forks at 80
    assert not shares_trunk(constant, schedule("wsd", steps=99, warmup_steps=5))


def test_wsd_without_a_cooldown_is_constant():
    assert schedule("wsd", cooldown_fraction=0.0).multiplier(99) == 1.0


def test_kaplan_follows_one_long_cosine_whatever_the_run():
    long = {"warmup_steps": 20, "horizon_tokens": 4200.0, "final_lr_ratio": 0.0}
    hundred = schedule("kaplan", steps=100, **long)
    three_hundred = schedule("kaplan", steps=300, **long)
    assert hundred.decay_end_step == 420
    assert hundred.multiplier(99) == three_hundred.multiplier(99)
    assert hundred.multiplier(220) == pytest.approx(0.5, abs=1e-15)  # 200 of 400 steps
    # a quarter of the way down where a cosine of the run's own would be at its end
    assert hundred.multiplier(99) == pytest.approx(0.5 * (1 + math.cos(math.pi * 79 / 400)))


def test_cooldown_belongs_to_wsd_alone():
    assert schedule("cosine", cooldown_fraction=0.5).cooldown_steps == 0


def test_evaluations_are_log_spaced_from_a_hundredth_of_the_run():
    assert evaluation_steps(10_000, 4) == (100, 316, 1000, 3162, 10_000)


def test_no_points_leave_the_last_step():
    assert evaluation_steps(500, 0) == (500,)


@given(st.integers(1, 10**9), st.integers(0, 50))
@many_examples
def test_evaluations_are_sorted_unique_within_the_run_and_end_it(total, points):
    steps = evaluation_steps(total, points)
    assert list(steps) == sorted(set(steps))
    assert steps[0] >= 1
    assert steps[-1] == total
    assert len(steps) <= points + 1
