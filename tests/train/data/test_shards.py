import numpy as np
import pytest
from token_folders import build

from train.data.manifest import TRAIN, VALIDATION, dtype_name, read_manifest
from train.data.shards import open_dataset
from train.errors import DataError


def test_windows_read_across_shard_borders(tmp_path):
    train = list(range(100))
    dataset = open_dataset(build(tmp_path / "d", train, [1, 2, 3], shard=7))
    names = [shard.name for shard in dataset.manifest.of(TRAIN)]
    assert names == [f"train-{number:05d}.bin" for number in range(15)]
    starts = np.array([0, 5, 6, 7, 80])
    windows = dataset.windows(TRAIN, starts, 20)
    assert windows.dtype == np.int64
    assert windows.tolist() == [train[start : start + 20] for start in starts.tolist()]
    assert np.concatenate(dataset.shards(TRAIN)).tolist() == train
    assert np.concatenate(dataset.shards(VALIDATION)).tolist() == [1, 2, 3]


def test_totals_come_from_the_manifest(tmp_path):
    dataset = open_dataset(build(tmp_path / "d", [5] * 10, [6] * 4, vocab=70_000))
    assert dataset.n_tokens(TRAIN) == 10
    assert dataset.n_tokens(VALIDATION) == 4
    assert dataset.bytes_per_token(TRAIN) == 2.0
    assert dataset.manifest.dtype == "uint32"
    assert (dtype_name(65_536), dtype_name(65_537)) == ("uint16", "uint32")
    assert dataset.sha256 == read_manifest(tmp_path / "d").sha256


def test_identity_is_that_of_the_tokens(tmp_path):
    one = open_dataset(build(tmp_path / "one", [1, 2, 3], [4]))
    same = open_dataset(build(tmp_path / "same", [1, 2, 3], [4]))
    other = open_dataset(build(tmp_path / "other", [1, 2, 4], [4]))
    assert one.sha256 == same.sha256 != other.sha256


def test_a_window_outside_the_split_is_a_bug_in_the_caller(tmp_path):
    dataset = open_dataset(build(tmp_path / "d", list(range(10)), [1]))
    for start, length in ((-1, 5), (6, 5), (0, 11)):
        message = f"window at {start} of {length} tokens in train of 10"
        with pytest.raises(IndexError, match=message):
            dataset.windows(TRAIN, np.array([start]), length)


def test_a_split_shorter_than_a_window_is_refused(tmp_path):
    dataset = open_dataset(build(tmp_path / "d", list(range(10)), [1, 2]))
    message = "validation has 2 tokens, fewer than one window of 5; use data.seq_len=1 or less"
    with pytest.raises(DataError, match=message):
        dataset.refuse_shorter_than(5)
    dataset.refuse_shorter_than(2)
