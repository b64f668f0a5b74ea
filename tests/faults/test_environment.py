"""E1 and E2: clocks, time zones and versions that change between two attempts."""

import datetime
import os
import platform
import time
from pathlib import Path

import pytest
import torch

from faults.damage import NEWEST, PREVIOUS, step_name
from faults.runner import run_here, start_steps
from faults.same_run import assert_same_run
from train.errors import ConfigError
from train.run_folder import checkpoint
from train.storage.records import read_json, read_jsonl


@pytest.fixture
def zone(monkeypatch):
    """A time zone 13 to 14 hours ahead."""
    monkeypatch.setenv("TZ", "Pacific/Auckland" if Path("/usr/share/zoneinfo").exists() else "X-13")
    time.tzset()
    yield os.environ["TZ"]
    monkeypatch.undo()
    time.tzset()


class EarlierClock(datetime.datetime):
    """A clock that was set back by ten days."""

    @classmethod
    def now(cls, tz=None):
        """The time, ten days ago."""
        moment = datetime.datetime.now(tz) - datetime.timedelta(days=10)
        return cls.fromisoformat(moment.isoformat())


def set_times_back(folder):
    """Let the newest checkpoint be the one that was written first, by its files' times."""
    for path in (newest := folder.checkpoints / step_name(NEWEST), *newest.iterdir()):
        os.utime(path, (1e9, 1e9))


def test_e1_a_clock_that_jumps_back_and_another_zone_change_nothing(
    stopped, monkeypatch, zone, reference_run
):
    config, folder = stopped
    set_times_back(folder)
    monkeypatch.setattr("train.run_folder.run_folder.datetime", EarlierClock)
    run_here(config)
    assert start_steps(folder) == [0, NEWEST]  # by step, not by time
    assert_same_run(reference_run, folder)
    times = [row["time"] for row in read_jsonl(folder.attempts)]
    assert times[1] < times[0]  # the clock did jump, and the order is that of the rows
    assert folder.attempt_number() == 2


def test_e1_times_are_in_utc_wherever_the_machine_is(tiny, zone):
    folder = run_here(tiny(budget__tokens=7 * 256))
    stamps = [folder.read_status()["heartbeat"], *(r["time"] for r in read_jsonl(folder.attempts))]
    for stamp in stamps:
        assert stamp.endswith("+00:00")
        age = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(stamp)
        assert abs(age.total_seconds()) < 60


def test_e1_control_ordered_by_time_the_wrong_checkpoint_would_be_the_newest(stopped, monkeypatch):
    config, folder = stopped
    set_times_back(folder)
    real = checkpoint._step_folders
    monkeypatch.setattr(
        checkpoint,
        "_step_folders",
        lambda root: sorted(real(root), key=lambda path: path.stat().st_mtime),
    )
    run_here(config)
    assert start_steps(folder) == [0, PREVIOUS]


def test_e1_control_local_time_is_half_a_day_off(zone):
    naive = datetime.datetime.now().isoformat()
    as_utc = datetime.datetime.fromisoformat(naive).replace(tzinfo=datetime.UTC)
    assert (as_utc - datetime.datetime.now(datetime.UTC)).total_seconds() > 12 * 3600


OTHER = {"torch": "2.99.0", "python": "3.99.1"}


@pytest.fixture
def upgraded(stopped, monkeypatch):
    """A killed run, on a machine where torch, Python and this code were changed meanwhile."""
    monkeypatch.setattr(torch, "__version__", OTHER["torch"])
    monkeypatch.setattr(platform, "python_version", lambda: OTHER["python"])
    git = {"commit": "b" * 40, "dirty": False}
    monkeypatch.setattr("train.run_folder.provenance.git_state", lambda folder: git)
    return stopped[1]


def test_e2_changed_versions_are_warned_of_and_on_record(upgraded, tiny, reference_run):
    before = read_json(upgraded.run)
    with pytest.warns(UserWarning, match="changed since its last attempt") as warned:
        run_here(tiny())
    message = str(warned[0].message)
    assert f"python {before['versions']['python']} -> 3.99.1" in message
    assert f"torch {before['versions']['torch']} -> 2.99.0" in message
    assert f"git commit {before['git']['commit']} -> {'b' * 40}" in message
    first, second = (row for row in read_jsonl(upgraded.attempts) if row["event"] == "start")
    assert "changed" not in first
    assert first["versions"] == before["versions"]
    assert second["versions"] == {**before["versions"], **OTHER}
    assert second["changed"] == {
        "torch": [before["versions"]["torch"], "2.99.0"],
        "python": [before["versions"]["python"], "3.99.1"],
        "git commit": [before["git"]["commit"], "b" * 40],
    }
    assert read_json(upgraded.run)["versions"] == second["versions"]
    assert_same_run(reference_run, upgraded)  # nothing was really changed


def test_e2_strict_versions_refuse_and_name_both(upgraded, tiny, monkeypatch, reference_run):
    before = read_json(upgraded.run)
    with pytest.raises(ConfigError) as refused:
        run_here(tiny(machine__strict_versions=True))
    assert refused.value.exit_code == 2
    assert f"torch: {before['versions']['torch']} before, 2.99.0 now" in str(refused.value)
    assert f"python: {before['versions']['python']} before, 3.99.1 now" in str(refused.value)
    assert "machine.strict_versions=false" in str(refused.value)
    assert read_json(upgraded.run) == before
    assert start_steps(upgraded) == [0]
    monkeypatch.undo()  # brought back, as the message asks
    monkeypatch.setattr("train.run_folder.provenance.git_state", lambda folder: before["git"])
    run_here(tiny(machine__strict_versions=True))
    assert start_steps(upgraded) == [0, NEWEST]
    assert_same_run(reference_run, upgraded)


def test_e2_control_uncompared_two_versions_make_one_run_without_a_word(
    upgraded, tiny, monkeypatch
):
    monkeypatch.setattr("train.training.recording.changed_versions", lambda before, now: {})
    run_here(tiny(machine__strict_versions=True))
    assert upgraded.state() == "completed"
    assert not any("changed" in row for row in read_jsonl(upgraded.attempts))
