"""Whatever stands in verified.json, the worst it can cause is that files are read again."""

import os
from pathlib import Path

import pytest
from token_folders import build

from train.data import verify
from train.data.manifest import TRAIN
from train.data.shards import open_dataset
from train.data.verified import DISJOINT, FILES, SHARDS, recall, remember, state_of
from train.errors import DataError
from train.storage.records import read_json

GARBLED = {
    "empty": b"",
    "cut": b"{",
    "a-list": b"[]",
    "a-number": b"7",
    "not-utf8": b'{"shards": "\xff\xfe"}',
    "sections-of-other-types": b'{"shards": 3, "files": [1], "disjoint": "yes"}',
    "facts-of-other-types": b'{"shards": {"train-00000.bin": {"size": 1}}, "disjoint": {"a": 1}}',
    "nested-facts": b'{"shards": {"train-00000.bin": [[[[]]]]}, "disjoint": {"manifest": [{}]}}',
    "nested-too-deeply": b'{"shards": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "nested-deeply": b'{"files": {"a": ' + b"[" * 900 + b"]" * 900 + b"}}",
    "a-huge-number": b'{"shards": {"train-00000.bin": [' + b"9" * 10_000 + b"]}}",
    "not-a-number": b'{"shards": {"train-00000.bin": [NaN, Infinity]}}',
    "null": b'{"shards": null}',
}


def test_sections_are_remembered_side_by_side(tmp_path: Path) -> None:
    remember(tmp_path, SHARDS, {"a.bin": [1, 2, "x"]})
    remember(tmp_path, FILES, {"b.txt": [3]})
    remember(tmp_path, SHARDS, {"c.bin": [4]})
    assert recall(tmp_path, SHARDS) == {"c.bin": [4]}
    assert recall(tmp_path, FILES) == {"b.txt": [3]}
    assert recall(tmp_path, DISJOINT) == {}


def test_nothing_is_recalled_of_a_folder_that_remembers_nothing(tmp_path: Path) -> None:
    assert recall(tmp_path / "absent", SHARDS) == {}


@pytest.mark.parametrize("content", GARBLED.values(), ids=GARBLED)
def test_a_garbled_memory_costs_a_verification_and_is_mended(
    tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = build(tmp_path / "d", [1, 0], [2, 0])
    read: list[str] = []
    real = verify._check_content
    monkeypatch.setattr(
        verify, "_check_content", lambda path, *rest: (read.append(path.name), real(path, *rest))
    )
    (folder / "verified.json").write_bytes(content)
    assert open_dataset(folder).n_tokens(TRAIN) == 2
    assert sorted(read) == ["train-00000.bin", "validation.bin"]
    assert set(read_json(folder / "verified.json")) == {SHARDS, FILES, DISJOINT}
    open_dataset(folder)
    assert len(read) == 2


@pytest.mark.parametrize("content", GARBLED.values(), ids=GARBLED)
def test_a_garbled_memory_hides_no_damage(tmp_path: Path, content: bytes) -> None:
    folder = build(tmp_path / "d", [1, 0], [2, 0])
    (folder / "verified.json").write_bytes(content)
    (folder / "validation.bin").write_bytes(b"\3\0\0\0")
    with pytest.raises(DataError, match=r"validation\.bin: expected sha256"):
        open_dataset(folder)


def test_a_folder_in_its_place_only_costs_time(tmp_path: Path) -> None:
    folder = build(tmp_path / "d", [1], [2])
    (folder / "verified.json").mkdir()
    assert open_dataset(folder).n_tokens(TRAIN) == 1
    assert (folder / "verified.json").is_dir()


def test_a_full_disk_only_costs_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = build(tmp_path / "d", [1], [2])

    def full(_: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    assert open_dataset(folder).n_tokens(TRAIN) == 1
    assert recall(folder, SHARDS) == {}


def test_the_state_of_a_file_is_its_size_and_time(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"123")
    os.utime(path, ns=(5, 7))
    assert state_of(path) == [3, 7]
