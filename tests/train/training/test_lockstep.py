"""What rank 0 tells is enough to build its engine elsewhere; a full memory is not halved there."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed import HashStore

from train.config.experiment import Positions
from train.config.runtime import AttentionKernel, Dtype
from train.config.schema import Config
from train.data.prepare import prepare
from train.data.shards import open_dataset
from train.distributed import World
from train.engine.batches import Batches
from train.engine.compute_policy import Arithmetic
from train.engine.device import ComputeDevice
from train.engine.engine import Engine, Segment
from train.errors import DataError, DeviceMemoryError
from train.plan.planning import PlannedRun
from train.plan.validate import validate
from train.signals import StopRequest
from train.training.lockstep import Lockstep, _as_json, _build, _follow, _planned, build_engine

MakeConfig = Callable[..., Config]


def arithmetic(micro_batch_seqs: int = 4) -> Arithmetic:
    return Arithmetic(
        dtype=Dtype.fp32,
        attention=AttentionKernel.sdpa,
        compiled=False,
        micro_batch_seqs=micro_batch_seqs,
        eval_seqs=8,
    )


def lockstep_of(config: Config, world: World, micro_batch_seqs: int = 4) -> Lockstep:
    run = PlannedRun(overrides=[], config=config, plan=validate(config))
    dataset = open_dataset(prepare(config.data, Path(config.paths.data)))
    compute = ComputeDevice(torch.device("cpu"), "cpu")
    batches = Batches(dataset, compute, seeds=[0], batch_seqs=8, seq_len=32, world=world)
    engine = build_engine([run], compute, batches, arithmetic(micro_batch_seqs), world)
    return Lockstep(
        engine=engine, validation=batches.validation(64, max_seqs=8), bytes_per_token=1.0
    )


def full_memory(self: Engine, n_steps: int, **options: Any) -> Segment:
    raise torch.OutOfMemoryError("CUDA out of memory.")


def test_a_config_comes_out_of_json_as_it_went_in(make_config: MakeConfig) -> None:
    config = make_config(seed=3)
    config.model.positions = Positions.learned
    config.optimizer.lr = 0.1 + 0.2
    planned = _planned(json.loads(json.dumps(_as_json(config))))
    assert planned.config == config
    assert planned.plan == validate(config)


def test_what_is_told_builds_the_engine_of_one_that_trains_alone(make_config: MakeConfig) -> None:
    config = make_config()
    alone = lockstep_of(config, World())
    order = {
        "configs": [_as_json(config)],
        "data_sha256": open_dataset(prepare(config.data, Path(config.paths.data))).sha256,
        "arithmetic": arithmetic().facts(),
        "step": 3,
    }
    built = _build(json.loads(json.dumps(order)), World())
    assert built.engine.step == 3
    assert torch.equal(built.engine.rows_RP, alone.engine.rows_RP)
    assert built.engine.replicas == alone.engine.replicas
    assert built.engine.arithmetic == alone.engine.arithmetic
    alone.engine.step = 3
    assert built.advance(2, StopRequest()) == alone.advance(2, StopRequest())


def test_a_rank_does_what_it_is_told_in_its_order(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    monkeypatch.setattr(
        "train.training.lockstep._build", lambda order, world: lockstep_of(config, world)
    )
    monkeypatch.setattr(Lockstep, "warm_up", lambda self: done.append("warm_up"))
    monkeypatch.setattr(Lockstep, "evaluate", lambda self: done.append("evaluate"))
    monkeypatch.setattr(
        Lockstep, "advance", lambda self, n_steps, stop: done.append(f"advance {n_steps}")
    )
    config, told = make_config(), ["build", "warm_up", "advance", "evaluate", "advance", "over"]
    orders = iter([{"order": name, "n_steps": 5} for name in told])
    monkeypatch.setattr(World, "hear", lambda self: next(orders))
    _follow(World(), StopRequest())
    assert done == ["warm_up", "advance 5", "evaluate", "advance 5"]


def test_a_rank_with_other_data_than_rank_0_refuses(make_config: MakeConfig) -> None:
    config = make_config()
    folder = prepare(config.data, Path(config.paths.data))
    order = {"configs": [_as_json(config)], "data_sha256": "0" * 64}
    with pytest.raises(DataError, match=f"^{re.escape(str(folder))}: its tokens are not those"):
        _build(order, World())


@pytest.mark.parametrize(
    ("micro", "remedy"),
    [
        (4, "the same command continues with machine.micro_batch_seqs=2, the batch unchanged"),
        (1, "use a smaller model or data.seq_len, or devices with more memory"),
    ],
)
def test_a_memory_that_is_too_small_for_one_of_several_names_the_next_micro_batch(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, micro: int, remedy: str
) -> None:
    world = World(size=2, store=HashStore())
    lockstep = lockstep_of(make_config(), world, micro)
    monkeypatch.setattr(Engine, "advance", full_memory)
    message = f"{micro} windows at a time do not fit the memory; {remedy}"
    with pytest.raises(DeviceMemoryError, match=f"^{message}$"):
        lockstep.advance(1, StopRequest())
    assert world.is_broken


def test_alone_a_memory_that_is_too_small_is_told_as_torch_tells_it(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    lockstep = lockstep_of(make_config(), World())
    monkeypatch.setattr(Engine, "advance", full_memory)
    with pytest.raises(torch.OutOfMemoryError):
        lockstep.advance(1, StopRequest())
