"""Learning-rate multipliers at steps worked out by hand."""

import itertools
import math
import random

import pytest

from train.config.experiment import Cooldown, ScheduleConfig, ScheduleShape
from train.plan.schedule import Schedule, evaluation_steps, resolve_schedule, shares_trunk


def schedule(shape: str, *, steps: int = 100, **settings: object) -> Schedule:
    config = ScheduleConfig(shape=ScheduleShape[shape], **settings)  # type: ignore[arg-type]
    return resolve_schedule(config, total_steps=steps, batch_tokens=10, n_params_standard=248)


def test_warm_up_rises_evenly_and_reaches_one_at_its_end() -> None:
    constant = schedule("constant", warmup_steps=4)
    assert [constant.multiplier(step) for step in range(6)] == [0.2, 0.4, 0.6, 0.8, 1.0, 1.0]


@pytest.mark.parametrize("shape", [shape.name for shape in ScheduleShape])
def test_every_shape_starts_at_the_peak_without_warm_up(shape: str) -> None:
    assert schedule(shape, horizon_tokens=5000.0).multiplier(0) == 1.0


@pytest.mark.parametrize("shape", [shape.name for shape in ScheduleShape])
def test_every_shape_rises_then_never_rises_again(shape: str) -> None:
    resolved = schedule(shape, warmup_steps=7, horizon_tokens=2000.0, final_lr_ratio=0.05)
    values = [resolved.multiplier(step) for step in range(100)]
    assert values[:8] == sorted(values[:8])
    assert values[7:] == sorted(values[7:], reverse=True)
    assert max(values) == values[7] == 1.0
    assert min(values[7:]) >= 0.05


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
def test_warm_up_is_given_in_steps_tokens_tokens_per_param_or_a_fraction(
    given: dict[str, object], steps: int
) -> None:
    assert schedule("cosine", **given).warmup_steps == steps


def test_cosine_at_hand_worked_steps() -> None:
    cosine = schedule("cosine", warmup_steps=20, final_lr_ratio=0.1)
    assert cosine.multiplier(20) == 1.0
    assert cosine.multiplier(40) == pytest.approx(0.1 + 0.9 * (0.5 + math.sqrt(2) / 4), abs=1e-15)
    assert cosine.multiplier(60) == pytest.approx(0.55, abs=1e-15)  # half-way
    assert cosine.multiplier(100) == pytest.approx(0.1, abs=1e-15)  # the horizon, never trained


def test_linear_at_hand_worked_steps() -> None:
    linear = schedule("linear", warmup_steps=20, final_lr_ratio=0.0)
    values = [linear.multiplier(step) for step in (20, 40, 60, 99)]
    assert values == pytest.approx([1.0, 0.75, 0.5, 1 / 80], abs=1e-15)


def test_constant_stays() -> None:
    constant = schedule("constant")
    assert {constant.multiplier(step) for step in range(100)} == {1.0}


@pytest.mark.parametrize(
    ("cooldown", "at_85", "at_95"),
    [
        (Cooldown.linear, 0.1 + 0.9 * 0.75, 0.1 + 0.9 * 0.25),
        (Cooldown.one_minus_sqrt, 0.1 + 0.9 * 0.5, 0.1 + 0.9 * (1 - math.sqrt(0.75))),
    ],
)
def test_wsd_is_flat_and_then_cools_over_its_last_part(
    cooldown: Cooldown, at_85: float, at_95: float
) -> None:
    wsd = schedule(
        "wsd", warmup_steps=5, cooldown=cooldown, cooldown_fraction=0.2, final_lr_ratio=0.1
    )
    assert wsd.cooldown_steps == 20
    assert {wsd.multiplier(step) for step in range(5, 81)} == {1.0}
    assert wsd.multiplier(85) == pytest.approx(at_85, abs=1e-15)
    assert wsd.multiplier(95) == pytest.approx(at_95, abs=1e-15)
    assert wsd.multiplier(100) == pytest.approx(0.1, abs=1e-15)


def test_wsd_trunks_of_all_horizons_agree_until_their_cooldowns() -> None:
    short = schedule("wsd", steps=100, warmup_steps=5)
    long = schedule("wsd", steps=400, warmup_steps=5)
    assert [short.multiplier(s) for s in range(80)] == [long.multiplier(s) for s in range(80)]
    assert short.multiplier(90) < long.multiplier(90) == 1.0


