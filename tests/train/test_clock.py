"""When a checkpoint is due, and what counts as training."""

import pytest

from train.clock import RunClock


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which a test may move."""
    time = [100.0]
    monkeypatch.setattr("train.clock.time.monotonic", lambda: time[0])
    monkeypatch.setattr("train.clock.time.perf_counter", lambda: time[0])
    return time


def test_a_checkpoint_is_due_after_its_minutes_from_the_start_and_from_the_last(
    now: list[float],
) -> None:
    clock = RunClock(0)
    now[0] += 120.0
    assert not clock.save_is_due(2.0)
    now[0] += 0.5
    assert clock.save_is_due(2.0)
    with clock.saving():
        now[0] += 1.0
    assert not clock.save_is_due(2.0)
    now[0] += 120.5
    assert clock.save_is_due(2.0)


def test_checkpoints_that_take_long_keep_fifty_times_as_far_apart(now: list[float]) -> None:
    clock = RunClock(0)
    with clock.saving():
        now[0] += 10.0
    now[0] += 499.0
    assert not clock.save_is_due(2.0)
    now[0] += 2.0
    assert clock.save_is_due(2.0)
    assert not clock.save_is_due(10.0)


def test_one_that_failed_does_not_count_as_saved(now: list[float]) -> None:
    clock = RunClock(0)
    now[0] += 121.0
    with pytest.raises(OSError, match="full"), clock.saving():
        raise OSError("full")
    assert clock.save_is_due(2.0)


def test_only_segments_are_training(now: list[float]) -> None:
    clock = RunClock(5)
    now[0] += 2.0
    assert clock.training_seconds() == 2.0
    assert clock.rate(9, batch_tokens=512) == 4 * 512 / 2.0
    now[0] += 50.0  # an evaluation
    clock.resume(9)
    now[0] += 3.0
    assert clock.training_seconds() == 3.0
