"""Which windows a step reads: whole epochs in a keyed order, reached from any step."""

import numpy as np
import pytest

from train.data import sampler
from train.errors import DataError

GOLDEN_FIRST = [496, 717, 54, 952, 57, 722, 53, 929]
GOLDEN_LATER = [730, 204, 270, 110, 212, 910, 959, 24]


def order(seed, windows, *, epoch=0):
    positions = np.arange(windows, dtype=np.uint64)
    key = sampler.epoch_key(seed, epoch)
    return sampler.permute(positions, size=windows, key=key).tolist()


@pytest.mark.parametrize("windows", [*range(1, 40), 1000, 4097, 65_536])
def test_every_window_comes_exactly_once_per_epoch(windows):
    assert sorted(order(3, windows)) == list(range(windows))


def starts_of(*, seed=0, step=0, n_steps=1, batch_seqs, n_tokens, seq_len):
    return sampler.segment_starts(
        seed=seed,
        step=step,
        n_steps=n_steps,
        batch_seqs=batch_seqs,
        n_tokens=n_tokens,
        seq_len=seq_len,
    )


def test_steps_cover_epochs_whatever_the_batch():
    # 10 windows, 3 epochs
    settings = {"seed": 1, "n_tokens": 10 * 7 + 1, "seq_len": 7}
    by_three = starts_of(n_steps=10, batch_seqs=3, **settings).ravel().tolist()
    assert by_three == starts_of(n_steps=6, batch_seqs=5, **settings).ravel().tolist()
    assert by_three == starts_of(n_steps=1, batch_seqs=30, **settings).ravel().tolist()
    for epoch in range(3):
        assert sorted(by_three[10 * epoch : 10 * epoch + 10]) == list(range(0, 70, 7))
    assert by_three[:10] != by_three[10:20]


def test_any_step_is_reached_without_the_ones_before():
    far = starts_of(seed=5, step=2**45, batch_seqs=8, n_tokens=2**40, seq_len=256)
    # offsets are 64-bit
    assert far.max() > 2**32
    assert (far % 256 == 0).all()
    assert (far + 257 <= 2**40).all()


@pytest.mark.parametrize("step", [0, 3, 17])
@pytest.mark.parametrize(("batch_seqs", "n_tokens"), [(1, 31), (4, 71), (25, 31), (8, 10_001)])
def test_a_segment_is_its_steps(step, batch_seqs, n_tokens):
    settings = {"seed": 4, "batch_seqs": batch_seqs, "n_tokens": n_tokens, "seq_len": 3}
    starts_SB = starts_of(step=step, n_steps=7, **settings)
    assert starts_SB.shape == (7, batch_seqs)
    assert starts_SB.dtype == np.int64
    for number, starts_B in enumerate(starts_SB):
        assert starts_B.tolist() == starts_of(step=step + number, **settings)[0].tolist()
    assert starts_of(step=step, n_steps=0, **settings).shape == (0, batch_seqs)


def test_a_window_never_reads_past_the_end():
    for n_tokens in range(11, 60):
        starts = starts_of(seed=2, batch_seqs=(n_tokens - 1) // 10, n_tokens=n_tokens, seq_len=10)
        assert starts.max() + 11 <= n_tokens


def test_order_is_golden():
    """Made by printing these calls; they change only with a change of data order (CHANGELOG)."""
    settings = {"batch_seqs": 8, "n_tokens": 100_001, "seq_len": 100}
    assert (starts_of(**settings)[0] // 100).tolist() == GOLDEN_FIRST
    assert (starts_of(seed=7, step=1000, **settings)[0] // 100).tolist() == GOLDEN_LATER


def test_order_looks_random():
    windows = 10_000
    images = np.array(order(0, windows))
    assert abs(np.corrcoef(np.arange(windows), images)[0, 1]) < 4 / np.sqrt(windows)
    assert abs(np.corrcoef(images[:-1], images[1:])[0, 1]) < 4 / np.sqrt(windows)
    # 1 expected
    assert (images == np.arange(windows)).sum() < 10
    # 2 expected
    assert (np.abs(np.diff(images)) == 1).sum() < 12
    pieces = np.histogram(images[:1000], bins=20, range=(0, windows))[0]
    # chi-squared, 19 degrees: 1 in 2000
    assert ((pieces - 50) ** 2 / 50).sum() < 46


def test_short_stretches_share_rows_no_more_than_chance():
    # 1024 windows are a grid of 32 x 32
    rows = 32
    pairs = 0
    for seed in range(400):
        images = np.array(order(seed, 1024))[:8] // rows
        pairs += sum(int((images[i + 1 :] == images[i]).sum()) for i in range(8))
    assert abs(pairs / 400 - 28 / rows * 31 / 32) < 0.2


def test_seeds_and_epochs_differ():
    orders = [order(seed, 1000, epoch=epoch) for seed in (0, 1, 2, 2**63) for epoch in (0, 1)]
    for index, one in enumerate(orders):
        for other in orders[:index]:
            # 1 expected
            assert sum(a == b for a, b in zip(one, other, strict=True)) < 10


def test_a_split_shorter_than_a_window_is_refused():
    with pytest.raises(DataError, match=r"256 tokens are fewer than one window of seq_len \+ 1"):
        starts_of(batch_seqs=1, n_tokens=256, seq_len=256)


def test_epochs_count_reads_of_each_window():
    assert sampler.epochs(1000, n_tokens=501, seq_len=100) == 2.0
    assert sampler.epochs(250, n_tokens=1050, seq_len=100) == 0.25
