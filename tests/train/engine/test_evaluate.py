"""The validation loss: a mean over tokens, the same for a run in any stack or world."""

import math

import pytest
import torch

from tests.train.small_engines import SEQ_LEN, VOCAB, make_engine, replica, state_of
from train.config.runtime import Dtype
from train.distributed import World
from train.engine.evaluate import evaluate

PAIR = (replica(seed=0), replica(seed=1, lr=0.03))


def windows(*sizes):
    """One text's windows, in batches of these sizes."""
    generator = torch.Generator().manual_seed(0)
    whole = torch.randint(VOCAB, (sum(sizes), SEQ_LEN + 1), generator=generator)
    return list(whole.split(list(sizes)))


def trained(replicas=PAIR, **how):
    engine = make_engine(replicas, **how)
    engine.advance(5)
    return engine


def measure(engine, windows, *, bytes_per_token):
    """Evaluate on these windows."""
    engine.batches.validation, engine.batches.bytes_per_token = windows, bytes_per_token
    return evaluate(engine)


def test_the_loss_weighs_tokens_not_batches():
    engine = trained()
    whole = measure(engine, windows(124), bytes_per_token=1.0)
    uneven = measure(engine, windows(50, 50, 24), bytes_per_token=1.0)
    expected_R = engine.losses_on(windows(124)[0])
    assert [one.loss for one in whole] == pytest.approx(expected_R.tolist(), abs=1e-9)
    for one, other in zip(whole, uneven, strict=True):
        assert other.loss == pytest.approx(one.loss, abs=1e-6)
        assert one.n_tokens == other.n_tokens == 124 * SEQ_LEN
    assert whole[0].loss != whole[1].loss


@pytest.mark.parametrize("dtype", [Dtype.fp32, Dtype.bf16])
def test_a_replica_s_loss_has_the_bits_that_it_has_alone(dtype):
    stack = measure(trained(dtype=dtype), windows(20, 7), bytes_per_token=1.0)
    for one, measured in zip(PAIR, stack, strict=True):
        alone = measure(trained([one], dtype=dtype), windows(20, 7), bytes_per_token=1.0)
        assert alone == [measured]


def test_bits_per_byte_are_the_loss_over_ln_2_and_the_bytes():
    measured = measure(trained(), windows(8), bytes_per_token=4.0)
    for one in measured:
        assert one.bits_per_byte == pytest.approx(one.loss / math.log(2) / 4.0, rel=1e-12)


def test_an_evaluation_teaches_nothing():
    engine = trained()
    before = state_of(engine, 0)
    measure(engine, windows(4, 4), bytes_per_token=1.0)
    assert all(weight.grad is None for weight in engine.weights.values())
    assert all(torch.equal(value, before[name]) for name, value in state_of(engine, 0).items())


def test_ranks_measure_parts_that_add_up_to_the_loss_of_one(monkeypatch):
    engine = trained()
    expected = measure(engine, windows(5, 5, 5, 3), bytes_per_token=2.0)
    sums = []
    monkeypatch.setattr(World, "all_reduce", lambda self, total: sums.append(total.clone()))
    for rank in (0, 1):
        engine.world = World(rank=rank, size=2)
        measure(engine, windows(5, 5, 5, 3), bytes_per_token=2.0)
    losses = (sum(sums) / (18 * SEQ_LEN)).tolist()
    assert losses == pytest.approx([one.loss for one in expected], abs=1e-12)


def test_one_replica_s_nan_is_its_own():
    engine = trained()
    expected = measure(engine, windows(6), bytes_per_token=1.0)
    engine.weights["final_norm.gain"].data[0, 0] = math.nan
    measured = measure(engine, windows(6), bytes_per_token=1.0)
    assert math.isnan(measured[0].loss)
    assert measured[1] == expected[1]
