"""When a checkpoint is due, what counts as training, and where the rest of the time goes."""

import subprocess
import sys
import time

import pytest

from train.run_folder.accounting import RunClock, TimeKind, process_seconds


@pytest.fixture
def now(monkeypatch):
    time = [100.0]
    monkeypatch.setattr("train.run_folder.accounting.time.perf_counter", lambda: time[0])
    return time


def test_a_checkpoint_is_due_after_its_minutes_from_the_start_and_from_the_last(now):
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


def test_checkpoints_that_take_long_keep_fifty_times_as_far_apart(now):
    clock = RunClock(0)
    with clock.saving():
        now[0] += 10.0
    now[0] += 499.0
    assert not clock.save_is_due(2.0)
    now[0] += 2.0
    assert clock.save_is_due(2.0)
    assert not clock.save_is_due(10.0)


def test_only_segments_are_training(now):
    clock = RunClock(5)
    now[0] += 2.0
    clock.end_segment()
    assert clock.segment_seconds == 2.0
    assert clock.rate(9, batch_tokens=512) == 4 * 512 / 2.0
    now[0] += 50.0  # an evaluation
    clock.start_segment(9)
    now[0] += 3.0
    clock.end_segment()
    assert clock.segment_seconds == 3.0


def nonzero(spent):
    return {what: seconds for what, seconds in spent.items() if seconds}


def test_every_second_is_spent_on_one_thing(now):
    clock = RunClock(0, doing=TimeKind.startup)
    now[0] += 4.0
    clock.start_segment(0)
    now[0] += 1.0
    with clock.spending(TimeKind.data):
        now[0] += 0.25
    now[0] += 1.0
    clock.end_segment()
    with clock.spending(TimeKind.logging):
        now[0] += 0.5
        with clock.spending(TimeKind.evaluation):
            now[0] += 3.0
        now[0] += 0.125
    with clock.saving():
        now[0] += 2.0
    now[0] += 0.0625
    clock.start_segment(2)
    now[0] += 8.0  # goes on
    spent = clock.spent()
    assert spent == {
        "train": 10.0,
        "data": 0.25,
        "evaluation": 3.0,
        "logging": 0.625,
        "checkpoint": 2.0,
        "startup": 4.0,
        "other": 0.0625,
    }
    assert sum(spent.values()) == now[0] - 100.0


def test_a_segment_has_its_data_and_nothing_else(now):
    clock = RunClock(0)
    with clock.spending(TimeKind.startup):
        now[0] += 30.0  # compiles at its first step
    now[0] += 1.5
    with clock.spending(TimeKind.data):
        now[0] += 0.5
    clock.end_segment()
    assert clock.segment_seconds == 2.0
    assert clock.rate(10, batch_tokens=100) == 500.0


def test_what_fails_has_cost_its_time_and_is_not_saved(now):
    clock = RunClock(0)
    for spend, seconds in ((clock.spending(TimeKind.evaluation), 2.0), (clock.saving(), 121.0)):
        with pytest.raises(OSError, match="full"), spend:  # noqa: PT012
            now[0] += seconds
            raise OSError("full")
    now[0] += 1.0
    assert nonzero(clock.spent()) == {"evaluation": 2.0, "checkpoint": 121.0, "train": 1.0}
    assert clock.save_is_due(2.0)


def test_replicas_divide_the_time_and_keep_what_each_had_before(now):
    clock = RunClock(0, replicas=4)
    now[0] += 10.0
    assert nonzero(clock.spent()) == {"train": 2.5}
    before = {"train": 1.0, "checkpoint": 0.5}
    assert nonzero(clock.spent(before)) == {"train": 3.5, "checkpoint": 0.5}
    assert nonzero(clock.spent()) == {"train": 2.5}
    clock.end_segment()
    assert clock.segment_seconds == 10.0  # each of them waited so long


def test_start_up_before_the_clock_is_divided_too(now):
    clock = RunClock(0, replicas=2, doing=TimeKind.startup, startup=5.0)
    now[0] += 1.0
    assert nonzero(clock.spent()) == {"startup": 3.0}


def test_a_process_knows_its_age():
    code = (
        "import time; time.sleep(.3);"
        "from train.run_folder.accounting import process_seconds; print(process_seconds())"
    )
    began = time.perf_counter()
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    took = time.perf_counter() - began
    assert 0.3 <= float(printed) <= took + 0.02  # a tick of the kernel's clock is 0.01 s


def test_where_the_kernel_does_not_tell_it_the_age_is_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr("train.run_folder.accounting.PROCESS_STAT", tmp_path / "stat")
    assert process_seconds() == 0.0
