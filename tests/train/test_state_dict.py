"""What tensors weigh, and that ties survive while what is merely viewed is left out."""

from pathlib import Path

import pytest
import torch

from train.checkpoint import load_newest, save_checkpoint
from train.state_dict import tensor_bytes


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints"


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
