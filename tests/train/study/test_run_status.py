"""A run's state against its lock and its heartbeat; a damaged folder is described, not raised."""

import re
from datetime import UTC, datetime, timedelta

import pytest

from tests.train.planned_runs import status_row
from train.run_folder.accounting import read_cost
from train.run_folder.run_folder import RunFolder
from train.storage import lock
from train.storage.records import append_jsonl, write_json
from train.study.run_status import STALE_SECONDS, name_stops, run_status, stops_by_cause

ENTRY = {
    "run_id": "d8l2-a",
    "plan": {"rung": "d8l2", "steps": 40, "flops": 6_000},
}


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path / "d8l2-a")
    folder.path.mkdir()
    return folder


def status_of(folder):
    return run_status(folder.path.parent, ENTRY)


def beat(folder, *, seconds_ago, **facts):
    """A status as it was written that long ago."""
    heartbeat = (datetime.now(UTC) - timedelta(seconds=seconds_ago)).isoformat(timespec="seconds")
    write_json(folder.status, {"state": "running", "step": 10, **facts, "heartbeat": heartbeat})


def test_a_run_without_a_folder_is_planned(tmp_path):
    expected = status_row("planned", run_id="d8l2-a", total_steps=40, flops=6_000)
    assert run_status(tmp_path, ENTRY) == expected
    assert not (tmp_path / "d8l2-a").exists()


@pytest.mark.parametrize(
    ("state", "facts", "share", "reason"),
    [
        ("preempted", {"step": 10, "reason": "stopped by SIGTERM"}, 0.25, "stopped by SIGTERM"),
        ("completed", {"step": 40}, 1.0, ""),
        ("diverged", {"step": 3, "reason": "step 4: loss nan", "exit_code": 5}, 1.0, "step 4: l"),
        ("failed", {"step": 0, "reason": "no space\nand more", "exit_code": 3}, 0.0, "no space"),
    ],
)
def test_a_recorded_end_is_told(folder, state, facts, share, reason):
    folder.write_status(state, **facts)
    append_jsonl(folder.evals, [{"step": 4, "loss": 3.0}, {"step": 9, "loss": 2.5}])
    status = status_of(folder)
    assert (status.state, status.share, status.loss) == (state, share, 2.5)
    assert status.reason.startswith(reason)
    assert "more" not in status.reason
    assert status.exit_code == facts.get("exit_code")
    assert status.seconds_left is None


def test_a_run_under_way_has_time_left_at_its_rate(folder):
    folder.write_status("running", step=10, seconds=2.0)
    with folder.locked():
        status = status_of(folder)
    assert (status.state, status.share, status.seconds_left) == ("running", 0.25, 6.0)
    status = status_of(folder)  # no process holds it any more
    assert (status.state, status.share, status.seconds_left) == ("stale", 0.25, None)


def test_a_held_run_that_has_been_silent_for_long_is_said(folder):
    beat(folder, seconds_ago=STALE_SECONDS + 60)
    with folder.locked():
        status = status_of(folder)
    assert status.state == "running"
    assert re.fullmatch(r"no row for 66\d s, though its process lives", status.reason)


@pytest.mark.parametrize(
    ("host", "seconds_ago", "state"),
    [("elsewhere", 30, "running"), ("elsewhere", STALE_SECONDS + 60, "stale"), (None, 30, "stale")],
)
def test_where_another_machine_s_lock_is_not_seen_its_heartbeat_decides(
    folder, monkeypatch, host, seconds_ago, state
):
    """A file system may keep flock to each machine; None is this one, whose locks are seen."""
    with monkeypatch.context() as patch:
        if host is not None:
            patch.setattr(lock.socket, "gethostname", lambda: host)
        with folder.locked():
            pass  # it wrote down its name; here its lock does not show
    beat(folder, seconds_ago=seconds_ago)
    status = status_of(folder)
    assert status.state == state
    assert ("no lock is seen from here; elsewhere wrote" in status.reason) == (state == "running")


def test_attempts_and_what_cut_them_short_are_counted(folder):
    for attempt in (1, 2, 3):
        folder.log_attempt("start", attempt=attempt)
    assert status_of(folder).attempts == 3
    assert status_of(folder).stops == {"killed": 3}
    with folder.locked():
        assert status_of(folder).stops == {"killed": 2}  # the last is under way
    folder.log_attempt("end", attempt=3, state="failed", cause="data")
    assert status_of(folder).stops == {"killed": 2, "data": 1}


@pytest.mark.parametrize(
    ("replayed", "reason"),
    [
        ({"rows": 7, "differing": 0, "largest": 0.0}, ""),
        ({"rows": 7, "differing": 2, "largest": 0.00123}, "2 of 7 replayed rows differ, by up to"),
        (None, ""),
        ("garbled", ""),
        ({"rows": "x", "differing": 1}, "1 of 0 replayed rows differ"),
    ],
)
def test_replayed_rows_that_differ_are_said(folder, replayed, reason):
    folder.write_status("completed", step=40)
    write_json(folder.result, {"replayed": replayed})
    assert status_of(folder).reason.startswith(reason)
    assert bool(status_of(folder).reason) == bool(reason)


