"""Shards and source files are checked against the manifest, once; the cache never hides damage.

What each damage is called is in tests/faults/test_data.py.
"""

import json
import os

import pytest
from token_folders import build as build_folder
from token_folders import of_files, rewrite_manifest

from train.data import build, verify
from train.data.manifest import TRAIN, read_manifest
from train.data.prepare import prepare
from train.data.shards import open_dataset
from train.data.verify import read_verdicts, save_verdicts
from train.errors import DataError, StorageError
from train.storage.records import read_json

# Shards


@pytest.fixture
def folder(tmp_path):
    return build_folder(tmp_path / "d", list(range(100)), [1])


@pytest.fixture
def read(monkeypatch):
    """Names of the shards that are read from here on."""
    names = []
    real = verify._check_content
    monkeypatch.setattr(
        verify, "_check_content", lambda path, *rest: (names.append(path.name), real(path, *rest))
    )
    return names


def test_ids_beyond_the_vocabulary_are_found_in_any_block(tmp_path, monkeypatch):
    monkeypatch.setattr(verify, "BLOCK_BYTES", 20)
    folder = build_folder(tmp_path / "d", [1] * 17 + [300], [1], vocab=301)
    rewrite_manifest(folder, vocab_size=256)
    message = "token id 300 at position 17 of train-00000.bin is not below vocab_size 256; delete"
    with pytest.raises(DataError, match=message):
        open_dataset(folder)


def test_shards_that_passed_are_not_read_again_until_they_change(folder, read):
    for _ in range(3):
        open_dataset(folder)
    assert read == ["train-00000.bin", "validation.bin"]
    path = folder / "train-00000.bin"
    path.write_bytes(bytes(path.stat().st_size))
    os.utime(path, ns=(0, 0))
    with pytest.raises(DataError, match="expected sha256"):
        open_dataset(folder)
    assert read[2:] == ["train-00000.bin"]


# The cache

