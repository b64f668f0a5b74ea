"""The lock dies with its holder; a status is one of a closed set; an archive takes all of a run."""

import json
import os
import re
from pathlib import Path

import pytest

from train.errors import LockedError, StorageError
from train.run_folder.run_folder import RunFolder
from train.storage.records import read_json, read_jsonl


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path / "study" / "run")


def test_a_run_has_one_holder_who_is_named(folder):
    assert not folder.is_locked()
    with folder.locked():
        assert folder.is_locked()
        folder.log_attempt("start", attempt=1)
        named = (
            rf"^{re.escape(str(folder.path))}: process {os.getpid()} on .+ is training this run$"
        )
        with pytest.raises(LockedError, match=named), RunFolder(folder.path).locked():
            pass
    assert not folder.is_locked()


def test_a_run_that_was_never_started_is_not_locked(folder):
    assert not folder.is_locked()
    assert not folder.path.exists()


def test_a_folder_that_cannot_be_made_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    inside = RunFolder(tmp_path / "file" / "run")
    message = rf"{re.escape(str(inside.path))}: cannot be written"
    with pytest.raises(StorageError, match=message), inside.locked():
        pass


def test_an_error_inside_the_lock_is_not_taken_for_the_lock_s_own(folder):
    with pytest.raises(PermissionError, match="someone else's"), folder.locked():
        raise PermissionError("someone else's")


def test_a_run_is_planned_until_its_status_says_otherwise(folder):
    assert folder.state() == "planned"
    assert folder.read_status() == {}
    folder.path.mkdir(parents=True)
    folder.write_status("running", step=3, total_steps=9)
    assert folder.state() == "running"
    status = read_json(folder.status)
    assert (status["step"], status["total_steps"]) == (3, 9)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", status["heartbeat"])


def test_an_unreadable_status_counts_as_none(folder):
    folder.path.mkdir(parents=True)
    folder.status.write_text('{"state": "runn', encoding="utf-8")
    assert folder.state() == "planned"


def test_a_state_outside_the_closed_set_is_our_mistake(folder):
    folder.path.mkdir(parents=True)
    with pytest.raises(AssertionError):
        folder.write_status("finished")


def test_attempts_are_starts(folder):
    folder.path.mkdir(parents=True)
    assert folder.attempt_number() == 0
    for event, attempt in (("start", 1), ("end", 1), ("start", 2)):
        folder.log_attempt(event, attempt=attempt, state="failed")
    assert folder.attempt_number() == 2
    assert read_jsonl(folder.attempts)[0]["pid"] == os.getpid()


@pytest.mark.parametrize("junk", [b"{torn\n", b"[1]\n", b"\xff\x00\n", b'{"event": "start"}\n'])
def test_a_damaged_row_of_attempts_stops_no_start(folder, junk):
    folder.path.mkdir(parents=True)
    folder.log_attempt("start", attempt=1)
    with folder.attempts.open("ab") as file:
        file.write(junk)
    folder.log_attempt("start", attempt=2)
    assert folder.attempt_number() == 2


def test_a_run_whose_lock_names_another_process_is_left_to_it(folder):
    with folder.locked():
        folder.refuse_other_holder()  # it is ours
        folder.lock.unlink()
        folder.refuse_other_holder()  # nobody has it
        record = {"host": "box", "pid": 7, "since": "2026-01-01T00:00:00+00:00"}
        folder.lock.write_text(json.dumps(record), encoding="utf-8")
        with pytest.raises(LockedError, match=r"its lock was deleted .* process 7 on box \(since"):
            folder.refuse_other_holder()


def written(folder):
    folder.checkpoints.mkdir(parents=True)
    for path in (folder.lock, folder.log, folder.metrics, folder.checkpoints / "model.pt"):
        path.write_text(path.name, encoding="utf-8")
    folder.log_attempt("start", attempt=1)
    folder.write_status("diverged", step=7)


def names(path):
    return sorted(entry.name for entry in path.iterdir())


WRITTEN = ["attempts.jsonl", "checkpoints", "metrics.jsonl", "status.json"]


def test_the_newest_archive_is_that_of_the_largest_number(folder):
    assert folder.newest_archive() is None
    folder.path.mkdir(parents=True)
    for number in range(1, 12):
        folder.write_status("diverged", step=number)
        folder.archive()
    (folder.path / "archive" / "notes").mkdir()
    newest = folder.newest_archive()
    assert (newest.path.name, newest.read_status()["step"]) == ("11", 11)


def test_an_archive_takes_all_but_the_lock_the_log_and_earlier_archives(folder):
    written(folder)
    first = folder.archive()
    assert first == folder.path / "archive" / "1"
    assert names(first) == WRITTEN
    assert (first / "checkpoints" / "model.pt").read_text(encoding="utf-8") == "model.pt"
    assert names(folder.path) == ["archive", "job.log", "run.lock"]
    assert folder.state() == "planned"
    folder.write_status("running", step=1)
    assert folder.archive() == folder.path / "archive" / "2"
    assert names(folder.path / "archive") == ["1", "2"]


def test_attempts_are_counted_on_across_archives(folder):
    """A W&B run is named after its attempt, so no number comes back."""
    written(folder)
    folder.archive()
    assert folder.attempt_number() == 1
    folder.log_attempt("start", attempt=2)
    folder.archive()
    folder.log_attempt("start", attempt=3)
    assert folder.attempt_number() == 3


@pytest.mark.parametrize("moves", range(len(WRITTEN) + 1))
def test_an_archive_cut_short_is_completed_by_the_next_holder(folder, moves, monkeypatch):
    written(folder)
    left, rename = [moves], Path.rename

    def die_after_moves(path, target):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", die_after_moves)
        with pytest.raises(KeyboardInterrupt):
            folder.archive()
    assert folder.state() == ("planned" if moves else "diverged")  # the status goes first
    with folder.locked():
        assert names(folder.path) == ["archive", "job.log", "run.lock"]
        assert names(folder.path / "archive") == ["1"]
        assert names(folder.path / "archive" / "1") == WRITTEN
