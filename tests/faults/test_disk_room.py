"""D3: a launch that could not keep its checkpoints is refused before anything is written."""

import errno
import os
import re
import shutil
from types import SimpleNamespace

import pytest
import torch

from faults.data_runs import SHORT, launch
from faults.runner import run_folder, run_here
from tests.builders import planned
from train.errors import StorageError
from train.plan.validate import validate
from train.storage.records import read_json
from train.study import preflight

PARAMS = 2 * 12 * 32**2 + 2 * 97 * 32 + 2 * 96 + 32
CHECKPOINT = 12 * PARAMS


@pytest.fixture
def config(tiny):
    return tiny(**SHORT)


def set_free(bytes_, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=bytes_))


def test_d3_a_launch_without_room_is_refused_and_writes_nothing(config, tmp_path, monkeypatch):
    set_free(3 * CHECKPOINT - 1, monkeypatch)
    message = (
        f"needs {3 * CHECKPOINT / 1e6:.3g} MB for 3 checkpoints of 12 bytes a parameter of "
        f"{validate(config).run_id} (machine.checkpoint_keep=2, and one more while it is written); "
        f"{(3 * CHECKPOINT - 1) / 1e6:.3g} MB are free in {tmp_path}"
    )
    with pytest.raises(StorageError, match=re.escape(message)) as caught:
        launch(config)
    assert caught.value.exit_code == 3
    assert list(tmp_path.iterdir()) == []
    set_free(3 * CHECKPOINT, monkeypatch)
    launch(config)


def test_d3_a_study_adds_up_what_its_runs_will_keep(tiny, monkeypatch):
    runs = [planned(tiny(seed=seed, machine__workers=2, **SHORT)) for seed in range(4)]
    set_free((4 * 2 + 2) * CHECKPOINT - 1, monkeypatch)
    with pytest.raises(StorageError, match=r"for 10 checkpoints .* of 4 unfinished runs"):
        preflight.preflight(runs)
    set_free((4 * 2 + 2) * CHECKPOINT, monkeypatch)
    preflight.preflight(runs)


def test_d3_what_is_finished_asks_for_nothing(config, monkeypatch):
    run_here(config)
    set_free(0, monkeypatch)
    launch(config)


def test_d3_twelve_bytes_a_parameter_are_what_a_checkpoint_has(config):
    """Besides what torch adds for names and alignment, tens of bytes for each of 66 tensors."""
    run_here(config)
    newest = max(run_folder(config).checkpoints.glob("step_*"))
    size = sum(path.stat().st_size for path in newest.iterdir())
    assert CHECKPOINT < size < CHECKPOINT + 100_000


def test_d3_control_unasked_the_run_dies_at_its_first_checkpoint(config, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    set_free(0, monkeypatch)
    monkeypatch.setattr(preflight, "refuse_full_disk", lambda _: None)
    monkeypatch.setattr(torch, "save", full)
    launch(config)
    with pytest.raises(StorageError, match="No space left on device"):
        run_here(config)
    assert read_json(run_folder(config).status)["step"] > 0  # work that is lost
