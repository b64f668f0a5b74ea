"""A damaged checkpoint is set aside with its reason, and the one before it used."""

import itertools
import re

import pytest
import torch
from faults.damage import DAMAGE, FILES, contents, flip_bit, names, vouch_again

from tests.train.checkpoint_files import save
from train.errors import CheckpointError
from train.run_folder.checkpoint import load_newest, save_checkpoint
from train.storage.records import read_json


@pytest.fixture
def root(tmp_path):
    return tmp_path / "checkpoints"


@pytest.mark.parametrize(
    ("damage", "name"),
    # DONE.json's last byte is a line break, without which it says the same
    sorted({*itertools.product(DAMAGE, FILES)} - {("one-byte-short", "DONE.json")}),
)
def test_a_damaged_newest_is_set_aside_by_name_and_the_one_before_it_used(root, damage, name):
    save(root, 10)
    newest = save(root, 20)
    DAMAGE[damage](newest / name)
    damaged = contents(newest)
    found = load_newest(root)
    assert (found.step, found.model["w"].item()) == (10, 10.0)
    assert names(root) == ["bad", "step_00000010"]
    assert names(root / "bad") == ["step_00000020", "step_00000020.json"]
    assert name in read_json(root / "bad" / "step_00000020.json")["reason"]
    # for whoever looks
    assert contents(root / "bad" / "step_00000020") == damaged


def test_a_damaged_step_that_is_damaged_again_replaces_the_one_in_bad(root):
    for _ in range(2):
        save(root, 10)
        flip_bit(save(root, 20) / "model.pt")
        assert load_newest(root) is not None
    assert names(root / "bad") == ["step_00000020", "step_00000020.json"]


def test_when_none_is_sound_the_run_does_not_start_from_zero(root):
    for step in (10, 20):
        flip_bit(save(root, step) / "model.pt")
    message = (
        rf"no usable checkpoint in {re.escape(str(root))}:\n  step_00000020: model\.pt is not "
    )
    with pytest.raises(CheckpointError, match=message) as refused:
        load_newest(root)
    assert refused.value.exit_code == 4
    assert "step_00000010: model.pt" in str(refused.value)
    with pytest.raises(CheckpointError, match=r"step_00000010: model\.pt is not "):  # nor again
        load_newest(root)
    assert names(root) == ["bad"]


def test_a_disk_that_fails_to_read_condemns_no_checkpoint(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, 5, model={}, optimizer={}, state={}, keep=2)

    def fail(*args, **kwargs):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr("train.run_folder.checkpoint.file_sha256", fail)
        with pytest.raises(OSError, match="Input/output error"):
            load_newest(tmp_path)
    assert load_newest(tmp_path).step == 5


def test_a_checkpoint_under_another_step_s_name_is_damage(root):
    save(root, 10)
    save(root, 20).rename(root / "step_00000030")
    assert load_newest(root).step == 10
    reason = read_json(root / "bad" / "step_00000030.json")["reason"]
    assert reason == "DONE.json is of step 20"


def test_tensors_that_are_no_state_dict_are_damage(root):
    save(root, 10)
    folder = save(root, 20)
    torch.save(torch.zeros(2), folder / "model.pt")
    vouch_again(folder, 20)
    assert load_newest(root).step == 10
    reason = read_json(root / "bad" / "step_00000020.json")["reason"]
    assert reason == "model.pt holds a Tensor, not a state dict"


def test_a_machine_that_is_out_of_memory_condemns_no_checkpoint(root, monkeypatch):
    save(root, 10)

    def refuse(*args, **kwargs):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "load", refuse)
        with pytest.raises(RuntimeError, match="can't allocate memory"):
            load_newest(root)
    assert names(root) == ["step_00000010"]
    assert load_newest(root).step == 10


def test_files_of_others_under_a_checkpoint_s_name_are_moved_away(root):
    save(root, 10)
    (root / "step_00000020").write_text("mine", encoding="utf-8")
    (root / "step_00000030.partial").write_text("mine", encoding="utf-8")
    found = load_newest(root)
    assert (found.step, len(found.set_aside)) == (10, 1)
    assert names(root) == ["bad", "step_00000010"]


def test_of_a_linked_checkpoint_the_link_alone_is_pruned(root, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    save(root, 10).rename(elsewhere)
    (root / "step_00000010").symlink_to(elsewhere)
    save(root, 20)
    save(root, 30)
    assert names(root) == ["step_00000020", "step_00000030"]
    assert "DONE.json" in names(elsewhere)


@pytest.mark.parametrize("note", ["{}", "{torn", '["x"]', None])
def test_what_is_in_bad_is_listed_whatever_its_note_says(root, note):
    (root / "bad" / "step_00000010").mkdir(parents=True)
    if note is not None:
        (root / "bad" / "step_00000010.json").write_text(note, encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"no usable checkpoint in .*\n  step_00000010: dam"):
        load_newest(root)
