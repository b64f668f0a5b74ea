"""What ranks share: the windows of a batch, each once, in one order whatever their number."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from train.config.experiment import BudgetConfig, OptimizerConfig
from train.config.runtime import MachineConfig
from train.config.schema import Config
from train.data.prepare import prepare
from train.data.shards import open_dataset
from train.distributed import World
from train.engine.batches import Batches
from train.engine.device import ComputeDevice
from train.errors import ConfigError
from train.plan.batch_split import refuse_study, refuse_uneven
from train.plan.planning import PlannedRun
from train.plan.validate import validate


def planned(
    make_config: Callable[..., Config], batch_seqs: int, micro: int | None = None
) -> PlannedRun:
    config = make_config(
        optimizer=OptimizerConfig(lr=0.01, batch_tokens=32 * batch_seqs),
        budget=BudgetConfig(tokens=10 * 32 * batch_seqs),
        machine=MachineConfig(micro_batch_seqs=micro),
    )
    return PlannedRun(overrides=[], config=config, plan=validate(config))


@pytest.mark.parametrize(("batch_seqs", "size"), [(8, 2), (8, 8), (9, 3), (7, 1)])
def test_an_even_batch_is_shared(
    make_config: Callable[..., Config], batch_seqs: int, size: int
) -> None:
    refuse_uneven([planned(make_config, batch_seqs)], World(size=size))


@pytest.mark.parametrize(
    ("batch_seqs", "size", "message"),
    [
        (6, 4, "its 6 windows of 32 tokens cannot be shared evenly by 4 processes; use 128 or 256"),
        (3, 4, "its 3 windows of 32 tokens cannot be shared evenly by 4 processes; use 128, or 1 "),
        (6, 4, ", or 2 processes"),
        (7, 2, "; use 192 or 256, or 1 process"),
    ],
)
def test_an_uneven_batch_is_refused_with_the_nearest(
    make_config: Callable[..., Config], batch_seqs: int, size: int, message: str
) -> None:
    run = planned(make_config, batch_seqs)
    with pytest.raises(ConfigError, match=re.escape(message)) as refused:
        refuse_uneven([planned(make_config, size), run], World(size=size))
    assert str(refused.value).startswith(f"optimizer.batch_tokens={32 * batch_seqs}: ")


def test_a_micro_batch_must_divide_a_share(make_config: Callable[..., Config]) -> None:
    refuse_uneven([planned(make_config, 8, micro=4)], World(size=2))
    refuse_uneven([planned(make_config, 8, micro=8)], World())
    message = (
        "machine.micro_batch_seqs=8 does not divide the 4 windows that each of 2 processes takes "
        "of the batch; use 4"
    )
    with pytest.raises(ConfigError, match=f"^{message}$"):
        refuse_uneven([planned(make_config, 8, micro=8)], World(size=2))


def test_a_study_is_launched_by_one_process() -> None:
    refuse_study(World())
    message = (
        "a study is launched by one process, not 8: start it without torchrun; torchrun trains "
        "one job"
    )
    with pytest.raises(ConfigError, match=f"^{message}$"):
        refuse_study(World(rank=0, size=8))


@pytest.mark.parametrize("size", [2, 4, 8])
def test_the_windows_of_all_ranks_in_turn_are_those_of_one(
    make_config: Callable[..., Config], size: int
) -> None:
    config = make_config()
    dataset = open_dataset(prepare(config.data, Path(config.paths.data)))

    def starts(world: World) -> np.ndarray:
        compute = ComputeDevice(torch.device("cpu"), "cpu")
        batches = Batches(dataset, compute, seeds=[0, 7], batch_seqs=8, seq_len=32, world=world)
        assert batches.batch_seqs == 8 // world.size
        assert batches.empty().shape == (2, 8 // world.size, 33)
        return batches.starts(5, 3)

    whole_SRB = starts(World())
    assert whole_SRB.shape == (3, 2, 8)
    parts = [starts(World(rank=rank, size=size)) for rank in range(size)]
    assert np.array_equal(np.concatenate(parts, axis=2), whole_SRB)
