"""D1: disks that are full at a checkpoint.

By a limit on the size of files, which the child sets for itself, and for real on a small tmpfs.
"""

import errno
import resource
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from faults.damage import names, step_name
from faults.patches import Kill, Replace, at_step
from faults.runner import run_child, run_folder, run_here, start_steps
from faults.same_run import assert_same_run
from train.config.runtime import OnSaveError
from train.errors import StorageError
from train.run_folder.checkpoint import load_newest, save_checkpoint
from train.storage.records import read_jsonl

TOO_SMALL = 64 << 10
"""Bytes: more than all records have, less than the weights."""


@dataclass(frozen=True)
class LimitFiles:
    """From here on no file of the process can grow beyond `n_bytes`; -1 lifts the limit."""

    n_bytes: int

    def __call__(self):
        """Set it; the kernel then cuts a write short and refuses the next."""
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.n_bytes, resource.RLIM_INFINITY))


@dataclass(frozen=True)
class LimitToNow:
    """From here on no file can grow more than `room` bytes beyond what `path` has now."""

    path: Path
    room: int

    def __call__(self):
        LimitFiles(self.path.stat().st_size + self.room)()


def test_d1_a_full_disk_stops_the_run_with_its_last_checkpoint_whole(tiny, reference_run):
    config = tiny()
    outcome = run_child(config, at_step(10, LimitFiles(TOO_SMALL)))
    assert outcome.exit_code == StorageError.exit_code == 3
    assert f"{step_name(14)}.partial: the checkpoint could not be written" in outcome.stderr
    assert "it needs 0.4 MB, and " in outcome.stderr
    assert " MB are free there" in outcome.stderr
    assert "Traceback" not in outcome.stderr
    folder = outcome.folder
    assert names(folder.checkpoints) == [step_name(7)]  # no stump
    assert (folder.state(), folder.read_status()["exit_code"]) == ("failed", 3)
    assert read_jsonl(folder.attempts)[-1]["cause"] == "storage"
    run_here(config)
    assert start_steps(folder) == [0, 7]
    assert_same_run(reference_run, folder)


@pytest.fixture
def small_disk(tmp_path):
    """Return a function that gives a tmpfs of this test's own a size, and returns its folder."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = False

    def resized(size):
        nonlocal mounted
        options = f"remount,size={size}" if mounted else f"size={size}"
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.strip()}")
        mounted = True
        return folder

    yield resized
    if mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.skipif(shutil.which("mount") is None, reason="there is no mount command")
@pytest.mark.parametrize("size", ["500k", "920k", "1160k"])
def test_d1_on_a_disk_that_is_really_full_nothing_committed_is_lost(
    tiny, small_disk, reference_run, size
):
    """The sizes end within the second checkpoint, and within each part of the third."""
    config = tiny(paths__runs=str(small_disk(size)))
    with pytest.raises(StorageError, match=r"needs 0\.4 MB, and 0\.[0-3] MB are free") as refused:
        run_here(config)
    assert refused.value.exit_code == 3
    folder = run_folder(config)
    kept = [step_name(7)] if size == "500k" else [step_name(7), step_name(14)]
    assert names(folder.checkpoints) == kept
    assert folder.state() == "failed"
    small_disk("16m")
    run_here(config)
    assert start_steps(folder) == [0, 7 * len(kept)]
    assert_same_run(reference_run, folder)


def test_d1_with_warnings_only_training_goes_on_through_a_full_disk(tiny, reference_run):
    config = tiny(machine__on_save_error=OnSaveError.warn)
    outcome = run_child(config, at_step(10, LimitFiles(TOO_SMALL)), at_step(40, LimitFiles(-1)))
    assert outcome.exit_code == 0, outcome.stderr
    for step in (14, 21, 28, 35):
        assert f"{step_name(step)}.partial: the checkpoint could not be written" in outcome.stderr
    assert outcome.stderr.count("training goes on without this checkpoint") == 4
    assert names(outcome.folder.checkpoints) == [step_name(56), step_name(60)]
    assert_same_run(reference_run, outcome.folder)


def test_d1_killed_while_the_disk_is_full_a_run_goes_on_from_what_was_kept(tiny, reference_run):
    config = tiny(machine__on_save_error=OnSaveError.warn)
    outcome = run_child(config, at_step(20, LimitFiles(TOO_SMALL)), at_step(37, Kill()))
    assert outcome.exit_code == -signal.SIGKILL
    assert names(outcome.folder.checkpoints) == [step_name(7), step_name(14)]
    run_here(config)
    assert start_steps(outcome.folder) == [0, 14]
    assert_same_run(reference_run, outcome.folder)


def not_told_apart(*values):
    """Instead of checkpoint._cannot_be_written."""


def test_d1_control_untranslated_it_is_a_traceback_and_leaves_a_stump(tiny):
    outcome = run_child(
        tiny(),
        Replace("train.run_folder.checkpoint:_cannot_be_written", not_told_apart),
        at_step(10, LimitFiles(TOO_SMALL)),
    )
    assert outcome.exit_code == 1
    assert "RuntimeError" in outcome.stderr  # not an OSError: torch's own way to say it
    assert names(outcome.folder.checkpoints) == [step_name(7), f"{step_name(14)}.partial"]


def prune_then_save(root, step, **values):
    """Instead of save_checkpoint: room is made first."""
    shutil.rmtree(root, ignore_errors=True)
    return save_checkpoint(root, step, **values)


def test_d1_control_pruned_before_the_new_one_is_whole_all_are_lost(tiny):
    config = tiny()
    outcome = run_child(
        config,
        Replace("train.training.recording:save_checkpoint", prune_then_save),
        at_step(10, LimitFiles(TOO_SMALL)),
    )
    assert outcome.exit_code == 3
    run_here(config)
    assert start_steps(outcome.folder) == [0, 0]


DISK_ERRORS = {
    "full": OSError(errno.ENOSPC, "No space left on device"),
    "quota": OSError(errno.EDQUOT, "Disk quota exceeded"),
    "failing": OSError(errno.EIO, "Input/output error"),
    "torch": RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0"),
}


@pytest.mark.parametrize("target", ["torch.save", "_seal", "_fsync", "write_json"])
@pytest.mark.parametrize("error", DISK_ERRORS)
def test_d1_whatever_the_disk_refuses_is_a_storage_error_and_leaves_no_stump(
    tmp_path, monkeypatch, target, error
):
    values = {"model": {"w": torch.ones(9)}, "optimizer": {}, "state": {}}
    save_checkpoint(tmp_path, 1, **values, keep=2)

    def refuse(*args, **kwargs):
        raise DISK_ERRORS[error]

    where = target if target.startswith("torch") else f"train.run_folder.checkpoint.{target}"
    with monkeypatch.context() as patched:
        patched.setattr(where, refuse)
        with pytest.raises(StorageError, match="could not be written"):
            save_checkpoint(tmp_path, 2, **values, keep=2)
    assert names(tmp_path) == [step_name(1)]
    assert load_newest(tmp_path).step == 1


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
    ],
)
def test_d1_a_device_that_fails_meanwhile_is_not_blamed_on_the_disk(tmp_path, monkeypatch, error):
    def fail(*args):
        raise error

    monkeypatch.setattr("torch.save", fail)
    with pytest.raises(RuntimeError) as raised:
        save_checkpoint(tmp_path, 2, model={}, optimizer={}, state={}, keep=2)
    assert raised.value is error
