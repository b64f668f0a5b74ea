"""H1, H2, H4, O3, E5: jobs that die, studies that are done, heartbeats of long ago."""

import contextlib
import re
import time
from datetime import UTC, datetime, timedelta

import pytest

from faults.fake_study import folder_of, run_fake_study, starts, states, study_folder
from faults.patches import Fail, at_step
from faults.runner import run_child, run_here
from faults.same_run import assert_same_run
from train.storage.records import read_jsonl, write_json
from train.study import launch, packing, run_status
from train.study.run_status import study_status
from train.study.study import StudyIncompleteError

DEATHS = {
    "raised": ("bug", 1, ": failed a bug"),
    "exited": ("bug", 1, ": failed 7"),
    "killed": ("killed", 75, ": stale killed by SIGKILL"),
    "dead": ("bug", 1, ": planned bug (exit 1)"),
    "infrastructure": ("infrastructure", 75, ": failed the device failed"),
    "preempted": ("preempted", 75, ": preempted stopped by SIGTERM"),
}
"""By what a job does at every start: the cause, the study's exit code, the words for the run."""

STARTS = {"killed": 3, "infrastructure": 3}
"""Starts of such a job in one launch; of any other, one."""


# H1, O3, E5: one job dies


@pytest.mark.usefixtures("fake_jobs")
@pytest.mark.parametrize("death", DEATHS)
def test_h1_a_job_that_dies_costs_no_other_and_its_cause_is_named(tiny, capfd, death):
    config = tiny()
    cause, exit_code, words = DEATHS[death]
    with pytest.raises(StudyIncompleteError) as raised:
        run_fake_study(config, {0: "completed", 1: death, 2: "completed"}, workers=1)
    assert raised.value.exit_code == exit_code
    victim = folder_of(config, 1)
    assert f"  {victim.path.name}{words}" in str(raised.value)
    assert [states(config)[index] for index in (0, 2)] == ["completed"] * 2
    n_starts = STARTS.get(death, 1)
    assert starts(config, range(3)) == {0: ["completed"], 1: [death] * n_starts, 2: ["completed"]}
    errors = capfd.readouterr().err
    assert "2 completed, 1 " in errors
    if death != "dead":  # it left no row
        assert f"; attempts cut short: {n_starts} {cause}" in errors


@pytest.mark.usefixtures("fake_jobs")
def test_h1_control_a_launcher_that_stops_at_a_death_leaves_runs_behind(tiny, monkeypatch):
    def give_up(self, started, exit_code):
        if exit_code:
            raise RuntimeError("a job failed")
        self.free.append(started.slot)

    monkeypatch.setattr(launch._Launch, "_collect", give_up)
    with pytest.raises(RuntimeError):
        run_fake_study(tiny(), {0: "completed", 1: "raised", 2: "completed"}, workers=1)
    assert states(tiny()) == ["completed", "failed", "planned"]


@pytest.mark.usefixtures("fake_jobs")
@pytest.mark.parametrize("death", ["killed", "infrastructure"])
def test_o3_e5_a_job_that_is_killed_or_loses_its_device_is_started_again(tiny, capfd, death):
    config = tiny()
    run_fake_study(config, {0: f"{death},{death},completed", 1: "completed"})
    assert states(config) == ["completed"] * 2
    assert starts(config, [0, 1]) == {0: [death, death, "completed"], 1: ["completed"]}
    errors = capfd.readouterr().err
    name = folder_of(config, 0).path.name
    for number in (1, 2):
        assert f"{name}: {death}" in errors
        assert f"; starting it again ({number} of 2)" in errors
    assert f"2 completed; attempts cut short: 2 {death}" in errors


@pytest.mark.usefixtures("fake_jobs")
def test_o3_control_without_a_retry_the_run_stays_unfinished(tiny, monkeypatch):
    monkeypatch.setattr(launch, "RETRIES", {})
    with pytest.raises(StudyIncompleteError):
        run_fake_study(tiny(), {0: "killed,completed", 1: "completed"})
    assert states(tiny()) == ["stale", "completed"]


LOST = RuntimeError("CUDA error: unspecified launch failure")


def test_e5_a_run_that_lost_its_device_ends_as_if_it_had_not(tiny, reference_run):
    lost = run_child(tiny(), at_step(31, Fail(LOST)))
    assert lost.exit_code == 75, lost
    assert "the device failed" in lost.stderr
    assert "Traceback" not in lost.stderr
    assert read_jsonl(lost.folder.attempts)[-1]["cause"] == "infrastructure"
    assert_same_run(reference_run, run_here(tiny()))


def test_e5_control_an_error_nobody_knows_is_a_bug_and_is_not_tried_again(tiny):
    lost = run_child(tiny(), at_step(31, Fail(RuntimeError("odd"))))
    assert lost.exit_code == 1, lost
    assert "Traceback" in lost.stderr
    assert read_jsonl(lost.folder.attempts)[-1]["cause"] == "bug"


# H2: a finished study


@pytest.mark.usefixtures("fake_jobs")
def test_h2_a_finished_study_is_done_in_seconds_and_trains_nothing(tiny):
    config, acts = tiny(), dict.fromkeys(range(20), "completed")
    run_fake_study(config, acts, workers=4)
    before = {path: path.read_bytes() for path in study_folder(config).glob("*/*")}
    began = time.monotonic()
    run_fake_study(config, acts, workers=4)
    assert time.monotonic() - began < 5.0
    assert {path: path.read_bytes() for path in study_folder(config).glob("*/*")} == before
    assert starts(config, acts) == {seed: ["completed"] for seed in acts}


@pytest.mark.usefixtures("fake_jobs")
def test_h2_control_a_study_that_does_not_look_starts_its_jobs_again(tiny, monkeypatch):
    run_fake_study(tiny(), {0: "completed"})
    monkeypatch.setattr(packing, "FINISHED_STATES", ())
    with contextlib.suppress(StudyIncompleteError):
        run_fake_study(tiny(), {0: "completed"})
    assert starts(tiny(), [0]) == {0: ["completed"] * 2}


# H4: a heartbeat of long ago


def beat_long_ago(folder):
    folder.path.mkdir(parents=True, exist_ok=True)
    old = (datetime.now(UTC) - timedelta(hours=1)).isoformat(timespec="seconds")
    write_json(folder.status, {"state": "running", "step": 3, "heartbeat": old})


@pytest.mark.usefixtures("fake_jobs")
def test_h4_a_run_that_nobody_trains_is_stale_and_one_that_is_held_is_not(tiny):
    config = tiny()
    run_fake_study(config, {0: "completed", 1: "completed"})
    for seed in (0, 1):
        beat_long_ago(folder_of(config, seed))
    with folder_of(config, 1).locked():
        runs = study_status(study_folder(config))
    assert [run.state for run in runs] == ["stale", "running"]
    assert re.fullmatch(r"no row for 36\d\d s, though its process lives", runs[1].reason)


@pytest.mark.usefixtures("fake_jobs")
def test_h4_control_without_the_lock_the_record_alone_says_running(tiny, monkeypatch):
    config = tiny()
    run_fake_study(config, {0: "completed"})
    beat_long_ago(folder_of(config, 0))
    monkeypatch.setattr(run_status.RunFolder, "is_locked", lambda folder: True)
    assert states(config) == ["running"]
