"""Disks that are full at a row, and renames across devices: rows D2 and D5 of the catalogue."""

import errno
import json
import os
import shutil
import tempfile
from pathlib import Path

import pytest

from faults.damage import names, step_name
from faults.patches import at_step
from faults.runner import run_child, run_folder, run_here, start_steps
from faults.same_run import assert_same_run
from faults.test_disk import LimitToNow
from train.errors import RecordsError
from train.run_folder.checkpoint import save_checkpoint
from train.storage.records import read_jsonl
from train.training import resume


def fill_the_disk(config, *patches):
    """From step 19 on there is room for a row and a half."""
    full = LimitToNow(run_folder(config).metrics, room=300)
    return run_child(config, *patches, at_step(19, full))


def test_d2_a_row_torn_by_a_full_disk_is_written_again_whole(tiny, reference_run):
    config = tiny()
    outcome = fill_the_disk(config)
    assert outcome.exit_code == 3
    assert "metrics.jsonl: cannot be written or read" in outcome.stderr
    assert "Traceback" not in outcome.stderr
    folder = outcome.folder
    assert not folder.metrics.read_bytes().endswith(b"\n")  # torn indeed
    assert read_jsonl(folder.metrics)[-1]["step"] == 19
    assert folder.state() == "failed"
    run_here(config)
    assert start_steps(folder) == [0, 14]
    assert_same_run(reference_run, folder)  # every step once
    moved = [row["step"] for row in read_jsonl(folder.replayed) if row["file"] == "metrics.jsonl"]
    assert moved == [15, 16, 17, 18, 19]


def append_anyhow(path, rows, *, sync=False):
    """Instead of records.append_jsonl: what is there already is not looked at."""
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def test_d2_control_rows_that_are_not_set_aside_come_twice(tiny, monkeypatch):
    config = tiny()
    folder = fill_the_disk(config).folder
    monkeypatch.setattr(resume, "set_aside", lambda *values: 0)
    run_here(config)
    steps = [row["step"] for row in read_jsonl(folder.metrics)]
    assert len(steps) == 65
    assert len(set(steps)) == 60


def test_d2_control_a_row_glued_to_a_torn_one_cannot_be_read(tiny, monkeypatch):
    config = tiny()
    folder = fill_the_disk(config).folder
    monkeypatch.setattr(resume, "set_aside", lambda *values: 0)
    monkeypatch.setattr("train.training.recording.append_jsonl", append_anyhow)
    with pytest.raises(RecordsError, match="not JSON"):
        run_here(config)
    with pytest.raises(ValueError, match="not JSON"):
        read_jsonl(folder.metrics)


def refuse_other_devices(monkeypatch, here):
    """Let `here` be a file system of its own: a rename into it or out of it is EXDEV."""
    renames = []

    def checked(real):
        def rename(source, target, **options):
            pair = (Path(source), Path(target))
            if pair[0].is_relative_to(here) != pair[1].is_relative_to(here):
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), source, None, target)
            renames.append(pair)
            return real(source, target, **options)

        return rename

    for name in ("rename", "replace"):
        monkeypatch.setattr(os, name, checked(getattr(os, name)))
    return renames


def test_d5_all_that_is_renamed_was_made_beside_its_target(tiny, monkeypatch, reference_run):
    """Each folder of a run may be a mount of its own, but for the one that holds bad ones."""
    config = tiny()
    folder = run_folder(config)
    renames = refuse_other_devices(monkeypatch, folder.path)
    run_here(config)
    assert {(pair[0].parent, pair[1].parent) for pair in renames} == {
        (folder.path, folder.path),
        (folder.checkpoints, folder.checkpoints),
        *((partial := folder.checkpoints / f"{step_name(s)}.partial", partial) for s in SAVED),
    }
    assert_same_run(reference_run, folder)


SAVED = (*range(7, 60, 7), 60)
"""Steps of the tiny run's checkpoints."""


def save_in_the_system_s_folder(root, step, **values):
    """Instead of save_checkpoint: written where temporary files belong, then moved in place."""
    elsewhere = Path(tempfile.mkdtemp())
    try:
        written = save_checkpoint(elsewhere, step, **values)
        root.mkdir(exist_ok=True)
        return written.rename(root / written.name)
    finally:
        shutil.rmtree(elsewhere)


def test_d5_control_written_elsewhere_a_checkpoint_cannot_be_put_in_place(tiny, monkeypatch):
    config = tiny()
    refuse_other_devices(monkeypatch, run_folder(config).path)
    monkeypatch.setattr("train.training.recording.save_checkpoint", save_in_the_system_s_folder)
    with pytest.raises(OSError, match="Invalid cross-device link"):
        run_here(config)
    assert names(run_folder(config).checkpoints) == []