def test_a_warm_up_per_parameter_is_the_same_for_every_horizon() -> None:
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
def test_a_run_leaves_its_trunk_where_its_cooldown_starts(
    shape: str, settings: dict[str, object], fork: int | None
) -> None:
    assert schedule(shape, **settings).fork_step == fork


def random_schedules(count: int) -> list[Schedule]:
    rng = random.Random(0)
    return [
        schedule(
            rng.choice([shape.name for shape in ScheduleShape]),
            steps=rng.randint(8, 60),
            warmup_steps=rng.choice([0, 1, 3, 8]),
            cooldown=rng.choice(list(Cooldown)),
            cooldown_fraction=rng.choice([0.0, 0.1, 0.25, 0.5, 1.0]),
            final_lr_ratio=rng.choice([0.0, 0.1]),
            horizon_tokens=600.0,
        )
        for _ in range(count)
    ]


def test_a_shared_trunk_is_equal_multipliers_up_to_the_fork_step_of_the_shorter() -> None:
    """By brute force; `long` must not have left the trunk either."""
    shared = 0
    for short, long in itertools.permutations(random_schedules(200), 2):
        if short.fork_step is None or long.fork_step is None:
            assert not shares_trunk(short, long)
            continue
        steps = range(short.fork_step)
        equal = [short.multiplier(step) for step in steps] == [long.multiplier(s) for s in steps]
        reaches = 0 < short.fork_step <= long.fork_step
        assert shares_trunk(short, long) is (equal and reaches)
        shared += shares_trunk(short, long)
    assert shared > 500


def test_of_two_runs_that_share_a_trunk_one_is_the_longer() -> None:
    short, long = (schedule("wsd", steps=steps, warmup_steps=5) for steps in (100, 200))
    assert shares_trunk(short, long)
    assert not shares_trunk(long, short)


def test_a_constant_run_shares_the_trunk_of_a_longer_wsd_run() -> None:
    constant = schedule("constant", steps=80, warmup_steps=5)
    assert shares_trunk(constant, schedule("wsd", steps=100, warmup_steps=5))  # forks at 80
    assert not shares_trunk(constant, schedule("wsd", steps=99, warmup_steps=5))


def test_wsd_without_a_cooldown_is_constant() -> None:
    assert schedule("wsd", cooldown_fraction=0.0).multiplier(99) == 1.0


def test_kaplan_follows_one_long_cosine_whatever_the_run() -> None:
    long = {"warmup_steps": 20, "horizon_tokens": 4200.0, "final_lr_ratio": 0.0}
    hundred = schedule("kaplan", steps=100, **long)
    three_hundred = schedule("kaplan", steps=300, **long)
    assert hundred.decay_end_step == 420
    assert hundred.multiplier(99) == three_hundred.multiplier(99)
    assert hundred.multiplier(220) == pytest.approx(0.5, abs=1e-15)  # 200 of 400 steps
    # a quarter of the way down where a cosine of the run's own would be at its end
    assert hundred.multiplier(99) == pytest.approx(0.5 * (1 + math.cos(math.pi * 79 / 400)))


def test_cooldown_belongs_to_wsd_alone() -> None:
    assert schedule("cosine", cooldown_fraction=0.5).cooldown_steps == 0


def test_evaluations_are_log_spaced_from_a_hundredth_of_the_run() -> None:
    assert evaluation_steps(10_000, 4) == (100, 316, 1000, 3162, 10_000)


def test_no_points_leave_the_last_step() -> None:
    assert evaluation_steps(500, 0) == (500,)


@pytest.mark.parametrize("total", [1, 2, 7, 99, 100, 101, 12_345, 10**9])
@pytest.mark.parametrize("points", [0, 1, 8, 50])
def test_evaluations_are_sorted_unique_within_the_run_and_end_it(total: int, points: int) -> None:
    steps = evaluation_steps(total, points)
    assert list(steps) == sorted(set(steps))
    assert steps[0] >= 1
    assert steps[-1] == total
    assert len(steps) <= points + 1
