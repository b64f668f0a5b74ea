"""L1 to L4: one process trains a run, whatever the file system and whoever dies."""

import contextlib
import errno
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from faults.patches import EVERY, At, Fail, Hold, Replace, at_step
from faults.runner import run_child, run_here, start_steps
from faults.same_run import assert_same_run
from tests.builders import planned
from train.errors import ConfigError, LockedError
from train.run_folder.manifest import read_manifest, register_runs
from train.storage import lock
from train.storage.lock import hold, is_held, read_holder
from train.storage.records import read_jsonl

NO_FLOCK = At("fcntl:flock", Fail(OSError(errno.ENOLCK, "No locks available")), call=EVERY)
"""A file system without locks, for a whole process."""

REPO = Path(__file__).resolve().parents[2]
STEP = 20


@contextlib.contextmanager
def held_by_all(path, **options):
    del options
    path.parent.mkdir(parents=True, exist_ok=True)
    yield


NO_LOCK = Replace("train.run_folder.run_folder:hold", held_by_all)


def stopped_at(tiny, started, gate, *patches):
    """A child that trains the run and stands still after STEP updates, until the gate goes."""
    child = started(tiny(), *patches, at_step(STEP + 1, Hold(gate)))
    child.wait_for(gate.exists)
    return child


def test_l1_a_second_start_ends_with_73_and_the_first_is_unharmed(
    tiny, started, reference_run, tmp_path
):
    gate = tmp_path / "gate"
    first = stopped_at(tiny, started, gate)
    folder = first.folder
    before = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    second = run_child(tiny())
    assert second.exit_code == LockedError.exit_code == 73, second
    assert second.seconds < 20.0
    assert re.search(
        rf"error: {re.escape(str(folder.path))}: process {first.pid} on "
        rf"{re.escape(socket.gethostname())} \(since \S+, \d+ s ago\) is training this run\n",
        second.stderr,
    )
    assert "Traceback" not in second.stderr
    assert {path: path.read_bytes() for path in before} == before
    gate.unlink()
    assert first.wait().exit_code == 0
    assert_same_run(reference_run, folder)
    assert start_steps(folder) == [0]


def test_l1_control_without_the_lock_two_processes_write_one_run(
    tiny, started, reference_run, tmp_path
):
    gate = tmp_path / "gate"
    first = stopped_at(tiny, started, gate, NO_LOCK)
    assert run_child(tiny(), NO_LOCK).exit_code == 0
    gate.unlink()
    first.wait()
    steps = [row["step"] for row in read_jsonl(first.folder.metrics)]
    assert len(steps) > len(set(steps))
    with pytest.raises(AssertionError):
        assert_same_run(reference_run, first.folder)


def test_l2_a_killed_holder_frees_the_run_at_once(tiny, started, reference_run, tmp_path):
    first = stopped_at(tiny, started, tmp_path / "gate")
    assert first.folder.is_locked()
    os.kill(first.pid, signal.SIGKILL)
    assert first.wait().exit_code == -signal.SIGKILL
    assert not first.folder.is_locked()
    with hold(first.folder.lock, task="is training this run", patience=0.0):
        pass  # without waiting
    assert_same_run(reference_run, run_here(tiny()))


HOLDER = """
import os, subprocess, sys, time
from pathlib import Path
from train.storage.lock import hold

path, child, inherits = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "True"
with hold(path, task="holds it"):
    for link in Path("/proc/self/fd").iterdir():
        if inherits and link.is_symlink() and os.path.realpath(link) == str(path):
            os.set_inheritable(int(link.name), True)
    if child == "started":
        subprocess.Popen(["sleep", "60"], close_fds=False)  # by the descriptors' own flags
    else:
        told, tell = os.pipe()
        if os.fork() == 0:
            os.write(tell, b"x")
            time.sleep(60)
        os.read(told, 1)  # it is past what it does after a fork
    print("held", flush=True)
    time.sleep(60)
"""


@contextlib.contextmanager
def orphan_of_a_killed_holder(path, child, *, inherits):
    """Hold `path` in a process that has a child, kill the process, and let the child live."""
    command = [sys.executable, "-c", HOLDER, str(path), child, str(inherits)]
    with subprocess.Popen(command, cwd=REPO, stdout=subprocess.PIPE, process_group=0) as holder:
        try:
            assert holder.stdout.readline() == b"held\n"
            assert is_held(path)
            holder.kill()
            holder.wait()
            os.killpg(holder.pid, 0)  # the child is there
            yield
        finally:
            os.killpg(holder.pid, signal.SIGKILL)


