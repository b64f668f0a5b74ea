"""What a launch shows of itself, and how often it looks."""

from pathlib import Path

import pytest

from tests.train.planned_runs import status_row
from train.errors import DataError
from train.study import progress as study_progress
from train.study.progress import StudyProgress


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self):
        self.now = 1_000.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(study_progress, "time", made)
    return made


class Folder:
    """Run folders that show `runs`, and take `seconds` to read."""

    def __init__(self, clock):
        self.clock, self.looks, self.seconds = clock, 0, 0.0
        self.runs = [status_row("running", 0), status_row("planned", 0)]

    def study_status(self, folder):
        assert folder == Path("runs/s")
        self.looks += 1
        self.clock.now += self.seconds
        return self.runs


@pytest.fixture
def folder(clock, monkeypatch):
    made = Folder(clock)
    monkeypatch.setattr(study_progress, "study_status", made.study_status)
    return made


def test_lines_tell_share_runs_others_and_time_left_by_hand(clock, folder, capsys):
    with StudyProgress(Path("runs/s")) as progress:
        progress.refresh(n_elsewhere=0)
        clock.now += 30
        folder.runs = [status_row("completed", 100), status_row("running", 50)]
        progress.refresh(n_elsewhere=1)
        progress.refresh(n_elsewhere=2)
        progress.say("a line [of] its own")
    assert capsys.readouterr().err.splitlines() == [
        "s    0% of FLOPs  0/2 runs",
        "s   75% of FLOPs  1/2 runs  1 run is trained by other processes  10 s left",
        "s   75% of FLOPs  1/2 runs  2 runs are trained by other processes  10 s left",
        "a line [of] its own",
    ]


def test_it_looks_every_few_seconds_and_at_once_when_asked(clock, folder):
    with StudyProgress(Path("runs/s")) as progress:
        for _ in range(10):
            progress.refresh(n_elsewhere=0)
        assert folder.looks == 1
        clock.now += study_progress.LOOK_SECONDS + 0.1
        progress.refresh(n_elsewhere=0)
        assert folder.looks == 2
        progress.refresh(n_elsewhere=0, now=True)
        assert folder.looks == 3
        progress.refresh(n_elsewhere=1)  # something changed
        assert folder.looks == 4


def test_looking_at_very_many_runs_takes_a_small_share_of_the_time(clock, folder):
    folder.seconds = 3.0
    with StudyProgress(Path("runs/s")) as progress:
        for _ in range(600):
            progress.refresh(n_elsewhere=0)
            clock.now += 1.0
    spent = folder.looks * folder.seconds
    assert 0.5 * study_progress.LOOK_SHARE < spent / 600 < 1.5 * study_progress.LOOK_SHARE


def test_a_manifest_that_is_damaged_on_the_way_leaves_what_was_known(
    clock, folder, monkeypatch, capsys
):
    def refuse(folder):
        raise DataError(f"{folder}: not JSON")

    folder.runs = [status_row("completed", 100), status_row("planned", 0)]
    with StudyProgress(Path("runs/s")) as progress:
        progress.refresh(n_elsewhere=0)
        monkeypatch.setattr(study_progress, "study_status", refuse)
        progress.refresh(n_elsewhere=0, now=True)
    assert capsys.readouterr().err.splitlines() == ["s   50% of FLOPs  1/2 runs"] * 2
