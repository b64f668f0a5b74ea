import json
import re
from dataclasses import replace

import pytest
from token_folders import build, rewrite_manifest

from train.data.manifest import read_manifest, write_manifest
from train.data.shards import open_dataset
from train.errors import DataError


def test_damaged_manifests_are_named(tmp_path):
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


def test_fields_of_other_types_are_refused_before_they_are_used(tmp_path):
    folder = build(tmp_path / "d", [1], [1])
    path = folder / "manifest.json"
    good = json.loads(path.read_text())
    train, held = good["shards"]
    split = good["splits"]["train"]
    nested = "x"
    for _ in range(300):
        nested = [nested]
    for change in (
        {"spec": []},
        {"source": "enwik8"},
        {"vocab_size": 256.0},
        {"vocab_size": True},
        {"dtype": None},
        {"shards": {}},
        {"shards": [{**train, "name": nested}, held]},
        {"shards": [{**train, "tokens": "1"}, held]},
        {"shards": [{**train, "more": 1}, held]},
        {"splits": {**good["splits"], "train": {**split, "text_bytes": float("nan")}}},
        {"splits": [1, 2]},
    ):
        path.write_text(json.dumps({**good, **change}))
        with pytest.raises(DataError, match=r"manifest\.json: .*; delete the folder"):
            read_manifest(folder)


def test_what_no_preparation_writes_is_refused_though_it_is_rightly_hashed(tmp_path):
    folder = build(tmp_path / "d", [1, 2], [3])
    good = read_manifest(folder)
    train, held = good.shards

    def shard(**changes):
        return (replace(train, **changes), held)

    def split(tokens):
        return {**good.splits, "train": replace(good.splits["train"], tokens=tokens)}

    silent = {**good.splits, "train": replace(good.splits["train"], text_bytes=0)}
    impossible = [
        ({"dtype": "float16"}, "unknown dtype 'float16', expected uint16 or uint32"),
        ({"vocab_size": 65_537}, "vocab_size 65537 does not fit uint16"),
        ({"vocab_size": 0}, "vocab_size 0 does not fit uint16"),
        (
            {"shards": shard(name="../../secret.bin")},
            "'../../secret.bin' of 'train' is not a token",
        ),
        ({"shards": shard(name="train-00000.bin/../x.bin")}, "is not a token file of a split"),
        ({"shards": shard(split="test")}, "'train-00000.bin' of 'test' is not a token file"),
        ({"shards": shard(bytes=5)}, "train-00000.bin has 2 tokens in 5 bytes"),
        ({"shards": shard(tokens=-1, bytes=-2)}, "train-00000.bin has -1 tokens in -2 bytes"),
        ({"shards": (train, train, held)}, "a token file is named twice"),
        ({"splits": split(3)}, "train has 3 tokens, and its files have 2"),
        ({"shards": shard(tokens=0, bytes=0), "splits": split(0)}, "train is empty"),
        ({"shards": (held,), "splits": split(0)}, "train is empty"),
        ({"splits": silent}, "train is empty (2 tokens of 0 bytes)"),
    ]
    for changes, message in impossible:
        write_manifest(folder, replace(good, **changes))
        with pytest.raises(DataError, match=rf"{re.escape(message)}.*; delete the folder"):
            open_dataset(folder)


def test_what_a_hash_does_not_cover_keeps_the_identity(tmp_path):
    folder = build(tmp_path / "d", [1], [2])
    before = read_manifest(folder).sha256
    rewrite_manifest(folder, source={"files": []}, spec={"name": "x"})
    assert read_manifest(folder).sha256 == before
