"""H3: launchers that die and leave jobs behind, and two launchers of one study."""

import contextlib
import os
import signal
import time

import pytest

from faults.fake_study import folder_of, run_fake_study, start_launcher, starts, states
from faults.patches import Replace
from tests.builders import changed
from train.errors import LockedError
from train.storage.records import read_jsonl
from train.study import launch, study


@pytest.fixture
def gate(tmp_path):
    path = tmp_path / "gate"
    path.touch()
    return path


def orphaned(launchers, acts):
    launcher = launchers.start(acts)
    folders = [folder_of(launchers.config, seed) for seed in (0, 1)]
    launchers.wait_until(lambda: all(folder.state() == "running" for folder in folders))
    launcher.kill()
    launcher.join()
    assert launcher.exitcode == -signal.SIGKILL
    assert all(folder.is_locked() for folder in folders)
    launchers.errors.unlink(missing_ok=True)


def test_h3_orphans_are_left_alone_waited_for_and_counted(launchers, gate):
    acts = {0: f"wait:{gate}", 1: f"wait:{gate}", 2: "completed", 3: "completed"}
    orphaned(launchers, acts)
    again = launchers.start(acts)
    launchers.wait_until(lambda: states(launchers.config).count("completed") == 2)
    launchers.wait_until(
        lambda: "2/4 runs  2 runs are trained by other processes" in launchers.said()
    )
    time.sleep(0.5)
    assert again.is_alive()
    assert states(launchers.config) == ["running", "running", "completed", "completed"]
    gate.unlink()
    again.join(60)
    assert again.exitcode == 0, launchers.said()
    assert states(launchers.config) == ["completed"] * 4
    assert all(len(each) == 1 for each in starts(launchers.config, range(4)).values())


def test_h3_an_orphan_that_dies_is_taken_over(launchers, gate):
    acts = {0: f"wait:{gate},completed", 1: f"wait:{gate}"}
    orphaned(launchers, acts)
    again = launchers.start(acts)
    launchers.wait_until(lambda: "2 runs are trained by other processes" in launchers.said())
    orphan = read_jsonl(folder_of(launchers.config, 0).attempts)[-1]["pid"]
    os.kill(orphan, signal.SIGKILL)
    launchers.wait_until(lambda: states(launchers.config)[0] == "completed")
    launchers.wait_until(lambda: "1 run is trained by other processes" in launchers.said())
    gate.unlink()
    again.join(60)
    assert again.exitcode == 0, launchers.said()
    assert "2 completed; attempts cut short: 1 killed" in launchers.said()
    assert [len(each) for each in starts(launchers.config, (0, 1)).values()] == [2, 1]


def test_h3_control_a_launcher_that_does_not_look_starts_doomed_jobs(launchers, gate):
    acts = {0: f"wait:{gate}", 1: f"wait:{gate}"}
    orphaned(launchers, acts)
    blind = Replace("train.run_folder.run_folder:RunFolder.is_locked", _is_never_locked)
    launchers.start(acts, blind)
    launchers.wait_until(lambda: len(starts(launchers.config, [0])[0]) > 2)  # it tries for ever


def _is_never_locked(folder):
    del folder
    return False


@pytest.mark.usefixtures("fake_jobs")
def test_h3_a_second_launcher_ends_with_73_at_once_and_harms_nothing(launchers, gate):
    acts = {0: f"wait:{gate}", 1: f"wait:{gate}", 2: "completed"}
    first = launchers.start(acts)
    launchers.wait_until(lambda: states(launchers.config)[:2] == ["running"] * 2)
    before = starts(launchers.config, acts)
    began = time.monotonic()
    words = rf"faults: process {first.pid} on \S+ \(since \S+, \d+ s ago\) is running this study$"
    with pytest.raises(LockedError, match=words):
        run_fake_study(launchers.config, acts)
    assert time.monotonic() - began < 5.0
    assert starts(launchers.config, acts) == before
    gate.unlink()
    first.join(60)
    assert first.exitcode == 0, launchers.said()
    assert all(len(each) == 1 for each in starts(launchers.config, acts).values())


@pytest.mark.usefixtures("fake_jobs")
def test_h3_control_without_its_lock_two_launchers_start_the_same_runs(
    launchers, gate, monkeypatch
):
    acts = {0: f"wait:{gate}", 1: "completed", 2: "completed"}
    config = changed(launchers.config, {"machine.workers": 1})
    launchers.config = config
    monkeypatch.setattr(study, "hold", lambda *path, **options: contextlib.nullcontext())
    monkeypatch.setattr(study, "refuse_if_held", lambda *path, **options: None)
    first = start_launcher(config, acts, launchers.errors, _one_worker)
    launchers.processes.append(first)
    launchers.wait_until(lambda: states(config)[:1] == ["running"])
    second = start_launcher(config, acts, launchers.errors, _one_worker, _no_study_lock)
    launchers.processes.append(second)
    launchers.wait_until(lambda: states(config) == ["running", "completed", "completed"])
    gate.unlink()
    for launcher in (first, second):
        launcher.join(60)
        assert launcher.exitcode == 0, launchers.said()
    assert sorted(len(each) for each in starts(config, acts).values()) == [1, 2, 2]


def _one_worker():
    launch.job_slots = lambda machine: [{}]


def _no_study_lock():
    study.hold = lambda *path, **options: contextlib.nullcontext()
    study.refuse_if_held = lambda *path, **options: None
