"""What ranks share: the windows of a batch, each once, in one order whatever their number."""

from pathlib import Path

import numpy as np
import pytest
import torch

from train.data.prepare import prepare
from train.data.shards import open_dataset
from train.distributed import World
from train.engine.batches import Batches
from train.engine.device import ComputeDevice


@pytest.mark.parametrize("size", [2, 4, 8])
def test_the_windows_of_all_ranks_in_turn_are_those_of_one(make_config, size):
    config = make_config()
    dataset = open_dataset(prepare(config.data, Path(config.paths.data)))

    def starts(world):
        compute = ComputeDevice(torch.device("cpu"), "cpu")
        batches = Batches(dataset, compute, seeds=[0, 7], batch_seqs=8, seq_len=32, world=world)
        assert batches.batch_seqs == 8 // world.size
        assert batches.empty().shape == (2, 8 // world.size, 33)
        return batches.starts(5, 3)

    whole_SRB = starts(World())
    assert whole_SRB.shape == (3, 2, 8)
    parts = [starts(World(rank=rank, size=size)) for rank in range(size)]
    assert np.array_equal(np.concatenate(parts, axis=2), whole_SRB)
