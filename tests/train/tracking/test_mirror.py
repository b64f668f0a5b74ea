"""MirrorProcess: what it passes on, how long it waits, and that no process is left behind.

The process imports a fake wandb (tests/train/fake_wandb). Its own code is tested in
test_wandb_mirror.py, and with the real wandb in test_wandb_sdk.py.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.train.mirror_requests import calls_of, request, use_fake, wait_for
from train.tracking import mirror as module
from train.tracking.mirror import MirrorProcess


@pytest.fixture(autouse=True)
def calls(tmp_path, monkeypatch):
    return use_fake(tmp_path, monkeypatch)


def start(folder, **changes):
    return MirrorProcess(request(**changes), folder)


def process_of(mirror):
    return mirror._process


def first_call(path, kind):
    wait_for(lambda: calls_of(path, kind))
    return calls_of(path, kind)[0]


def is_alive(pid):
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def test_a_mirror_reports_its_mode_and_rows_and_repeats_itself(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n', encoding="utf-8")
    mirror = start(tmp_path, start_step=1)
    for _ in range(2):
        assert mirror.finish("completed", {}) == {"mode": "offline", "rows": 1}


def test_the_process_is_told_nothing_on_its_command_line_but_the_folder(tmp_path, calls):
    """wandb stores the command line of the process that loads it."""
    mirror = start(tmp_path, config={"secret": "canary"})
    first_call(calls, "init")
    line = Path(f"/proc/{process_of(mirror).pid}/cmdline").read_bytes()
    words = line.rstrip(b"\0").split(b"\0")
    assert words[1:] == [b"-P", b"-m", b"train.tracking.wandb_mirror", str(tmp_path).encode()]
    mirror.finish("completed", {})


def test_a_signal_to_the_trainer_s_group_does_not_reach_the_mirror(tmp_path):
    mirror = start(tmp_path)
    pid = process_of(mirror).pid
    assert os.getpgid(pid) == pid != os.getpgid(0)
    assert os.getsid(pid) == pid != os.getsid(0)
    mirror.finish("completed", {})


def test_a_hanging_worker_does_not_outlive_a_mirror_that_was_killed(tmp_path, calls, monkeypatch):
    monkeypatch.setenv("FAKE_WANDB_FAULTS", json.dumps({"init offline": "hang"}))
    mirror = start(tmp_path)
    worker = first_call(calls, "init")["pid"]
    os.kill(process_of(mirror).pid, signal.SIGKILL)
    process_of(mirror).wait(20)
    assert is_alive(worker)
    assert mirror.finish("completed", {})["mode"] == "off"
    wait_for(lambda: not is_alive(worker))


def test_a_mirror_that_is_stopped_is_killed_at_the_limit_with_its_worker(tmp_path, calls):
    mirror = start(tmp_path, limit_seconds=1.0)
    pid, worker = process_of(mirror).pid, first_call(calls, "init")["pid"]
    assert is_alive(worker)
    os.killpg(pid, signal.SIGSTOP)
    began = time.monotonic()
    report = mirror.finish("completed", {})
    assert report == {"mode": "off", "reason": "its process gave no answer in 1 s"}
    assert 0.9 < time.monotonic() - began < 10.0
    wait_for(lambda: not is_alive(pid) and not is_alive(worker))


def test_a_process_that_cannot_start_is_off_and_nothing_is_raised(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    report = start(tmp_path).finish("completed", {})
    assert report["mode"] == "off"
    assert "its process could not start" in report["reason"]


def test_a_request_larger_than_the_pipe_is_sent_whole(tmp_path, calls):
    files = [f"shard-{number}" for number in range(20_000)]
    mirror = start(tmp_path, config={"files": files})
    assert mirror.finish("completed", {}) == {"mode": "offline", "rows": 0}
    assert first_call(calls, "init")["words"]["config"] == {"files": files}


def test_a_process_that_does_not_read_costs_a_limited_time(tmp_path, monkeypatch):
    sleeper = tmp_path / "python"
    sleeper.write_text("#!/bin/sh\nexec sleep 60\n", encoding="utf-8")
    sleeper.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(sleeper))
    monkeypatch.setattr(module, "SEND_SECONDS", 0.3)
    began = time.monotonic()
    mirror = start(tmp_path, config={"files": "x" * 200_000})
    assert time.monotonic() - began < 10.0
    assert "did not read its request within 0.3 s" in mirror.finish("completed", {})["reason"]


def test_a_summary_that_is_not_json_is_off_and_nothing_is_raised(tmp_path):
    report = start(tmp_path).finish("completed", {"loss": object()})
    assert report["mode"] == "off"
    assert report["reason"].startswith("TypeError")
