import gzip
import json
import os
from dataclasses import replace

import numpy as np
import pytest
from token_folders import CHAIN, of_files, write_documents
from token_folders import build as build_folder
from tokenizers import Tokenizer

from train.config.experiment import TokenizerKind
from train.data import sources, synthetic
from train.data.build import SplitWriter
from train.data.manifest import TRAIN, VALIDATION, read_manifest
from train.data.prepare import prepare
from train.data.shards import open_dataset
from train.data.split import EncodedDocument
from train.errors import DataError


@pytest.fixture
def corpus(tmp_path):
    return write_documents(tmp_path / "corpus.jsonl")


def ids(dataset, split):
    return np.concatenate(dataset.shards(split)).tolist()


def test_every_document_is_in_exactly_one_split(corpus, tmp_path):
    dataset = open_dataset(prepare(of_files(corpus), tmp_path / "data"))
    texts = [json.loads(line)["text"].encode() for line in corpus.read_text().splitlines()]
    parts = {split: bytes(ids(dataset, split)).split(b"\0")[:-1] for split in (TRAIN, VALIDATION)}
    assert sorted(parts[TRAIN] + parts[VALIDATION]) == sorted(texts)
    assert dataset.n_tokens(VALIDATION) >= 1000
    assert dataset.manifest.splits[VALIDATION].documents == len(parts[VALIDATION])
    total = sum(len(text) + 1 for text in texts)
    assert dataset.n_tokens(TRAIN) + dataset.n_tokens(VALIDATION) == total
    assert dataset.bytes_per_token(TRAIN) == dataset.bytes_per_token(VALIDATION) == 1.0


def test_byte_pairs_are_trained_on_training_documents_alone(corpus, tmp_path):
    data = of_files(corpus, tokenizer=TokenizerKind.bpe, vocab_size=300, validation_tokens=300)
    folder = prepare(data, tmp_path / "data")
    dataset = open_dataset(folder)
    assert dataset.bytes_per_token(TRAIN) > 1.5
    bpe = Tokenizer.from_file(str(folder / "tokenizer.json"))
    texts = {json.loads(line)["text"] for line in corpus.read_text().splitlines()}
    held = bpe.decode(ids(dataset, VALIDATION), skip_special_tokens=False)
    assert set(held.split("<|document|>")[:-1]) < texts
    with pytest.raises(
        DataError, match=r"trained the tokenizer would be validation documents; use .*=400"
    ):
        prepare(replace(data, validation_tokens=1600), tmp_path / "data")


ENTROPY_RATE = 3.1392499229230038
"""Nats per token of the default source with 97 tokens; printed from its manifest."""


def test_a_chain_is_written_in_order_with_its_exact_entropy_rate(tmp_path):
    dataset = open_dataset(prepare(CHAIN, tmp_path))
    assert dataset.bytes_per_token(TRAIN) == 1.0
    assert dataset.manifest.source["entropy_rate"] == pytest.approx(ENTROPY_RATE, abs=1e-12)
    source = synthetic.markov_source(CHAIN.synthetic, 97)
    chain = np.concatenate(list(synthetic.generate(source, tokens=20_000, seed=0))).tolist()
    assert ids(dataset, VALIDATION) == chain[:3000]
    assert ids(dataset, TRAIN) == chain[3000:]


def test_documents_without_text_are_left_out(tmp_path):
    path = tmp_path / "a.jsonl"
    rows = [{"text": text} for text in ("one", "", " \n", "two", "three")]
    path.write_text("\n".join(map(json.dumps, rows)))
    manifest = read_manifest(prepare(of_files(path, validation_tokens=1), tmp_path / "data"))
    assert sum(facts.documents for facts in manifest.splits.values()) == 3


def test_too_much_validation_is_refused_with_numbers(corpus, tmp_path):
    message = r"validation_tokens=99999 leaves nothing .* has (\d+) tokens in 200 documents"
    with pytest.raises(DataError, match=message):
        prepare(of_files(corpus, validation_tokens=99_999), tmp_path / "data")


def test_one_long_text_file_can_be_split(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "PIECE_CHARACTERS", 400)
    path = tmp_path / "book.txt.gz"
    path.write_bytes(gzip.compress("".join(f"Paragraph {n}.\n\n" for n in range(300)).encode()))
    dataset = open_dataset(prepare(of_files(path, validation_tokens=500), tmp_path / "data"))
    assert 500 <= dataset.n_tokens(VALIDATION) < 1000
    assert dataset.n_tokens(TRAIN) > 3000


def test_training_is_cut_into_shards_and_validation_is_one(tmp_path):
    known = read_manifest(build_folder(tmp_path / "d", list(range(10)), list(range(10)), shard=4))
    assert [(shard.name, shard.tokens, shard.bytes) for shard in known.shards] == [
        ("train-00000.bin", 4, 8),
        ("train-00001.bin", 4, 8),
        ("train-00002.bin", 2, 4),
        ("validation.bin", 10, 20),
    ]
    assert [known.splits[split].documents for split in (TRAIN, VALIDATION)] == [1, 1]


def test_a_shard_is_on_disk_before_its_facts_are_given(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(os.fstat(number).st_size))
    with SplitWriter(tmp_path, TRAIN, vocab_size=70_000, shard_tokens=2) as writer:
        writer.write(EncodedDocument(b"", 0, np.array([1, 65_536, 3]), 3))
        facts, _ = writer.finish()
    assert synced == [8, 4]
    assert [shard.tokens for shard in facts] == [2, 1]