def test_what_a_run_has_cost_is_told_by_its_result_or_else_by_its_status(folder):
    folder.write_status("running", step=10, cost={"flops_charged": 1})
    assert status_of(folder).cost == read_cost({}, {"cost": {"flops_charged": 1}}, {})
    write_json(folder.result, {"cost": {"flops_charged": 2}})
    folder.write_status("completed", step=40)
    assert status_of(folder).cost == read_cost({}, {}, {"cost": {"flops_charged": 2}})


GARBLED = ("{torn", "[]", "null", '"text"', "\x00\xff", "", '{"a": ' * 100_000)


@pytest.mark.parametrize("text", GARBLED)
@pytest.mark.parametrize("name", ["status.json", "result.json", "evals.jsonl", "attempts.jsonl"])
def test_a_damaged_file_is_named_and_hides_nothing(folder, name, text):
    folder.write_status("completed", step=40)
    append_jsonl(folder.evals, [{"step": 40, "loss": 2.5}])
    write_json(folder.result, {})
    (folder.path / name).write_text(text + "\n", encoding="latin-1")
    status = status_of(folder)
    is_empty_table = name.endswith("jsonl") and not text.strip()
    assert (name in status.reason) == (not is_empty_table)
    assert str(folder.path) not in status.reason
    assert status.state == ("stale" if name == "status.json" else "completed")
    assert status.loss == (2.5 if name != "evals.jsonl" else None)


@pytest.mark.parametrize("name", ["status.json", "evals.jsonl", "attempts.jsonl", "run.lock"])
def test_a_folder_in_a_file_s_place_is_described(folder, name):
    folder.write_status("failed", reason="why", step=1)
    (folder.path / name).unlink(missing_ok=True)
    (folder.path / name).mkdir()
    status = status_of(folder)
    assert status.state == ("stale" if name == "status.json" else "failed")
    if name != "run.lock":
        assert f"{name}: cannot be read (Is a directory)" in status.reason


def test_a_file_in_the_folder_s_place_is_described(tmp_path):
    (tmp_path / "d8l2-a").write_text("", encoding="utf-8")
    status = run_status(tmp_path, ENTRY)
    assert "status.json: cannot be read (Not a directory)" in status.reason


@pytest.mark.parametrize(
    "facts",
    [
        {"state": "finished"},
        {"state": ["running"]},
        {"state": None},
        {"state": "running", "step": "ten", "seconds": [], "exit_code": "x", "reason": 7},
        {"state": "running", "step": 10**400, "seconds": -1, "heartbeat": 12},
        {"state": "running", "step": -5, "heartbeat": "yesterday"},
        {"state": "running", "heartbeat": "2026-01-01T00:00:00"},
    ],
)
def test_values_of_the_wrong_kind_are_left_out(folder, facts):
    write_json(folder.status, facts)
    append_jsonl(folder.evals, [{"loss": "low"}])
    status = status_of(folder)
    assert status.state == "stale"
    assert status.share == 0.0
    assert (status.loss, status.exit_code) == (None, None)
    assert ("no state we know" in status.reason) == (facts["state"] != "running")


def test_a_reason_cannot_steer_the_terminal(folder):
    folder.write_status("failed", reason="\x1b[2J\x07gone", step=0)
    assert status_of(folder).reason == "?[2J?gone"


# attempts that ended before the horizon


START, END = {"event": "start"}, {"event": "end", "cause": None}
PREEMPTED = {"event": "end", "cause": "preempted"}


def test_stops_are_counted_by_cause_and_a_start_without_an_end_was_killed():
    rows = [START, START, PREEMPTED, START, PREEMPTED, START]
    assert stops_by_cause(rows, is_running=True) == {"killed": 1, "preempted": 2}
    assert stops_by_cause(rows, is_running=False) == {"killed": 2, "preempted": 2}
    assert stops_by_cause([*rows, END], is_running=False) == {"killed": 1, "preempted": 2}
    assert stops_by_cause([], is_running=False) == {}
    assert stops_by_cause([START, END], is_running=False) == {}


def test_what_is_no_attempt_counts_for_nothing_and_a_cause_that_is_no_word_is_unknown():
    """Whatever was written there, it goes to a terminal."""
    odd = [{"event": "other"}, {}, {"cause": "killed"}]
    rows = [{"event": "end", "cause": cause} for cause in ("\x1b[31m", ["list"], 7)]
    assert stops_by_cause([*odd, *rows], is_running=False) == {"unknown": 3}


def test_the_most_frequent_stop_is_named_first():
    assert name_stops({"bug": 1, "killed": 3, "data": 1}) == "3 killed, 1 bug, 1 data"
    assert name_stops({}) == ""
