"""A run's state against its lock and its heartbeat; a damaged folder is described, not raised."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from train.run_folder.accounting import read_cost
from train.run_folder.run_folder import RunFolder
from train.storage import lock
from train.storage.records import append_jsonl, write_json
from train.study.run_status import STALE_SECONDS, RunStatus, run_status

ENTRY: Mapping[str, Any] = {
    "run_id": "d8l2-a",
    "plan": {"rung": "d8l2", "steps": 40, "flops": 6_000},
}


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "d8l2-a")
    folder.path.mkdir()
    return folder


def status_of(folder: RunFolder) -> RunStatus:
    return run_status(folder.path.parent, ENTRY)


def beat(folder: RunFolder, *, seconds_ago: float, **facts: object) -> None:
    """A status as it was written that long ago."""
    heartbeat = (datetime.now(UTC) - timedelta(seconds=seconds_ago)).isoformat(timespec="seconds")
    write_json(folder.status, {"state": "running", "step": 10, **facts, "heartbeat": heartbeat})


def test_a_run_without_a_folder_is_planned(tmp_path: Path) -> None:
    assert run_status(tmp_path, ENTRY) == RunStatus(
        run_id="d8l2-a",
        rung="d8l2",
        state="planned",
        reason="",
        step=0,
        total_steps=40,
        flops=6_000,
        seconds=0.0,
        loss=None,
        exit_code=None,
    )
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
def test_a_recorded_end_is_told(
    folder: RunFolder, state: str, facts: dict[str, Any], share: float, reason: str
) -> None:
    folder.write_status(state, **facts)
    append_jsonl(folder.evals, [{"step": 4, "loss": 3.0}, {"step": 9, "loss": 2.5}])
    status = status_of(folder)
    assert (status.state, status.share, status.loss) == (state, share, 2.5)
    assert status.reason.startswith(reason)
    assert "more" not in status.reason
    assert status.exit_code == facts.get("exit_code")
    assert status.seconds_left is None


def test_a_run_under_way_has_time_left_at_its_rate(folder: RunFolder) -> None:
    folder.write_status("running", step=10, seconds=2.0)
    with folder.locked():
        status = status_of(folder)
    assert (status.state, status.share, status.seconds_left) == ("running", 0.25, 6.0)


def test_a_run_that_no_process_holds_is_stale(folder: RunFolder) -> None:
    folder.write_status("running", step=10)
    assert status_of(folder).state == "stale"
    assert status_of(folder).seconds_left is None


def test_a_held_run_that_has_been_silent_for_long_is_said(folder: RunFolder) -> None:
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
    folder: RunFolder,
    monkeypatch: pytest.MonkeyPatch,
    host: str | None,
    seconds_ago: float,
    state: str,
) -> None:
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


def test_attempts_and_what_cut_them_short_are_counted(folder: RunFolder) -> None:
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
def test_replayed_rows_that_differ_are_said(
    folder: RunFolder, replayed: object, reason: str
) -> None:
    folder.write_status("completed", step=40)
    write_json(folder.result, {"replayed": replayed})
    assert status_of(folder).reason.startswith(reason)
    assert bool(status_of(folder).reason) == bool(reason)


def test_what_a_run_has_cost_is_told_by_its_result_or_else_by_its_status(
    folder: RunFolder,
) -> None:
    folder.write_status("running", step=10, cost={"flops_charged": 1})
    assert status_of(folder).cost == read_cost({}, {"cost": {"flops_charged": 1}}, {})
    write_json(folder.result, {"cost": {"flops_charged": 2}})
    folder.write_status("completed", step=40)
    assert status_of(folder).cost == read_cost({}, {}, {"cost": {"flops_charged": 2}})


GARBLED = ("{torn", "[]", "null", '"text"', "\x00\xff", "", '{"a": ' * 100_000)


@pytest.mark.parametrize("text", GARBLED)
@pytest.mark.parametrize("name", ["status.json", "result.json", "evals.jsonl", "attempts.jsonl"])
def test_a_damaged_file_is_named_and_hides_nothing(folder: RunFolder, name: str, text: str) -> None:
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
def test_a_folder_in_a_file_s_place_is_described(folder: RunFolder, name: str) -> None:
    folder.write_status("failed", reason="why", step=1)
    (folder.path / name).unlink(missing_ok=True)
    (folder.path / name).mkdir()
    status = status_of(folder)
    assert status.state == ("stale" if name == "status.json" else "failed")
    if name != "run.lock":
        assert f"{name}: cannot be read (Is a directory)" in status.reason


def test_a_file_in_the_folder_s_place_is_described(tmp_path: Path) -> None:
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
def test_values_of_the_wrong_kind_are_left_out(folder: RunFolder, facts: dict[str, Any]) -> None:
    write_json(folder.status, facts)
    append_jsonl(folder.evals, [{"loss": "low"}])
    status = status_of(folder)
    assert status.state == "stale"
    assert status.share == 0.0
    assert (status.loss, status.exit_code) == (None, None)
    assert ("no state we know" in status.reason) == (facts["state"] != "running")


def test_a_reason_cannot_steer_the_terminal(folder: RunFolder) -> None:
    folder.write_status("failed", reason="\x1b[2J\x07gone", step=0)
    assert status_of(folder).reason == "?[2J?gone"
