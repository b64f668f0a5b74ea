"""Checkpoints come back bit for bit, or not at all, and never run code."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from train import checkpoint
from train.checkpoint import SCHEMA, load_newest, save_checkpoint
from train.config import OptimizerConfig
from train.errors import CheckpointError, StorageError
from train.optimizer import build_optimizer
from train.records import read_json, write_json
from train.state_dict import tensor_bytes

STATE = {
    "seconds": 0.1 + 0.2,
    "window": [[2.0**-1074, 1.7976931348623157e308], [1 / 3, -0.0]],
    "loss_train": None,
    "data_sha256": "ab",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints"


def trained_pair() -> tuple[nn.Module, torch.optim.Optimizer]:
    """A small model and its AdamW after two updates, so that the moments are not zero."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.LayerNorm(7))
    optimizer = build_optimizer(model, OptimizerConfig(), peak_lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.randn(3, 5)).square().sum().backward()
        optimizer.step()
    return model, optimizer


def save(root: Path, step: int, *, value: float | None = None, keep: int = 2) -> Path:
    weight = torch.tensor([float(step) if value is None else value])
    return save_checkpoint(
        root, step, model={"w": weight}, optimizer={"step": step}, state=STATE, keep=keep
    )


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def assert_same_bits(a: Any, b: Any) -> None:
    assert type(a) is type(b)
    if isinstance(a, Tensor):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        assert torch.equal(a.view(torch.uint8), b.view(torch.uint8)) if a.ndim else a == b
    elif isinstance(a, Mapping):
        assert list(a) == list(b)
        for key in a:
            assert_same_bits(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            assert_same_bits(one, other)
    else:
        assert a == b


def test_model_optimiser_and_state_come_back_bit_for_bit(root: Path) -> None:
    model, optimizer = trained_pair()
    save_checkpoint(
        root,
        700,
        model=model.state_dict(),
        optimizer=optimizer.state_dict(),
        state=STATE,
        keep=2,
    )
    found = load_newest(root)
    assert found is not None
    step, weights, moments, state = found.step, found.model, found.optimizer, found.state
    assert step == 700
    assert_same_bits(dict(weights), dict(model.state_dict()))
    assert_same_bits(moments, optimizer.state_dict())
    assert len(moments["state"]) == 4
    assert state == STATE
    assert json.dumps(state) == json.dumps(STATE)  # floats to the last bit, -0.0 included


def test_a_folder_holds_what_done_json_promises(root: Path) -> None:
    folder = save(root, 700)
    assert folder.name == "step_00000700"
    assert names(folder) == ["DONE.json", "model.pt", "optim.pt", "state.json"]
    done = read_json(folder / "DONE.json")
    assert done["step"] == 700
    sizes = {name: facts["bytes"] for name, facts in done["files"].items()}
    assert sizes == {
        name: (folder / name).stat().st_size for name in ("model.pt", "optim.pt", "state.json")
    }


def test_nothing_saved_is_nothing_found(root: Path) -> None:
    assert load_newest(root) is None
    root.mkdir()
    assert load_newest(root) is None


def test_the_newest_is_by_step_not_by_clock(root: Path) -> None:
    for step in (100, 9, 20):
        save(root, step, keep=3)
    os.utime(root / "step_00000009")
    found = load_newest(root)
    assert found is not None
    assert found.step == 100


@pytest.mark.parametrize("keep", [2, 3])
def test_only_the_newest_are_kept(root: Path, keep: int) -> None:
    for step in (10, 20, 30, 40):
        save(root, step, keep=keep)
    assert names(root) == [f"step_{step:08d}" for step in (10, 20, 30, 40)][-keep:]


def test_the_same_step_again_replaces_it(root: Path) -> None:
    save(root, 10, value=1.0)
    save(root, 10, value=2.0)
    found = load_newest(root)
    assert found is not None
    assert found.model["w"].item() == 2.0
    assert names(root) == ["step_00000010"]


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


DAMAGE = {"flipped": flip_a_byte, "truncated": truncate, "missing": Path.unlink}


@pytest.mark.parametrize("name", ["model.pt", "optim.pt", "state.json", "DONE.json"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_newest_is_set_aside_and_the_one_before_it_used(
    root: Path, name: str, damage: str
) -> None:
    save(root, 10)
    newest = save(root, 20)
    DAMAGE[damage](newest / name)
    found = load_newest(root)
    assert found is not None
    assert (found.step, found.model["w"].item()) == (10, 10.0)
    assert names(root) == ["bad", "step_00000010"]
    assert names(root / "bad") == ["step_00000020", "step_00000020.json"]
    assert read_json(root / "bad" / "step_00000020.json")["reason"]


def test_a_damaged_step_that_is_damaged_again_replaces_the_one_in_bad(root: Path) -> None:
    for _ in range(2):
        save(root, 10)
        flip_a_byte(save(root, 20) / "model.pt")
        assert load_newest(root) is not None
    assert names(root / "bad") == ["step_00000020", "step_00000020.json"]


def test_when_none_is_sound_the_run_does_not_start_from_zero(root: Path) -> None:
    for step in (10, 20):
        flip_a_byte(save(root, step) / "model.pt")
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


def test_a_write_that_was_cut_short_is_removed(root: Path) -> None:
    save(root, 10)
    stale = root / "step_00000020.partial"
    stale.mkdir()
    (stale / "model.pt").write_bytes(b"half")
    found = load_newest(root)
    assert found is not None
    assert found.step == 10
    assert names(root) == ["step_00000010"]


def test_a_first_write_that_was_cut_short_is_a_fresh_start(root: Path) -> None:
    (root / "step_00000020.partial").mkdir(parents=True)
    assert load_newest(root) is None
    assert names(root) == []


def test_a_write_goes_over_its_own_remains(root: Path) -> None:
    stale = root / "step_00000020.partial"
    stale.mkdir(parents=True)
    (stale / "extra").write_bytes(b"x")
    assert names(save(root, 20)) == ["DONE.json", "model.pt", "optim.pt", "state.json"]


class _Exploit:
    """Unpickled by the usual means, it would make a folder."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


def test_code_in_a_checkpoint_is_not_run(root: Path, tmp_path: Path) -> None:
    save(root, 10)
    folder = save(root, 20)
    target = tmp_path / "executed"
    torch.save({"w": _Exploit(target)}, folder / "model.pt")
    _promise_again(folder)
    found = load_newest(root)
    assert not target.exists()
    assert found is not None
    assert found.step == 10
    assert "mkdir" in read_json(root / "bad" / "step_00000020.json")["reason"]


def _promise_again(folder: Path) -> None:
    """Write a DONE.json that vouches for the files as they are, as an attacker would."""
    checkpoint._seal(folder, 20)


def test_a_full_disk_is_a_storage_error_and_leaves_the_older_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = nn.Linear(2, 2)
    values: dict[str, Any] = {"model": model.state_dict(), "optimizer": {}, "state": {}, "keep": 2}
    save_checkpoint(tmp_path, 5, **values)

    def full(value: object, path: Path) -> None:
        path.write_bytes(b"stump")
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(
        StorageError, match=r"unexpected pos.* it needs 0\.0 MB, and [\d.]+ MB are free"
    ) as refused:
        save_checkpoint(tmp_path, 10, **values)
    assert refused.value.exit_code == 3
    found = load_newest(tmp_path)
    assert found is not None
    assert found.step == 5
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000005"]


def test_a_disk_that_fails_to_read_condemns_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(tmp_path, 5, model={}, optimizer={}, state={}, keep=2)

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr("train.checkpoint._sha256", fail)
        with pytest.raises(OSError, match="Input/output error"):
            load_newest(tmp_path)
    found = load_newest(tmp_path)
    assert found is not None
    assert found.step == 5


@pytest.mark.parametrize("schema", [1, SCHEMA + 1])
def test_another_schema_is_refused_and_left_where_it_is(
    root: Path, monkeypatch: pytest.MonkeyPatch, schema: int
) -> None:
    with monkeypatch.context() as other_version:
        other_version.setattr(checkpoint, "SCHEMA", schema)
        folder = save(root, 10)
    if schema == 1:  # which had no hash of its own
        done = read_json(folder / "DONE.json")
        del done["sha256"]
        write_json(folder / "DONE.json", done)
    message = (
        rf"step_00000010: has schema {schema}, and this version reads {SCHEMA}; finish the run"
    )
    with pytest.raises(CheckpointError, match=message):
        load_newest(root)
    assert names(root) == ["step_00000010"]


def test_a_checkpoint_under_another_step_s_name_is_damage(root: Path) -> None:
    save(root, 10)
    save(root, 20).rename(root / "step_00000030")
    found = load_newest(root)
    assert found is not None
    assert found.step == 10
    reason = read_json(root / "bad" / "step_00000030.json")["reason"]
    assert reason == "DONE.json is of step 20"


def test_tensors_that_are_no_state_dict_are_damage(root: Path) -> None:
    save(root, 10)
    folder = save(root, 20)
    torch.save(torch.zeros(2), folder / "model.pt")
    _promise_again(folder)
    found = load_newest(root)
    assert found is not None
    assert found.step == 10
    reason = read_json(root / "bad" / "step_00000020.json")["reason"]
    assert reason == "model.pt holds a Tensor, not a state dict"


def test_a_view_is_saved_without_what_it_views(root: Path) -> None:
    large = torch.arange(2**20, dtype=torch.float32)
    folder = save_checkpoint(
        root, 10, model={"w": large[7:9]}, optimizer={"state": [large[:3]]}, state={}, keep=2
    )
    assert (folder / "model.pt").stat().st_size < 4_000
    assert (folder / "optim.pt").stat().st_size < 4_000
    found = load_newest(root)
    assert found is not None
    assert found.model["w"].tolist() == [7.0, 8.0]
    assert found.optimizer["state"][0].tolist() == [0.0, 1.0, 2.0]


def test_tied_tensors_are_saved_once_and_come_back_tied(root: Path) -> None:
    weight = torch.ones(1_000)
    folder = save_checkpoint(
        root, 10, model={"a": weight, "b": weight}, optimizer={}, state={}, keep=2
    )
    assert tensor_bytes({"a": weight, "b": [weight]}) == 4_000
    assert 4_000 < (folder / "model.pt").stat().st_size < 6_500
    found = load_newest(root)
    assert found is not None
    found.model["a"][0] = 5.0
    assert found.model["b"][0] == 5.0


def test_tied_views_come_back_tied(root: Path) -> None:
    large = torch.arange(2**20, dtype=torch.float32)
    values = {"a": large[5:9], "b": large[5:9], "c": large[6:9]}
    save_checkpoint(root, 10, model=values, optimizer={}, state={}, keep=2)
    found = load_newest(root)
    assert found is not None
    found.model["a"][1] = -1.0
    assert found.model["b"].tolist() == [5.0, -1.0, 7.0, 8.0]
    assert found.model["c"].tolist() == [6.0, 7.0, 8.0]


def test_a_name_of_more_than_eight_digits_is_a_step_too(root: Path) -> None:
    save(root, 99_999_999, keep=3)
    save(root, 100_000_000, keep=3)
    found = load_newest(root)
    assert found is not None
    assert found.step == 100_000_000


def test_a_folder_of_another_name_is_nobody_s_checkpoint(root: Path) -> None:
    save(root, 10)
    for name in ("step_5", "step_00000099.bak", "notes"):
        (root / name).mkdir()
    assert names(save(root, 20)) == ["DONE.json", "model.pt", "optim.pt", "state.json"]
    found = load_newest(root)
    assert found is not None
    assert found.step == 20
    assert {"step_5", "step_00000099.bak", "notes"} < set(names(root))


def test_an_error_that_is_not_the_disk_s_is_passed_on(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr("train.checkpoint._seal", fail)
    with pytest.raises(OSError, match="Invalid argument"):
        save(root, 10)


def test_a_machine_that_is_out_of_memory_condemns_no_checkpoint(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(root, 10)

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "load", refuse)
        with pytest.raises(RuntimeError, match="can't allocate memory"):
            load_newest(root)
    assert names(root) == ["step_00000010"]
    found = load_newest(root)
    assert found is not None
    assert found.step == 10


def test_files_of_others_under_a_checkpoint_s_name_are_moved_away(root: Path) -> None:
    save(root, 10)
    (root / "step_00000020").write_text("mine", encoding="utf-8")
    (root / "step_00000030.partial").write_text("mine", encoding="utf-8")
    found = load_newest(root)
    assert found is not None
    assert (found.step, len(found.set_aside)) == (10, 1)
    assert names(root) == ["bad", "step_00000010"]


def test_of_a_linked_checkpoint_the_link_alone_is_pruned(root: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    save(root, 10).rename(elsewhere)
    (root / "step_00000010").symlink_to(elsewhere)
    save(root, 20)
    save(root, 30)
    assert names(root) == ["step_00000020", "step_00000030"]
    assert "DONE.json" in names(elsewhere)


@pytest.mark.parametrize("note", ["{}", "{torn", '["x"]', None])
def test_what_is_in_bad_is_listed_whatever_its_note_says(root: Path, note: str | None) -> None:
    (root / "bad" / "step_00000010").mkdir(parents=True)
    if note is not None:
        (root / "bad" / "step_00000010.json").write_text(note, encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"no usable checkpoint in .*\n  step_00000010: dam"):
        load_newest(root)
