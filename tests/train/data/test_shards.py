import json
import os
from pathlib import Path

import numpy as np
import pytest

from train.data import token_file, verify
from train.data.manifest import (
    TRAIN,
    VALIDATION,
    Manifest,
    ShardFacts,
    SplitFacts,
    read_manifest,
    write_manifest,
)
from train.data.shards import open_dataset
from train.data.split import Encoded
from train.data.token_file import dtype_name
from train.data.writer import SplitWriter
from train.errors import DataError


def build(
    folder: Path, train: list[int], validation: list[int], *, vocab: int = 256, shard: int = 1 << 20
) -> Path:
    """Write a small prepared folder."""
    folder.mkdir(parents=True, exist_ok=True)
    files, splits = [], {}
    for split, ids in ((TRAIN, train), (VALIDATION, validation)):
        with SplitWriter(folder, split, vocab_size=vocab, shard_tokens=shard) as writer:
            writer.write(Encoded(b"", 0, np.array(ids, dtype=np.int64), 2 * len(ids)))
            written, splits[split] = writer.finish()
        files.extend(written)
    write_manifest(
        folder,
        Manifest(
            spec={}, dtype=dtype_name(vocab), vocab_size=vocab, tokenizer_sha256="t",
            shards=tuple(files), splits=splits, source={},
        ),
    )  # fmt: skip
    return folder


def test_windows_read_across_shard_borders(tmp_path: Path) -> None:
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


def test_totals_come_from_the_manifest(tmp_path: Path) -> None:
    dataset = open_dataset(build(tmp_path / "d", [5] * 10, [6] * 4, vocab=70_000))
    assert dataset.n_tokens(TRAIN) == 10
    assert dataset.n_tokens(VALIDATION) == 4
    assert dataset.bytes_per_token(TRAIN) == 2.0
    assert dataset.vocab_size == 70_000
    assert dataset.manifest.dtype == "uint32"
    assert dataset.sha256 == read_manifest(tmp_path / "d").sha256
    assert dataset.manifest.entropy_rate is None


def test_identity_is_that_of_the_tokens(tmp_path: Path) -> None:
    one = open_dataset(build(tmp_path / "one", [1, 2, 3], [4]))
    same = open_dataset(build(tmp_path / "same", [1, 2, 3], [4]))
    other = open_dataset(build(tmp_path / "other", [1, 2, 4], [4]))
    assert one.sha256 == same.sha256 != other.sha256


def test_offsets_beyond_32_bits_are_read_right(tmp_path: Path) -> None:
    total = 2**32 + 1000
    folder = build(tmp_path / "d", [9], [1])
    with (folder / "train-00000.bin").open("r+b") as file:  # sparse: no disk is used
        file.truncate(2 * total)
        for place, token in ((2**31 + 5, 11), (2**32 + 3, 12), (total - 1, 13)):
            file.seek(2 * place)
            file.write(token.to_bytes(2, "little"))
    value = json.loads((folder / "manifest.json").read_text())
    shard, held = value["shards"]
    value["shards"] = [{**shard, "tokens": total, "bytes": 2 * total}, held]
    value["splits"][TRAIN]["tokens"] = total
    facts = {key: value[key] for key in ("spec", "dtype", "vocab_size", "tokenizer_sha256")}
    write_manifest(
        folder,
        Manifest(
            **facts,
            shards=tuple(ShardFacts(**one) for one in value["shards"]),
            splits={name: SplitFacts(**one) for name, one in value["splits"].items()},
        ),
    )
    dataset = open_dataset(folder, verify=False)
    starts = np.array([2**31 + 4, 2**32 + 2, total - 3])
    assert dataset.windows(TRAIN, starts, 3).tolist() == [[0, 11, 0], [0, 12, 0], [0, 0, 13]]


def test_a_window_outside_the_split_is_our_mistake(tmp_path: Path) -> None:
    dataset = open_dataset(build(tmp_path / "d", list(range(10)), [1]))
    for start in (-1, 6):
        with pytest.raises(IndexError, match=f"window at {start} of 5 tokens in train of 10"):
            dataset.windows(TRAIN, np.array([start]), 5)


def test_a_split_shorter_than_a_window_is_refused(tmp_path: Path) -> None:
    dataset = open_dataset(build(tmp_path / "d", list(range(10)), [1, 2]))
    with pytest.raises(DataError, match="validation has 2 tokens, fewer than one window of 5"):
        dataset.windows(VALIDATION, np.array([0]), 5)


def test_an_unknown_split_is_refused_with_a_near_name(tmp_path: Path) -> None:
    dataset = open_dataset(build(tmp_path / "d", [1], [1]))
    with pytest.raises(DataError, match="no split 'valid'; did you mean validation"):
        dataset.n_tokens("valid")