@pytest.mark.parametrize("child", ["started", "forked"])
def test_l2_a_child_that_outlives_the_holder_keeps_no_lock(tmp_path, child):
    with orphan_of_a_killed_holder(tmp_path / "run.lock", child, inherits=False):
        assert not is_held(tmp_path / "run.lock")


def test_l2_control_a_child_that_inherits_the_descriptor_keeps_the_lock(tmp_path):
    with orphan_of_a_killed_holder(tmp_path / "run.lock", "started", inherits=True):
        assert is_held(tmp_path / "run.lock")


def test_l3_without_flock_a_lease_does_the_same_and_says_so(tiny, started, reference_run, tmp_path):
    gate = tmp_path / "gate"
    first = stopped_at(tiny, started, gate, NO_FLOCK)
    assert first.folder.is_locked()
    holder = read_holder(first.folder.lock)
    assert holder.pid == first.pid
    second = run_child(tiny(), NO_FLOCK)
    assert second.exit_code == 73, second
    assert f"process {first.pid} on " in second.stderr
    first.kill()
    gate.unlink()
    first.wait()
    third = run_child(tiny(), NO_FLOCK)
    assert third.exit_code == 0, third
    assert third.stderr.count("the file system has no flock (No locks available)") == 1
    assert_same_run(reference_run, first.folder)
    assert not first.folder.lock.with_suffix(".lease").exists()


def without_fallback():
    lock.NO_FLOCK = frozenset()


def test_l3_control_without_the_lease_such_a_file_system_runs_nothing(tiny):
    outcome = run_child(tiny(), NO_FLOCK, without_fallback)
    assert outcome.exit_code == 3, outcome
    assert "cannot be written (No locks available)" in outcome.stderr


def runs_of(tiny, *seeds):
    return [planned(tiny(seed=seed)) for seed in seeds]


def test_l4_another_grid_is_refused_and_an_extension_renumbers_nothing(tiny, tmp_path):
    study = tmp_path / "runs" / "faults"
    register_runs(study, "faults", runs_of(tiny, 3, 1), extend=False)
    before = (study / "manifest.json").read_bytes()
    with pytest.raises(ConfigError, match="was planned with another grid; 2 of 3 runs are not in"):
        register_runs(study, "faults", runs_of(tiny, 0, 1, 2), extend=False)
    assert (study / "manifest.json").read_bytes() == before
    register_runs(study, "faults", runs_of(tiny, 0, 1, 2), extend=True)
    manifest = read_manifest(study)
    assert [run["science"]["seed"] for run in manifest["runs"]] == [3, 1, 0, 2]


def test_l4_control_a_writer_that_does_not_look_loses_the_other_grid(tiny, tmp_path, monkeypatch):
    study = tmp_path / "runs" / "faults"
    register_runs(study, "faults", runs_of(tiny, 3, 1), extend=False)
    monkeypatch.setattr("train.run_folder.manifest.read_manifest", lambda folder: None)
    register_runs(study, "faults", runs_of(tiny, 0, 1, 2), extend=False)
    monkeypatch.undo()
    manifest = read_manifest(study)
    assert 3 not in [run["science"]["seed"] for run in manifest["runs"]]


def test_l4_two_jobs_that_add_their_runs_at_once_lose_neither(tiny, tmp_path):
    """Jobs of scratch, or of a scheduler, register side by side."""
    study = tmp_path / "runs" / "scratch"
    register_runs(study, "scratch", runs_of(tiny, 0), extend=False)
    with hold(study / "manifest.lock", task="is writing its manifest"):
        threads = [
            threading.Thread(
                target=register_runs,
                args=(study, "scratch", runs_of(tiny, seed)),
                kwargs={"extend": False},
            )
            for seed in (1, 2, 3)
        ]
        for thread in threads:
            thread.start()
        time.sleep(0.7)  # longer than a start waits for a run
    for thread in threads:
        thread.join()
    manifest = read_manifest(study)
    assert sorted(run["science"]["seed"] for run in manifest["runs"]) == [0, 1, 2, 3]
