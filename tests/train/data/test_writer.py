import os
from pathlib import Path

import numpy as np
import pytest
from token_folders import build

from train.data.manifest import TRAIN, VALIDATION, read_manifest
from train.data.split import Encoded
from train.data.writer import SplitWriter
from train.errors import DataError


def test_ids_beyond_the_vocabulary_are_refused_at_write(tmp_path: Path) -> None:
    message = (
        r"token id 300 at position 17 of train-00000\.bin is not below vocab_size 256; use the "
        r"data\.vocab_size of the tokenizer"
    )
    with pytest.raises(DataError, match=message):
        build(tmp_path / "d", [1] * 17 + [300], [1])
    for wrapped in (65_536, 70_000, -1):  # astype(uint16) would make these look harmless
        with pytest.raises(DataError, match=f"token id {wrapped} at position 0"):
            build(tmp_path / "e", [wrapped], [1], vocab=65_536)


def test_a_split_is_cut_into_files_of_a_size_and_validation_is_one(tmp_path: Path) -> None:
    known = read_manifest(build(tmp_path / "d", list(range(10)), list(range(10)), shard=4))
    assert [(shard.name, shard.tokens, shard.bytes) for shard in known.shards] == [
        ("train-00000.bin", 4, 8),
        ("train-00001.bin", 4, 8),
        ("train-00002.bin", 2, 4),
        ("validation.bin", 10, 20),
    ]
    assert [known.splits[split].documents for split in (TRAIN, VALIDATION)] == [1, 1]


def test_a_file_is_on_disk_before_its_facts_are_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(os.fstat(number).st_size))
    with SplitWriter(tmp_path, TRAIN, vocab_size=70_000, shard_tokens=2) as writer:
        writer.write(Encoded(b"", 0, np.array([1, 65_536, 3]), 3))
        facts, _ = writer.finish()
    assert synced == [8, 4]
    assert [shard.tokens for shard in facts] == [2, 1]