def test_a_flipped_byte_is_found(tmp_path: Path) -> None:
    folder = build(tmp_path / "d", list(range(100)), [1])
    path = folder / "train-00000.bin"
    content = bytearray(path.read_bytes())
    content[50] ^= 1
    path.write_bytes(content)
    message = r"train-00000\.bin: expected sha256 \w{64}, got \w{64}; delete the folder .* again"
    with pytest.raises(DataError, match=message):
        open_dataset(folder)
    open_dataset(folder, verify=False)


def test_a_cut_file_is_found(tmp_path: Path) -> None:
    folder = build(tmp_path / "d", list(range(100)), [1])
    os.truncate(folder / "train-00000.bin", 198)
    with pytest.raises(DataError, match=r"train-00000\.bin: expected 200 bytes, got 198; delete"):
        open_dataset(folder)


def test_missing_and_extra_files_are_found(tmp_path: Path) -> None:
    folder = build(tmp_path / "d", list(range(100)), [1])
    (folder / "train-00007.bin").write_bytes(b"\0\0")
    with pytest.raises(DataError, match=r"train-00007\.bin is not in the manifest; delete"):
        open_dataset(folder)
    (folder / "train-00007.bin").unlink()
    (folder / "validation.bin").unlink()
    with pytest.raises(DataError, match=r"validation\.bin is missing; delete"):
        open_dataset(folder)


def test_ids_beyond_the_vocabulary_are_refused_at_write(tmp_path: Path) -> None:
    message = "token id 300 at position 17 of train-00000.bin is not below vocab_size 256"
    with pytest.raises(DataError, match=message):
        build(tmp_path / "d", [1] * 17 + [300], [1])
    for wrapped in (65_536, 70_000, -1):  # astype(uint16) would make these look harmless
        with pytest.raises(DataError, match=f"token id {wrapped} at position 0"):
            build(tmp_path / "e", [wrapped], [1], vocab=65_536)


def test_ids_beyond_the_vocabulary_are_refused_at_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_file, "BLOCK_TOKENS", 10)
    folder = build(tmp_path / "d", [1] * 17 + [300], [1], vocab=301)
    manifest = read_manifest(folder)
    facts = {name: getattr(manifest, name) for name in manifest.__dataclass_fields__}
    write_manifest(folder, Manifest(**{**facts, "vocab_size": 256}))
    message = "token id 300 at position 17 of train-00000.bin is not below vocab_size 256; delete"
    with pytest.raises(DataError, match=message):
        open_dataset(folder)


def test_files_that_passed_are_not_read_again_until_they_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = build(tmp_path / "d", list(range(100)), [1])
    open_dataset(folder)
    with monkeypatch.context() as patch:
        patch.setattr(verify, "_check_content", lambda *_: pytest.fail("read again"))
        open_dataset(folder)
    path = folder / "train-00000.bin"
    content = path.read_bytes()
    path.write_bytes(bytes(len(content)))
    os.utime(path, ns=(0, 0))
    with pytest.raises(DataError, match="expected sha256"):
        open_dataset(folder)


def test_a_damaged_memory_of_what_passed_only_costs_time(tmp_path: Path) -> None:
    folder = build(tmp_path / "d", [1], [1])
    (folder / "verified.json").write_text("{")
    assert open_dataset(folder).n_tokens(TRAIN) == 1


def test_damaged_manifests_are_named(tmp_path: Path) -> None:
    folder = build(tmp_path / "d", [1], [1])
    path = folder / "manifest.json"
    good = json.loads(path.read_text())
    for change, message in (
        ({"schema": 2}, "schema 2, expected 1"),
        ({"vocab_size": 257}, r"content hashes to \w+, recorded is \w+"),
        ({"shards": [{"name": "x"}]}, "not a manifest"),
        ({"splits": {}}, "not a manifest"),
    ):
        path.write_text(json.dumps({**good, **change}))
        with pytest.raises(DataError, match=rf"manifest\.json: {message}.*; delete the folder"):
            open_dataset(folder)
    path.write_text("[")
    with pytest.raises(DataError, match=r"manifest\.json: not JSON .*; delete the folder"):
        open_dataset(folder)
    path.unlink()
    with pytest.raises(DataError, match=r"manifest\.json is missing; delete the folder"):
        open_dataset(folder)


def test_an_unknown_dtype_is_refused(tmp_path: Path) -> None:
    folder = build(tmp_path / "d", [1], [1])
    manifest = read_manifest(folder)
    facts = {name: getattr(manifest, name) for name in manifest.__dataclass_fields__}
    write_manifest(folder, Manifest(**{**facts, "dtype": "float16"}))
    with pytest.raises(DataError, match="unknown dtype 'float16', expected uint16 or uint32"):
        open_dataset(folder)


def test_dtype_is_the_narrowest_that_holds_all_ids() -> None:
    assert dtype_name(65_536) == "uint16"
    assert dtype_name(65_537) == "uint32"
