"""Slot seconds by what the slots did, on a clock that the test turns."""

import pytest

from train.study import launch_times
from train.study.launch_times import LaunchTimes


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(launch_times, "time", made)
    return made


def test_a_free_slot_waits_while_there_is_a_job_and_is_starved_without(clock: Clock) -> None:
    times = LaunchTimes(n_slots=3)
    clock.now += 2
    times.count(n_running=1, n_waiting=1)
    assert (times.busy, times.waiting, times.starved) == (2.0, 2.0, 2.0)
    clock.now += 1
    times.count(n_running=3, n_waiting=5)
    clock.now += 1
    times.count(n_running=0, n_waiting=0)
    assert (times.busy, times.waiting, times.starved) == (5.0, 2.0, 5.0)
    assert times.wall == 4.0
    assert times.idle_share == 2 / 12
    assert str(times) == (
        "4.0 s on 3 slots: 41.7% busy, 16.7% free though a job waited, 41.7% without a job"
    )
    assert times.row() == {
        "slots": 3,
        "wall_seconds": 4.0,
        "busy_seconds": 5.0,
        "waiting_seconds": 2.0,
        "starved_seconds": 5.0,
    }


def test_an_end_that_is_noticed_late_was_no_work(clock: Clock) -> None:
    times = LaunchTimes(n_slots=2)
    clock.now += 10
    times.count(n_running=2, n_waiting=1)
    times.notice_late(n_ended=2, n_waiting=1, seconds=3.0)
    assert (times.busy, times.waiting, times.starved) == (14.0, 3.0, 3.0)
    assert times.wall == 10.0


def test_no_time_is_no_share(clock: Clock) -> None:
    times = LaunchTimes(n_slots=1)
    assert times.idle_share == 0.0
    assert str(times).startswith("0.0 s on 1 slot: 0.0% busy")
