"""Batches and the validation loss: the same tokens for everyone who asks for the same step."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor

from train.batches import Batches, load_tokens
from train.config import Config, ModelConfig
from train.data.prepare import prepare
from train.data.shards import Dataset, open_dataset
from train.device import ComputeDevice
from train.evaluate import evaluate
from train.model import Transformer
from train.shape import model_shape

MakeConfig = Callable[..., Config]
CPU = ComputeDevice(torch.device("cpu"), "cpu")
SEQ_LEN = 32


@pytest.fixture
def dataset(make_config: MakeConfig) -> Dataset:
    config = make_config()
    return open_dataset(prepare(config.data, Path(config.paths.data)))


def batches_of(dataset: Dataset, *, seed: int = 0, batch_seqs: int = 8) -> Batches:
    return Batches(dataset, CPU, seed=seed, batch_seqs=batch_seqs, seq_len=SEQ_LEN)


def windows(batches: list[tuple[Tensor, Tensor]]) -> Tensor:
    return torch.cat([tokens for tokens, _ in batches])


def test_targets_are_the_tokens_one_later(dataset: Dataset) -> None:
    tokens, targets = batches_of(dataset).train(3)
    assert tokens.shape == targets.shape == (8, SEQ_LEN)
    assert tokens.dtype == targets.dtype == torch.int64
    assert torch.equal(tokens[:, 1:], targets[:, :-1])
    text = np.concatenate(dataset.shards("train")).tolist()
    whole = {tuple(text[at : at + SEQ_LEN + 1]) for at in range(0, len(text), SEQ_LEN)}
    read = torch.cat((tokens, targets[:, -1:]), dim=1).tolist()
    assert all(tuple(window) in whole for window in read)  # windows of the text itself


def test_a_step_s_batch_depends_on_seed_and_step_alone(dataset: Dataset) -> None:
    one, other = batches_of(dataset), batches_of(dataset)
    for step in (5, 0, 3):
        one.train(step)  # what was read before has no say
    assert torch.equal(one.train(7)[0], other.train(7)[0])
    assert not torch.equal(one.train(7)[0], one.train(8)[0])
    assert not torch.equal(one.train(7)[0], batches_of(dataset, seed=1).train(7)[0])


def test_the_batch_size_cuts_one_order_into_steps(dataset: Dataset) -> None:
    by_four, by_eight = batches_of(dataset, batch_seqs=4), batches_of(dataset, batch_seqs=8)
    assert torch.equal(
        windows([by_four.train(step) for step in range(6)]),
        windows([by_eight.train(step) for step in range(3)]),
    )


def test_validation_is_the_first_tokens_end_to_end_however_it_is_cut(dataset: Dataset) -> None:
    text = torch.from_numpy(np.concatenate(dataset.shards("validation")).astype(np.int64))
    for max_seqs in (1, 7, 32, 1000):
        cut = batches_of(dataset, seed=max_seqs).validation(1_024, max_seqs=max_seqs)
        assert windows(cut).flatten().tolist() == text[:1_024].tolist()
        assert (
            torch.cat([targets for _, targets in cut]).flatten().tolist() == text[1:1025].tolist()
        )
        assert max(len(tokens) for tokens, _ in cut) == min(max_seqs, 32)


@pytest.mark.parametrize(("tokens", "n_windows"), [(1, 1), (33, 1), (64, 2), (10**9, 124)])
def test_validation_has_whole_windows_at_least_one_at_most_all(
    dataset: Dataset, tokens: int, n_windows: int
) -> None:
    assert dataset.n_tokens("validation") == 4_000  # 124 windows of 32 and the tokens after them
    assert len(windows(batches_of(dataset).validation(tokens, max_seqs=50))) == n_windows


def make_model() -> Transformer:
    shape = model_shape(ModelConfig(d_model=16), vocab_size=64, seq_len=SEQ_LEN)
    model = Transformer(shape)
    model.initialize(0)
    torch.nn.init.normal_(model.head.weight, 0.0, 0.3, generator=torch.Generator().manual_seed(1))
    return model


def test_the_validation_loss_weighs_tokens_not_batches(dataset: Dataset) -> None:
    model = make_model()
    whole = batches_of(dataset).validation(10**9, max_seqs=1000)
    uneven = batches_of(dataset).validation(10**9, max_seqs=50)  # 50, 50 and 24 windows
    assert [len(tokens) for tokens, _ in uneven] == [50, 50, 24]
    one = evaluate(model, whole, CPU, bytes_per_token=1.0)
    other = evaluate(model, uneven, CPU, bytes_per_token=1.0)
    assert one.loss == pytest.approx(model(*whole[0]).item(), abs=1e-9)
    assert other.loss == pytest.approx(one.loss, abs=1e-6)
    assert one.n_tokens == other.n_tokens == 124 * 32


def test_bits_per_byte_is_the_loss_over_ln_2_and_the_bytes(dataset: Dataset) -> None:
    measured = evaluate(
        make_model(), batches_of(dataset).validation(640, max_seqs=8), CPU, bytes_per_token=4.0
    )
    assert measured.bits_per_byte == pytest.approx(measured.loss / math.log(2) / 4.0, rel=1e-12)


def test_evaluation_learns_nothing(dataset: Dataset) -> None:
    model = make_model()
    evaluate(model, batches_of(dataset).validation(64, max_seqs=2), CPU, bytes_per_token=1.0)
    assert all(p.grad is None for p in model.parameters())


class WideShards:
    """Two shards of ids on both sides of 2**15, as Dataset shows them."""

    dtype = np.dtype("<u2")

    def shards(self, split: str) -> list[np.ndarray]:
        assert split == "train"
        return [np.array([0, 32_767, 32_768], "<u2"), np.array([40_000, 65_535], "<u2")]

    def n_tokens(self, split: str) -> int:
        return sum(map(len, self.shards(split)))


def test_ids_above_half_the_width_survive_the_signed_tensor() -> None:
    resident = load_tokens(cast(Dataset, WideShards()), torch.device("cpu"))
    assert resident.dtype is torch.int16
    assert (resident.long() & 0xFFFF).tolist() == [0, 32_767, 32_768, 40_000, 65_535]


def test_a_batch_of_resident_tokens_is_the_batch_of_the_shards(dataset: Dataset) -> None:
    gathered, resident = batches_of(dataset, seed=3), batches_of(dataset, seed=3)
    resident._resident = load_tokens(dataset, CPU.device)
    for ours, theirs in zip(resident.train(5), gathered.train(5), strict=True):
        assert torch.equal(ours, theirs)
