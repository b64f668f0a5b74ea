"""The mirror process from start to end: rows mirrored as they are written, trainers that die."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.train.mirror_requests import ENDING, calls_of, request, use_fake, wait_for
from train.storage.records import append_jsonl
from train.tracking import wandb_mirror


@pytest.fixture
def fake(tmp_path, monkeypatch):
    return use_fake(tmp_path, monkeypatch)


def write_rows(folder, *steps):
    append_jsonl(folder / "metrics.jsonl", [{"step": step, "loss": 1.0} for step in steps])


def start_process(folder):
    return subprocess.Popen(
        [sys.executable, "-m", "train.tracking.wandb_mirror", str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(wandb_mirror.__file__).parents[1],
    )


def as_line(value):
    content = value if isinstance(value, dict) else vars(value)
    return json.dumps(content).encode() + b"\n"


def test_rows_are_mirrored_while_the_run_goes_on_and_the_rest_at_its_end(tmp_path, fake):
    write_rows(tmp_path, 1, 2)
    with start_process(tmp_path) as process:
        process.stdin.write(as_line(request()))
        process.stdin.flush()
        wait_for(lambda: len(calls_of(fake, "log")) == 2)
        write_rows(tmp_path, 3)
        wait_for(lambda: len(calls_of(fake, "log")) == 3)
        write_rows(tmp_path, 4)
        answer, _ = process.communicate(as_line(ENDING), timeout=20)
    # nothing that wandb prints
    assert json.loads(answer) == {"mode": "offline", "rows": 4}
    assert len(calls_of(fake, "log")) == 4


@pytest.mark.parametrize("last_words", [b"", b'{"state": "comp'])
def test_a_trainer_that_was_killed_leaves_a_complete_mirror_marked_killed(
    tmp_path, fake, last_words
):
    write_rows(tmp_path, 1)
    with start_process(tmp_path) as process:
        process.stdin.write(as_line(request()))
        process.stdin.flush()
        wait_for(lambda: calls_of(fake, "log"))
        write_rows(tmp_path, 2, 3)
        process.communicate(last_words, timeout=20)
    assert process.returncode == 0
    assert len(calls_of(fake, "log")) == 3
    assert [call["values"] for call in calls_of(fake, "summary")] == [{"state": "killed"}]
    assert calls_of(fake, "finish")[0]["named"] == {"exit_code": 1}


def test_a_hanging_wandb_does_not_outlive_a_trainer_that_was_killed(tmp_path, fake, monkeypatch):
    monkeypatch.setenv("FAKE_WANDB_FAULTS", json.dumps({"log 1": "hang"}))
    write_rows(tmp_path, 1)
    with start_process(tmp_path) as process:
        process.stdin.write(as_line(request(limit_seconds=1.0)))
        process.stdin.flush()
        wait_for(lambda: calls_of(fake, "log"))
        began = time.monotonic()
        process.communicate(b"", timeout=20)
    assert 0.8 < time.monotonic() - began < 12.0
    with pytest.raises(ProcessLookupError):
        os.kill(calls_of(fake, "init")[0]["pid"], 0)


def test_a_trainer_that_is_gone_is_noticed_although_a_child_of_it_holds_the_pipe(tmp_path, fake):
    """A forked child keeps the pipe's other end open: only the parent's number changes."""
    write_rows(tmp_path, 1)
    code = (
        "import os, subprocess, sys\n"
        "read, write = os.pipe()\n"
        "os.set_inheritable(write, True)\n"
        "command = [sys.executable, '-m', 'train.tracking.wandb_mirror', sys.argv[1]]\n"
        "mirror = subprocess.Popen(command,"
        " stdin=read, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)\n"
        "line = sys.argv[2].replace('0000', str(os.getpid()))\n"
        "os.write(write, line.encode() + b'\\n')\n"
        "null = subprocess.DEVNULL\n"
        "holder = subprocess.Popen(['sleep', '60'], close_fds=False, stdout=null, stderr=null)\n"
        "print(mirror.pid, holder.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    asked = json.dumps({**vars(request()), "trainer_pid": "0000"}).replace('"0000"', "0000")
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), asked],
        cwd=Path(wandb_mirror.__file__).parents[1],
        capture_output=True,
        check=False,
        timeout=20,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == -signal.SIGKILL
    mirror, holder = map(int, done.stdout.split())
    try:
        wait_for(lambda: calls_of(fake, "finish"))
        # the child still holds the pipe
        os.kill(holder, 0)
        assert [call["values"] for call in calls_of(fake, "summary")] == [{"state": "killed"}]
    finally:
        os.kill(holder, signal.SIGKILL)
    assert mirror != holder


def test_a_mirror_that_is_asked_for_nothing_ends_without_a_word(tmp_path):
    with start_process(tmp_path) as process:
        answer, _ = process.communicate(b"", timeout=20)
    assert (process.returncode, answer) == (0, b"")
    assert list(tmp_path.iterdir()) == []
