"""Batches: a step's windows are the same for everyone who asks, and validation for every run."""

import math
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch

from train.data.prepare import prepare
from train.data.shards import Dataset, open_dataset
from train.distributed import World
from train.engine import batches as batches_module
from train.engine.batches import RESIDENT_SHARE, Batches, load_tokens
from train.engine.device import ComputeDevice

CPU = ComputeDevice(torch.device("cpu"), "cpu")
SEQ_LEN = 32


@pytest.fixture
def dataset(make_config):
    config = make_config()
    return open_dataset(prepare(config.data, Path(config.paths.data)))


def batches_of(dataset, *seeds, batch_seqs=8, world=None):
    return Batches(
        dataset, CPU, seeds=seeds or (0,), batch_seqs=batch_seqs, seq_len=SEQ_LEN, world=world
    )


def step_of(batches, step):
    """The windows of one step, (R, B, T + 1)."""
    windows_RBT = batches.empty()
    batches.gather(batches.starts(step, 1)[0], windows_RBT)
    return windows_RBT


def test_a_step_s_windows_are_those_of_the_text(dataset):
    windows_RBT = step_of(batches_of(dataset, 0, 1), 3)
    assert windows_RBT.shape == (2, 8, SEQ_LEN + 1)
    assert windows_RBT.dtype == torch.int64
    text = np.concatenate(dataset.shards("train")).tolist()
    whole = {tuple(text[at : at + SEQ_LEN + 1]) for at in range(0, len(text), SEQ_LEN)}
    assert all(tuple(window) in whole for window in windows_RBT.flatten(0, 1).tolist())


def test_a_replica_s_windows_depend_on_its_seed_and_the_step_alone(dataset):
    stack = batches_of(dataset, 3, 0, 3)
    for step in (5, 0, 7):  # what was read before has no say
        windows_RBT = step_of(stack, step)
    assert torch.equal(windows_RBT[0], step_of(batches_of(dataset, 3), 7)[0])
    assert torch.equal(windows_RBT[1], step_of(batches_of(dataset, 0), 7)[0])
    assert torch.equal(windows_RBT[0], windows_RBT[2])
    assert not torch.equal(windows_RBT[0], windows_RBT[1])
    assert not torch.equal(windows_RBT[0], step_of(stack, 8)[0])


def test_many_steps_starts_are_those_of_each(dataset):
    stack = batches_of(dataset, 3, 0)
    starts_SRB = stack.starts(5, 4)
    assert starts_SRB.shape == (4, 2, 8)
    for number, starts_RB in enumerate(starts_SRB):
        assert starts_RB.tolist() == stack.starts(5 + number, 1)[0].tolist()
        assert starts_RB[0].tolist() == batches_of(dataset, 3).starts(5 + number, 1)[0, 0].tolist()


def test_the_batch_size_cuts_one_order_into_steps(dataset):
    by_four, by_eight = (batches_of(dataset, batch_seqs=batch_seqs) for batch_seqs in (4, 8))
    assert by_four.starts(0, 6).ravel().tolist() == by_eight.starts(0, 3).ravel().tolist()


@pytest.mark.parametrize("size", [2, 4])
def test_ranks_share_a_batch_in_order(dataset, size):
    alone = batches_of(dataset, 3, 0)
    ranks = [batches_of(dataset, 3, 0, world=World(rank=r, size=size)) for r in range(size)]
    assert {batches.batch_seqs for batches in ranks} == {8 // size}
    shares = np.concatenate([batches.starts(2, 3) for batches in ranks], axis=2)
    assert shares.tolist() == alone.starts(2, 3).tolist()
    whole = torch.cat([step_of(batches, 2) for batches in ranks], dim=1)
    assert torch.equal(whole, step_of(alone, 2))


def validation_of(batches, tokens, max_seqs):
    batches.load_validation(tokens, max_seqs=max_seqs)
    return list(batches.validation)


def test_validation_is_the_first_tokens_end_to_end_however_it_is_cut(dataset):
    text = torch.from_numpy(np.concatenate(dataset.shards("validation")).astype(np.int64))
    for max_seqs in (1, 7, 32, 1000):
        cut = validation_of(batches_of(dataset, max_seqs), 1_024, max_seqs)
        windows = torch.cat(cut)
        assert windows[:, :-1].flatten().tolist() == text[:1_024].tolist()
        assert windows[:, 1:].flatten().tolist() == text[1:1_025].tolist()
        assert max(map(len, cut)) == min(max_seqs, 32)


@pytest.mark.parametrize(("tokens", "n_windows"), [(1, 1), (33, 1), (64, 2), (10**9, 124)])
def test_validation_has_whole_windows_at_least_one_at_most_all(dataset, tokens, n_windows):
    assert dataset.n_tokens("validation") == 4_000  # 124 windows of 32 and the tokens after them
    cut = validation_of(batches_of(dataset), tokens, 50)
    assert sum(map(len, cut)) == n_windows


class WideShards:
    """Two shards of ids on both sides of 2**15, as Dataset shows them."""

    dtype = np.dtype("<u2")

    def shards(self, split):
        assert split == "train"
        return [np.array([0, 32_767, 32_768], "<u2"), np.array([40_000, 65_535], "<u2")]

    def n_tokens(self, split):
        return sum(map(len, self.shards(split)))


class WidestShards(WideShards):
    """Ids of 32 bits."""

    dtype = np.dtype("<u4")

    def shards(self, split):
        return [np.array([0, 65_535, 65_536], "<u4"), np.array([100_000, 2**31 - 1], "<u4")]


def test_ids_above_half_the_width_survive_the_signed_tensor():
    resident = load_tokens(cast(Dataset, WideShards()), torch.device("cpu"))
    assert resident.dtype is torch.int16
    assert (resident.long() & 0xFFFF).tolist() == [0, 32_767, 32_768, 40_000, 65_535]


def test_resident_windows_are_those_of_the_shards(dataset):
    batches = batches_of(dataset, 3, 0)
    assert not batches.is_resident  # a CPU reads the shards, which are memory already
    expected = step_of(batches, 5)
    batches._tokens = load_tokens(dataset, CPU.device)
    starts_RB = torch.from_numpy(batches.starts(5, 1)[0])
    assert torch.equal(batches.resident_windows(starts_RB), expected)


def test_wide_ids_become_themselves_on_the_device(dataset):
    for shards in (WideShards(), WidestShards()):
        batches = batches_of(dataset)
        batches.offsets_T = torch.arange(2)
        batches._tokens = load_tokens(cast(Dataset, shards), CPU.device)
        ids = np.concatenate(shards.shards("train")).tolist()
        windows_RBT = batches.resident_windows(torch.tensor([[0, 3]]))
        assert windows_RBT.tolist() == [[ids[0:2], ids[3:5]]]


@pytest.mark.parametrize(("room", "is_resident"), [(1.0, True), (0.99, False)])
def test_tokens_go_to_a_gpu_where_their_share_of_its_memory_has_room(
    dataset, room, is_resident, monkeypatch
):
    n_bytes = dataset.n_tokens("train") * dataset.dtype.itemsize
    budget = math.ceil(room * n_bytes / RESIDENT_SHARE)
    monkeypatch.setattr(ComputeDevice, "memory_budget", lambda self: budget)
    monkeypatch.setattr(batches_module, "load_tokens", lambda dataset, device: torch.zeros(1))
    cuda = ComputeDevice(torch.device("cuda", 0), "pretended")
    assert (batches_module._resident_tokens(dataset, cuda) is not None) is is_resident
    assert batches_module._resident_tokens(dataset, CPU) is None
