"""Learning-rate multipliers at steps worked out by hand."""

import math

import pytest

from train.config import Cooldown, ScheduleConfig, ScheduleShape
from train.schedule import Schedule, evaluation_steps, resolve_schedule


def schedule(shape: str, *, steps: int = 100, **settings: object) -> Schedule:
    config = ScheduleConfig(shape=ScheduleShape[shape], **settings)  # type: ignore[arg-type]
    return resolve_schedule(config, total_steps=steps, batch_tokens=10)


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
        ({"warmup_fraction": 0.125}, 12),  # of 100: 12.5 rounds to even
        ({}, 0),
    ],
)
def test_warm_up_is_given_in_steps_tokens_or_a_fraction(
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
