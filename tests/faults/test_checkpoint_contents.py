"""What may be in a checkpoint: rows C7 and C8 of the fault catalogue.

C7 code, which is never run; C8 tied and viewed tensors, which cost their own bytes and no more.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from faults.conftest import tiny_config
from faults.damage import (
    NEWEST,
    PREVIOUS,
    copy_of,
    step_name,
    tensors,
    train_and_kill,
    vouch_again,
)
from faults.runner import run_folder, run_here, start_steps
from faults.same_run import assert_same_run
from train import checkpoint
from train.checkpoint import load_newest, save_checkpoint
from train.config import Config
from train.records import read_json
from train.rundir import RunFolder
from train.state_dict import tensor_bytes
from train.validate import validate


def most_bytes(n_bytes: int, *, n_tensors: int) -> int:
    """What torch.save may need for tensors of `n_bytes`: their names, sizes and alignment too."""
    return n_bytes + 1_000 + 400 * n_tensors


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory, prepared_data: Path) -> RunFolder:
    return train_and_kill(tiny_config(tmp_path_factory.mktemp("killed"), prepared_data))


class Exploit:
    """Unpickled by the usual means, it makes a file."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.canary,)


def with_code(killed: RunFolder, config: Config, file: str, canary: Path) -> RunFolder:
    """A run whose newest checkpoint has code in `file`, and hashes that vouch for it."""
    folder = copy_of(killed, config)
    newest = folder.checkpoints / step_name(NEWEST)
    torch.save({"w": Exploit(canary)}, newest / file)
    vouch_again(newest, NEWEST)
    return folder


@pytest.mark.parametrize("file", ["model.pt", "optim.pt"])
def test_c7_code_in_a_checkpoint_is_refused_and_not_run(
    killed: RunFolder,
    tiny: Callable[..., Config],
    tmp_path: Path,
    reference_run: RunFolder,
    file: str,
) -> None:
    config, canary = tiny(), tmp_path / "executed"
    folder = with_code(killed, config, file, canary)
    with pytest.warns(UserWarning, match="a damaged checkpoint is in bad/ now .*weights_only=True"):
        run_here(config)
    assert not canary.exists()
    assert start_steps(folder) == [0, PREVIOUS]
    reason = read_json(folder.checkpoints / "bad" / f"{step_name(NEWEST)}.json")["reason"]
    assert "weights_only" in reason
    assert_same_run(reference_run, folder)


def test_c7_control_the_usual_way_to_load_runs_the_code(
    killed: RunFolder, tiny: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, canary = tiny(), tmp_path / "executed"
    folder = with_code(killed, config, "model.pt", canary)
    real = vars(torch)["load"]
    monkeypatch.setattr("torch.load", lambda *a, **kw: real(*a, **{**kw, "weights_only": False}))
    assert load_newest(folder.checkpoints) is not None
    assert canary.exists()


def test_c8_a_tied_head_is_written_once_and_comes_back_tied(tiny: Callable[..., Config]) -> None:
    config = tiny(model__tie_head=True, budget__tokens=7 * 256)
    run_here(config)
    found = load_newest(run_folder(config).checkpoints)
    assert found is not None
    head, embedding = found.model["head.weight"], found.model["embedding.weight"]
    assert head.data_ptr() == embedding.data_ptr()
    total = 4 * validate(config).params.total
    assert tensor_bytes(found.model) == total
    size = (run_folder(config).checkpoints / step_name(7) / "model.pt").stat().st_size
    assert total < size < most_bytes(total, n_tensors=len(found.model))


def views_of_a_large_tensor() -> dict[str, Any]:
    stacked = torch.arange(400_000, dtype=torch.float32).view(4, 100_000)
    return {"one": stacked[1], "two": stacked[2][:50_000], "list": [stacked[3].view(10, 10_000)]}


def test_c8_a_view_is_written_without_the_rest_of_what_it_views(tmp_path: Path) -> None:
    views = views_of_a_large_tensor()
    folder = save_checkpoint(tmp_path, 1, model=views, optimizer={}, state={}, keep=2)
    needed = sum(tensor.nbytes for tensor in tensors(views))
    assert needed < (folder / "model.pt").stat().st_size < most_bytes(needed, n_tensors=3)
    found = load_newest(tmp_path)
    assert found is not None
    for before, after in zip(tensors(views), tensors(found.model), strict=True):
        assert torch.equal(before, after)


def test_c8_control_as_they_are_views_are_written_with_all_they_view(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "compact", lambda value: value)
    views = views_of_a_large_tensor()
    folder = save_checkpoint(tmp_path, 1, model=views, optimizer={}, state={}, keep=2)
    assert (folder / "model.pt").stat().st_size > 4 * 400_000


def test_c8_control_copied_one_by_one_tied_tensors_come_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        checkpoint, "compact", lambda value: {name: t.clone() for name, t in value.items()}
    )
    matrix = torch.ones(100, 100)
    folder = save_checkpoint(
        tmp_path, 1, model={"a": matrix, "b": matrix}, optimizer={}, state={}, keep=2
    )
    assert (folder / "model.pt").stat().st_size > 2 * matrix.nbytes
    found = load_newest(tmp_path)
    assert found is not None
    assert found.model["a"].data_ptr() != found.model["b"].data_ptr()
