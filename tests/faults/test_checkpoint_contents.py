"""C7 and C8: code, tied tensors and views of larger ones in a checkpoint."""

from pathlib import Path

import torch

from faults.damage import NEWEST, PREVIOUS, step_name, vouch_again
from faults.runner import run_folder, run_here
from tests.builders import planned
from train.engine.engine import Engine
from train.plan.validate import validate
from train.run_folder.checkpoint import load_newest, save_checkpoint
from train.training.trainer import train_runs


def most_bytes(n_bytes, *, n_tensors):
    """What torch.save may need for tensors of `n_bytes`: their names, sizes and alignment too."""
    return n_bytes + 1_000 + 400 * n_tensors


class Exploit:
    """Unpickled by the usual means, it makes a file."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return Path.touch, (self.canary,)


def test_c7_code_with_valid_hashes_is_set_aside_and_not_run(stopped, tmp_path):
    _, folder = stopped
    newest = folder.checkpoints / step_name(NEWEST)
    torch.save({"w": Exploit(tmp_path / "executed")}, newest / "optim.pt")
    vouch_again(newest, NEWEST)
    assert load_newest(folder.checkpoints).step == PREVIOUS
    assert not (tmp_path / "executed").exists()


def saved_size(config, name):
    return (run_folder(config).checkpoints / step_name(7) / name).stat().st_size


def short(tiny, **changes):
    return tiny(budget__tokens=7 * 256, **changes)


def test_c8_a_tied_head_is_written_once_and_comes_back_tied(tiny, monkeypatch):
    config = short(tiny, model__tie_head=True)
    run_here(config)
    found = load_newest(run_folder(config).checkpoints)
    total = 4 * validate(config).params.total
    assert sum(tensor.nbytes for tensor in found.model.values()) == total
    assert total < saved_size(config, "model.pt") < most_bytes(total, n_tensors=len(found.model))
    engines = engines_of(short(tiny, model__tie_head=True, study__name="again"), monkeypatch)
    assert "head.weight" not in engines[0].weights  # the embedding is what makes the logits


def engines_of(config, monkeypatch):
    engines = []
    real = Engine.__init__

    def init(engine, *values, **named):
        engines.append(engine)
        real(engine, *values, **named)

    with monkeypatch.context() as patched:
        patched.setattr(Engine, "__init__", init)
        run_here(config)
    return engines


def test_c8_a_replica_is_written_without_its_row_and_without_its_neighbours(tiny):
    stack = [short(tiny, seed=seed) for seed in range(4)]
    train_runs([planned(config) for config in stack])
    needed = 4 * validate(stack[0]).params.total
    for config in stack:
        found = load_newest(run_folder(config).checkpoints)
        most = most_bytes(needed, n_tensors=len(found.model))
        assert needed < saved_size(config, "model.pt") < most
        moments = 2 * found.optimizer["exp_avg"].nbytes
        assert moments < saved_size(config, "optim.pt") < most_bytes(moments, n_tensors=3)


def test_c8_control_views_are_written_with_all_that_they_view(tiny, monkeypatch):
    def state(engine, replica):
        views = engine.layout.views(engine.rows_RP[replica : replica + 1])
        moments = {"exp_avg": engine.optimizer.exp_avg_RP[replica]}
        return views, moments

    monkeypatch.setattr(Engine, "replica_state", state)
    stack = [short(tiny, seed=seed) for seed in range(4)]
    train_runs([planned(config) for config in stack])
    needed = 4 * validate(stack[0]).params.total
    assert saved_size(stack[0], "model.pt") > 4 * needed
    assert saved_size(stack[0], "optim.pt") > 4 * needed


def test_c8_control_named_twice_a_tied_head_is_written_twice(tmp_path):
    matrix = torch.ones(100, 100)
    folder = save_checkpoint(
        tmp_path, 1, model={"a": matrix, "b": matrix.clone()}, optimizer={}, state={}, keep=2
    )
    assert (folder / "model.pt").stat().st_size > 2 * matrix.nbytes
