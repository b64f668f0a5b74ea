"""Which windows a step reads: whole epochs in a keyed order, reached from any step."""

import numpy as np
import pytest

from train.data import sampler
from train.errors import DataError

GOLDEN_FIRST = [496, 717, 54, 952, 57, 722, 53, 929]
GOLDEN_LATER = [730, 204, 270, 110, 212, 910, 959, 24]


def order(seed: int, windows: int, *, epoch: int = 0) -> list[int]:
    positions = np.arange(windows, dtype=np.uint64)
    key = sampler.epoch_key(seed, epoch)
    return sampler.permute(positions, size=windows, key=key).tolist()


@pytest.mark.parametrize("windows", [*range(1, 40), 1000, 4097, 65_536])
def test_every_window_comes_exactly_once_per_epoch(windows: int) -> None:
    assert sorted(order(3, windows)) == list(range(windows))


def test_steps_cover_epochs_whatever_the_batch() -> None:
    n_tokens, seq_len = 10 * 7 + 1, 7  # 10 windows
    by_three = [
        start
        for step in range(10)
        for start in sampler.window_starts(
            seed=1, step=step, batch_seqs=3, n_tokens=n_tokens, seq_len=seq_len
        )
    ]
    by_five = [
        start
        for step in range(6)
        for start in sampler.window_starts(
            seed=1, step=step, batch_seqs=5, n_tokens=n_tokens, seq_len=seq_len
        )
    ]
    assert by_three == by_five
    for epoch in range(3):
        assert sorted(by_three[10 * epoch : 10 * epoch + 10]) == list(range(0, 70, 7))
    assert by_three[:10] != by_three[10:20]


def test_a_batch_larger_than_several_epochs_straddles_them() -> None:
    starts = sampler.window_starts(seed=0, step=0, batch_seqs=25, n_tokens=31, seq_len=3)
    assert sorted(starts[:10]) == sorted(starts[10:20]) == list(range(0, 30, 3))


def test_any_step_is_reached_without_the_ones_before() -> None:
    settings = {"seed": 5, "batch_seqs": 8, "n_tokens": 2**40, "seq_len": 256}
    far = sampler.window_starts(step=2**45, **settings)
    assert far.tolist() == sampler.window_starts(step=2**45, **settings).tolist()
    assert far.max() > 2**32  # offsets are 64-bit
    assert (far % 256 == 0).all()
    assert (far + 257 <= 2**40).all()


@pytest.mark.parametrize("step", [0, 3, 17])
@pytest.mark.parametrize(("batch_seqs", "n_tokens"), [(1, 31), (4, 71), (25, 31), (8, 10_001)])
def test_a_segment_is_its_steps(step: int, batch_seqs: int, n_tokens: int) -> None:
    settings = {"seed": 4, "batch_seqs": batch_seqs, "n_tokens": n_tokens, "seq_len": 3}
    starts_SB = sampler.segment_starts(step=step, n_steps=7, **settings)
    assert starts_SB.shape == (7, batch_seqs)
    assert starts_SB.dtype == np.int64
    for number, starts_B in enumerate(starts_SB):
        alone = sampler.window_starts(step=step + number, **settings)
        assert starts_B.tolist() == alone.tolist()


def test_a_segment_of_no_steps_is_empty() -> None:
    starts_SB = sampler.segment_starts(
        seed=0, step=5, n_steps=0, batch_seqs=4, n_tokens=71, seq_len=3
    )
    assert starts_SB.shape == (0, 4)


def test_a_segment_over_an_epoch_s_end_takes_up_the_next_one_s_order() -> None:
    starts = sampler.segment_starts(
        seed=1, step=0, n_steps=6, batch_seqs=5, n_tokens=10 * 7 + 1, seq_len=7
    ).ravel()  # 10 windows, 3 epochs
    epochs = [sorted(starts[at : at + 10]) for at in (0, 10, 20)]
    assert epochs == [list(range(0, 70, 7))] * 3
    assert starts[:10].tolist() != starts[10:20].tolist()


def test_a_window_never_reads_past_the_end() -> None:
    for n_tokens in range(11, 60):
        starts = sampler.window_starts(
            seed=2, step=0, batch_seqs=(n_tokens - 1) // 10, n_tokens=n_tokens, seq_len=10
        )
        assert starts.max() + 11 <= n_tokens


def test_order_is_golden() -> None:
    """Made by printing these calls; they change only with a change of data order (CHANGELOG)."""
    starts = sampler.window_starts(seed=0, step=0, batch_seqs=8, n_tokens=100_001, seq_len=100)
    assert (starts // 100).tolist() == GOLDEN_FIRST
    starts = sampler.window_starts(seed=7, step=1000, batch_seqs=8, n_tokens=100_001, seq_len=100)
    assert (starts // 100).tolist() == GOLDEN_LATER


def test_order_looks_random() -> None:
    windows = 10_000
    images = np.array(order(0, windows))
    assert abs(np.corrcoef(np.arange(windows), images)[0, 1]) < 4 / np.sqrt(windows)
    assert abs(np.corrcoef(images[:-1], images[1:])[0, 1]) < 4 / np.sqrt(windows)
    assert (images == np.arange(windows)).sum() < 10  # 1 expected
    assert (np.abs(np.diff(images)) == 1).sum() < 12  # 2 expected
    pieces = np.histogram(images[:1000], bins=20, range=(0, windows))[0]
    assert ((pieces - 50) ** 2 / 50).sum() < 46  # chi-squared, 19 degrees: 1 in 2000


def test_short_stretches_share_rows_no_more_than_chance() -> None:
    rows = 32  # 1024 windows are a grid of 32 x 32
    pairs = 0
    for seed in range(400):
        images = np.array(order(seed, 1024))[:8] // rows
        pairs += sum(int((images[i + 1 :] == images[i]).sum()) for i in range(8))
    assert abs(pairs / 400 - 28 / rows * 31 / 32) < 0.2


def test_seeds_and_epochs_differ() -> None:
    orders = [order(seed, 1000, epoch=epoch) for seed in (0, 1, 2, 2**63) for epoch in (0, 1)]
    for index, one in enumerate(orders):
        for other in orders[:index]:
            assert sum(a == b for a, b in zip(one, other, strict=True)) < 10  # 1 expected


def test_a_split_shorter_than_a_window_is_refused() -> None:
    with pytest.raises(DataError, match=r"256 tokens are fewer than one window of seq_len \+ 1"):
        sampler.segment_starts(seed=0, step=0, n_steps=2, batch_seqs=1, n_tokens=256, seq_len=256)


def test_epochs_count_reads_of_each_window() -> None:
    assert sampler.epochs(1000, n_tokens=501, seq_len=100) == 2.0
    assert sampler.epochs(250, n_tokens=1050, seq_len=100) == 0.25
