"""D4: run folders that vanish, are read-only, or have names that a file system or a shell minds."""

import errno
import os
import shutil
from pathlib import Path

import pytest

from faults.fake_study import run_fake_study, states
from faults.patches import EVERY, At, Fail, Hold, Replace, at_step
from faults.runner import run_child
from faults.same_run import assert_same_run
from train.storage.records import read_json
from train.study.study import StudyIncompleteError


def test_d4_a_run_folder_that_vanishes_is_said_without_a_traceback(tiny, started, tmp_path):
    child = vanishing(tiny, started, tmp_path / "gate")
    outcome = child.wait()
    assert outcome.exit_code == 3, outcome
    assert f"error: {outcome.folder.path}" in outcome.stderr
    assert "(No such file or directory)" in outcome.stderr
    assert "Traceback" not in outcome.stderr
    again = run_child(tiny())
    assert again.exit_code == 0, again


def test_d4_control_an_error_of_the_system_that_nobody_translates_is_a_traceback(
    tiny, started, tmp_path
):
    patches = [Replace(f"{module}:as_storage_error", _is_no_storage_error) for module in USERS]
    outcome = vanishing(tiny, started, tmp_path / "gate", *patches).wait()
    assert outcome.exit_code == 1, outcome
    assert "Traceback" in outcome.stderr


USERS = ("train.training.completion", "train.__main__")
"""Modules that turn the system's errors into ours."""


def _is_no_storage_error(error):
    del error


def vanishing(tiny, started, gate, *patches):
    child = started(tiny(), *patches, at_step(21, Hold(gate)))
    child.wait_for(gate.exists)
    shutil.rmtree(child.folder.path)
    gate.unlink()
    return child


@pytest.mark.usefixtures("fake_jobs")
def test_d4_other_runs_do_not_mind_a_folder_that_vanishes(tiny):
    config = tiny()
    with pytest.raises(StudyIncompleteError) as raised:
        run_fake_study(config, {0: "completed", 1: "vanished", 2: "completed"}, workers=1)
    assert raised.value.exit_code == 3
    assert ": planned storage (exit 3)" in str(raised.value)
    assert states(config) == ["completed", "planned", "completed"]


READ_ONLY = Fail(OSError(errno.EROFS, "Read-only file system"))


def test_d4_a_folder_that_is_read_only_is_said_without_a_traceback(tiny):
    outcome = run_child(tiny(), At("os:open", READ_ONLY, call=EVERY, mentions="run.lock"))
    assert outcome.exit_code == 3, outcome
    assert f"error: {outcome.folder.path}: cannot be written (Read-only file system)" in (
        outcome.stderr
    )
    assert "Traceback" not in outcome.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_d4_a_folder_that_may_not_be_written_is_said_without_a_traceback(tiny):
    runs = Path(tiny().paths.runs)
    runs.mkdir(mode=0o500)
    outcome = run_child(tiny())
    assert outcome.exit_code == 3, outcome
    assert "cannot be written (Permission denied)" in outcome.stderr
    assert "Traceback" not in outcome.stderr


def test_d4_a_path_that_is_too_long_is_said_without_a_traceback(tiny):
    outcome = run_child(tiny(paths__runs=tiny().paths.runs + "/" + "r" * 300))
    assert outcome.exit_code == 3, outcome
    assert "File name too long" in outcome.stderr
    assert "Traceback" not in outcome.stderr


def test_d4_spaces_and_letters_of_any_alphabet_in_paths_change_nothing(
    tiny, reference_run, tmp_path
):
    runs = tmp_path / "two words" / "\u03b1\u03b2 \u4e2d\u6587 100%"
    outcome = run_child(tiny(paths__runs=str(runs)))
    assert outcome.exit_code == 0, outcome
    assert outcome.folder.path.is_relative_to(runs)
    assert_same_run(reference_run, outcome.folder)
    assert read_json(outcome.folder.result)["state"] == "completed"
