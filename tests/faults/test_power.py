"""A power cut, on the disk of platter.py: what a run relies on later was synced before."""

import itertools
import shutil

import pytest

from faults.platter import Platter
from faults.runner import run_folder, run_here, start_steps
from faults.same_run import assert_same_run
from faults.spoil import crash
from train.errors import CheckpointError, StorageError
from train.run_folder import checkpoint
from train.run_folder.checkpoint import load_newest
from train.training import completion, loop, recording


@pytest.fixture
def platter(monkeypatch):
    made = Platter(monkeypatch)
    yield made
    made.close()


def cut_power(config, platter, monkeypatch):
    """Train until the power goes at step 18, after the evaluation of 15; leave what is left."""
    with monkeypatch.context() as patch:
        # nobody writes any more
        patch.setattr(completion, "record_end", lambda *words, **named: None)
        folder = crash(config, after=17)
    platter.restore(folder.path, folder.path.with_name("left"))
    shutil.rmtree(folder.path)
    folder.path.with_name("left").rename(folder.path)
    return folder


def test_a_power_cut_loses_no_committed_checkpoint_and_no_row_before_it(
    tiny, platter, monkeypatch, reference_run
):
    folder = cut_power(tiny(), platter, monkeypatch)
    run_here(tiny())
    assert start_steps(folder) == [0, 14]
    assert_same_run(reference_run, folder)


def test_at_every_sync_the_last_checkpoint_that_was_committed_can_be_loaded(
    tiny, platter, monkeypatch, tmp_path
):
    """Writing and pruning included: four checkpoints, of which two are kept."""
    config = tiny(budget__tokens=28 * 256)
    folder, committed, moments = run_folder(config), [0], itertools.count()

    def look(*words):
        left = tmp_path / "left" / str(next(moments))
        platter.restore(folder.checkpoints, left)
        found = load_newest(left)
        assert (found.step if found else 0) >= committed[-1]
        assert found is None or found.set_aside == ()

    def save(run, *words):
        recording.save(run, *words)
        committed.append(run.step)

    monkeypatch.setattr(loop, "save", save)
    platter.after_each_sync = lambda: look() if folder.checkpoints.exists() else None
    run_here(config)
    assert committed == [0, 7, 14, 21, 28]
    assert next(moments) > 20


def without(name, monkeypatch):
    real = checkpoint._fsync
    monkeypatch.setattr(
        checkpoint, "_fsync", lambda path: None if path.name == name else real(path)
    )


def test_control_without_the_sync_of_a_file_its_checkpoint_is_damaged(tiny, platter, monkeypatch):
    without("model.pt", monkeypatch)
    folder = cut_power(tiny(), platter, monkeypatch)
    with pytest.raises(CheckpointError, match=r"model\.pt is not what was written"):
        run_here(tiny())
    assert not list(folder.checkpoints.glob("step_*"))


def test_control_without_the_sync_of_their_folder_checkpoints_are_gone(tiny, platter, monkeypatch):
    without("checkpoints", monkeypatch)
    folder = cut_power(tiny(), platter, monkeypatch)
    assert list(folder.checkpoints.glob("step_*")) == []


def test_control_without_the_sync_of_rows_a_checkpoint_vouches_for_what_is_not_there(
    tiny, platter, monkeypatch
):
    real = recording.append_jsonl
    monkeypatch.setattr(
        recording, "append_jsonl", lambda path, rows, **named: real(path, rows, sync=False)
    )
    cut_power(tiny(), platter, monkeypatch)
    with pytest.raises(StorageError, match="rows are lost"):
        run_here(tiny())