GARBLED = {
    "empty": b"",
    "cut": b"{",
    "a-list": b"[]",
    "not-utf8": b'{"train-00000.bin": "\xff\xfe"}',
    "other-types": b'{"train-00000.bin": 3, "validation.bin": {"size": 1}}',
    "nested-deeply": b'{"validation.bin": ' + b"[" * 900 + b"]" * 900 + b"}",
    "nested-too-deeply": b'{"validation.bin": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "a-huge-number": b'{"validation.bin": [' + b"9" * 10_000 + b"]}",
    "not-a-number": b'{"validation.bin": [NaN, Infinity]}',
    "of-version-0.4": b'{"shards": {"validation.bin": [4, 0, "x", 256]}, "disjoint": {}}',
}


@pytest.mark.parametrize("content", GARBLED.values(), ids=GARBLED)
def test_a_garbled_cache_costs_a_verification_hides_no_damage_and_is_mended(folder, content, read):
    (folder / "verified.json").write_bytes(content)
    for _ in range(2):
        assert open_dataset(folder).n_tokens(TRAIN) == 100
    assert read == ["train-00000.bin", "validation.bin"]
    assert set(read_json(folder / "verified.json")) == set(read)
    (folder / "verified.json").write_bytes(content)
    (folder / "validation.bin").write_bytes(b"\3\0")
    with pytest.raises(DataError, match=r"validation\.bin: expected sha256"):
        open_dataset(folder)


def test_verdicts_are_added_to_those_before(tmp_path):
    assert read_verdicts(tmp_path / "absent") == {}
    save_verdicts(tmp_path, {"a.bin": [1, 2, "x"]})
    save_verdicts(tmp_path, {"b.txt": [3]})
    save_verdicts(tmp_path, {"a.bin": [4]})
    assert read_verdicts(tmp_path) == {"a.bin": [4], "b.txt": [3]}


def test_a_cache_that_cannot_be_written_only_costs_time(folder, monkeypatch):
    (folder / "verified.json").mkdir()
    assert open_dataset(folder).n_tokens(TRAIN) == 100
    (folder / "verified.json").rmdir()

    def full(_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    assert open_dataset(folder).n_tokens(TRAIN) == 100
    assert read_verdicts(folder) == {}


# Source files


def write(path, word):
    rows = [{"text": f"document {number} of {word}"} for number in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def corpus(tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    for name in ("one", "two"):
        write(folder / f"{name}.jsonl", name)
    return folder


@pytest.fixture
def hashed(monkeypatch):
    """Names of the source files that are hashed from here on."""
    names = []
    real = verify.file_sha256
    monkeypatch.setattr(
        verify, "file_sha256", lambda path: (names.append(path.name), real(path))[1]
    )
    return names


def prepared(corpus, *patterns):
    files = [corpus / pattern for pattern in patterns or ("*.jsonl",)]
    return prepare(of_files(*files, validation_tokens=100), corpus.parent / "data")


def test_the_manifest_knows_every_source_file_by_size_and_hash(corpus):
    made = read_manifest(prepared(corpus))
    paths = [corpus / "one.jsonl", corpus / "two.jsonl"]
    sizes = [path.stat().st_size for path in paths]
    assert made.source["files_bytes"] == sum(sizes)
    assert [entry["path"] for entry in made.source["files"]] == [str(path) for path in paths]
    assert [entry["bytes"] for entry in made.source["files"]] == sizes
    assert len({entry["sha256"] for entry in made.source["files"]}) == 2


def test_another_size_is_refused_without_hashing(corpus, hashed):
    prepared(corpus)
    write(corpus / "one.jsonl", "another")
    with pytest.raises(DataError, match=r"one\.jsonl: has \d+ bytes, but had \d+ when .*; del"):
        prepared(corpus)
    assert len(hashed) == 2


def test_source_files_are_hashed_once_and_then_only_after_they_were_touched(corpus, hashed):
    folder = prepared(corpus)
    open_dataset(folder)
    prepared(corpus)
    assert hashed == ["one.jsonl", "two.jsonl"]
    os.utime(corpus / "two.jsonl", ns=(0, 12345))
    for _ in range(3):
        prepared(corpus)
    assert hashed[2:] == ["two.jsonl"]
    (folder / "verified.json").write_text("[]")
    prepared(corpus)
    assert hashed[3:] == ["one.jsonl", "two.jsonl"]


def test_a_glob_that_matches_other_files_is_refused(corpus):
    prepared(corpus)
    write(corpus / "three.jsonl", "three")
    with pytest.raises(DataError, match=r"three\.jsonl: matches data\.files, but .* without it; "):
        prepared(corpus)
    (corpus / "three.jsonl").unlink()
    prepared(corpus)
    (corpus / "one.jsonl").unlink()
    with pytest.raises(
        DataError, match=r"one\.jsonl: .* was prepared from it, but it is gone; delete"
    ):
        prepared(corpus)


def test_files_that_are_gone_are_no_error_and_the_others_are_compared(corpus):
    names = ("one.jsonl", "two.jsonl")
    folder = prepared(corpus, *names)
    (corpus / "one.jsonl").unlink()
    assert prepared(corpus, *names) == folder
    write(corpus / "two.jsonl", "TWO")
    with pytest.raises(DataError, match=r"two\.jsonl: was edited after"):
        prepared(corpus, *names)
    (corpus / "two.jsonl").unlink()
    assert prepared(corpus, *names) == folder


def test_a_folder_that_says_nothing_of_its_files_is_used(corpus):
    folder = prepared(corpus)
    rewrite_manifest(folder, source={})
    write(corpus / "two.jsonl", "twenty")
    assert prepared(corpus) == folder


@pytest.mark.parametrize("files", [7, [7], [{}], [{"path": "x"}], {"path": 1}])
def test_garbled_facts_are_refused(corpus, files):
    rewrite_manifest(prepared(corpus), source={"files": files})
    with pytest.raises(DataError, match="does not list its source files"):
        prepared(corpus)


@pytest.mark.parametrize("fate", ["edited", "removed"])
def test_a_file_that_changes_while_it_is_read_makes_no_folder(corpus, fate, monkeypatch):
    real = build._build_text

    def build_and_change(*arguments):
        made = real(*arguments)
        if fate == "edited":
            write(corpus / "two.jsonl", "TWO")
        else:
            (corpus / "two.jsonl").unlink()
        return made

    monkeypatch.setattr(build, "_build_text", build_and_change)
    with pytest.raises(
        DataError, match=r"two\.jsonl: changed while it was read; run again when it is complete"
    ):
        prepared(corpus)
    assert [path.suffix for path in (corpus.parent / "data").iterdir()] == [".lock"]


def test_a_file_that_cannot_be_read_is_a_storage_error(corpus, monkeypatch):
    prepared(corpus)
    os.utime(corpus / "one.jsonl", ns=(0, 0))

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(verify, "file_sha256", refuse)
    with pytest.raises(StorageError, match=r"one\.jsonl: Permission denied"):
        prepared(corpus)
