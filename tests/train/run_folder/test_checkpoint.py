"""Checkpoints come back bit for bit, or not at all, and never run code."""

import json
import os

import pytest
from faults.damage import names
from faults.same_run import assert_equal_state

from tests.train.checkpoint_files import STATE, save
from tests.train.small_engines import make_engine
from train.errors import CheckpointError
from train.run_folder import checkpoint
from train.run_folder.checkpoint import SCHEMA, load_newest, save_checkpoint
from train.storage.records import read_json


@pytest.fixture
def root(tmp_path):
    return tmp_path / "checkpoints"


def test_model_optimiser_and_state_come_back_bit_for_bit(root):
    engine = make_engine()
    engine.advance(2)  # so that the moments are not zero
    model, optimizer = engine.replica_state(0)
    save_checkpoint(root, 700, model=model, optimizer=optimizer, state=STATE, keep=2)
    found = load_newest(root)
    assert found.step == 700
    assert_equal_state("model", found.model, model)
    assert_equal_state("optimizer", found.optimizer, optimizer)
    assert len(found.model) > 10
    assert found.optimizer["step"] == 2.0
    # floats to the last bit, -0.0 included
    assert json.dumps(found.state) == json.dumps(STATE)


def test_a_folder_holds_what_done_json_promises(root):
    folder = save(root, 700)
    assert folder.name == "step_00000700"
    assert names(folder) == ["DONE.json", "model.pt", "optim.pt", "state.json"]
    done = read_json(folder / "DONE.json")
    assert done["step"] == 700
    sizes = {name: facts["bytes"] for name, facts in done["files"].items()}
    assert sizes == {
        name: (folder / name).stat().st_size for name in ("model.pt", "optim.pt", "state.json")
    }


def test_nothing_saved_is_nothing_found(root):
    assert load_newest(root) is None
    root.mkdir()
    assert load_newest(root) is None


def test_the_newest_is_by_step_not_by_clock(root):
    for step in (100, 9, 20):
        save(root, step, keep=3)
    os.utime(root / "step_00000009")
    assert load_newest(root).step == 100


@pytest.mark.parametrize("keep", [2, 3])
def test_only_the_newest_are_kept(root, keep):
    for step in (10, 20, 30, 40):
        save(root, step, keep=keep)
    assert names(root) == [f"step_{step:08d}" for step in (10, 20, 30, 40)][-keep:]


def test_the_same_step_again_replaces_it(root):
    save(root, 10, value=1.0)
    save(root, 10, value=2.0)
    assert load_newest(root).model["w"].item() == 2.0
    assert names(root) == ["step_00000010"]


def test_a_write_that_was_cut_short_is_removed(root):
    save(root, 10)
    stale = root / "step_00000020.partial"
    stale.mkdir()
    (stale / "model.pt").write_bytes(b"half")
    assert load_newest(root).step == 10
    assert names(root) == ["step_00000010"]


def test_a_first_write_that_was_cut_short_is_a_fresh_start(root):
    (root / "step_00000020.partial").mkdir(parents=True)
    assert load_newest(root) is None
    assert names(root) == []


def test_a_write_goes_over_its_own_remains(root):
    stale = root / "step_00000020.partial"
    stale.mkdir(parents=True)
    (stale / "extra").write_bytes(b"x")
    assert names(save(root, 20)) == ["DONE.json", "model.pt", "optim.pt", "state.json"]


def test_another_schema_is_refused_and_left_where_it_is(root, monkeypatch):
    with monkeypatch.context() as other_version:
        other_version.setattr(checkpoint, "SCHEMA", SCHEMA + 1)
        save(root, 10)
    message = rf"step_00000010: has schema {SCHEMA + 1}, and this version reads {SCHEMA}; finish"
    with pytest.raises(CheckpointError, match=message):
        load_newest(root)
    assert names(root) == ["step_00000010"]


def test_a_name_of_more_than_eight_digits_is_a_step_too(root):
    save(root, 99_999_999, keep=3)
    save(root, 100_000_000, keep=3)
    assert load_newest(root).step == 100_000_000


def test_a_folder_of_another_name_is_nobody_s_checkpoint(root):
    save(root, 10)
    for name in ("step_5", "step_00000099.bak", "notes"):
        (root / name).mkdir()
    assert names(save(root, 20)) == ["DONE.json", "model.pt", "optim.pt", "state.json"]
    assert load_newest(root).step == 20
    assert {"step_5", "step_00000099.bak", "notes"} < set(names(root))


def test_an_error_that_is_not_the_disk_s_is_passed_on(root, monkeypatch):
    def fail(*args):
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr("train.run_folder.checkpoint._seal", fail)
    with pytest.raises(OSError, match="Invalid argument"):
        save(root, 10)
