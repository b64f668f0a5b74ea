import dataclasses
import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from train.config.experiment import DataConfig, Source, SyntheticConfig, TokenizerKind
from train.data import sources, synthetic
from train.data.manifest import TRAIN, VALIDATION, read_manifest
from train.data.prepare import prepare
from train.data.shards import open_dataset
from train.data.tokenizer import BytesTokenizer, load_bpe
from train.errors import DataError


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.jsonl"
    rows = [{"text": f"Document {n} says {'word ' * (n % 9)}\u00e9nd."} for n in range(200)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def config(corpus: Path, **changes: object) -> DataConfig:
    data = DataConfig(
        name="small", source=Source.files, files=[str(corpus)], validation_tokens=1000
    )
    return dataclasses.replace(data, **changes)


SYNTHETIC = DataConfig(
    name="chain",
    source=Source.synthetic,
    vocab_size=97,
    validation_tokens=3000,
    synthetic=SyntheticConfig(tokens=20_000, document_tokens=1000),
)


def test_every_document_is_in_exactly_one_split(corpus: Path, tmp_path: Path) -> None:
    dataset = open_dataset(prepare(config(corpus), tmp_path / "data"))
    texts = [json.loads(line)["text"] for line in corpus.read_text().splitlines()]
    parts = {
        split: BytesTokenizer().decode(np.concatenate(dataset.shards(split))).split("\n")[:-1]
        for split in (TRAIN, VALIDATION)
    }
    assert sorted(parts[TRAIN] + parts[VALIDATION]) == sorted(texts)
    assert dataset.n_tokens(VALIDATION) >= 1000
    assert dataset.manifest.splits[VALIDATION].documents == len(parts[VALIDATION])
    total = sum(len(text.encode()) + 1 for text in texts)
    assert dataset.n_tokens(TRAIN) + dataset.n_tokens(VALIDATION) == total
    assert dataset.bytes_per_token(TRAIN) == dataset.bytes_per_token(VALIDATION) == 1.0


def test_validation_does_not_depend_on_document_order(corpus: Path, tmp_path: Path) -> None:
    before = np.concatenate(
        open_dataset(prepare(config(corpus), tmp_path / "a")).shards(VALIDATION)
    )
    lines = corpus.read_text().splitlines(keepends=True)
    corpus.write_text("".join(reversed(lines)))
    after = np.concatenate(open_dataset(prepare(config(corpus), tmp_path / "b")).shards(VALIDATION))
    assert before.tolist() == after.tolist()


def test_byte_pairs_are_trained_on_training_documents_alone(corpus: Path, tmp_path: Path) -> None:
    data = config(corpus, tokenizer=TokenizerKind.bpe, vocab_size=300, validation_tokens=300)
    folder = prepare(data, tmp_path / "data")
    dataset = open_dataset(folder)
    bpe = load_bpe(folder / "tokenizer.json")
    assert dataset.manifest.tokenizer_sha256 == bpe.sha256
    assert dataset.bytes_per_token(TRAIN) > 1.5
    texts = {json.loads(line)["text"] for line in corpus.read_text().splitlines()}
    assert set(bpe.decode(np.concatenate(dataset.shards(VALIDATION))).split("\n")[:-1]) < texts
    with pytest.raises(DataError, match=r"trained the tokenizer would be held out; use .*=400"):
        prepare(dataclasses.replace(data, validation_tokens=1600), tmp_path / "data")


def test_synthetic_manifest_states_the_exact_entropy_rate(tmp_path: Path) -> None:
    dataset = open_dataset(prepare(SYNTHETIC, tmp_path))
    assert dataset.n_tokens(VALIDATION) == 3000
    assert dataset.n_tokens(TRAIN) == 17_000
    assert dataset.bytes_per_token(TRAIN) == 1.0
    rate = dataset.manifest.entropy_rate
    assert rate == pytest.approx(ENTROPY_RATE, abs=1e-12)
    source = synthetic.markov_source(SYNTHETIC.synthetic, 97)
    chain = np.concatenate(list(synthetic.generate(source, tokens=20_000, seed=0)))
    assert np.concatenate(dataset.shards(VALIDATION)).tolist() == chain[:3000].tolist()
    assert np.concatenate(dataset.shards(TRAIN)).tolist() == chain[3000:].tolist()


ENTROPY_RATE = 3.1392499229230038
"""Nats per token of the default source with 97 tokens; printed from its manifest."""


def test_copies_do_not_straddle_the_splits(tmp_path: Path) -> None:
    path = tmp_path / "copies.jsonl"
    rows = [{"text": f"text {n % 40}"} for n in range(200)]
    path.write_text("\n".join(map(json.dumps, rows)))
    dataset = open_dataset(prepare(config(path, validation_tokens=100), tmp_path / "data"))
    train = set(BytesTokenizer().decode(np.concatenate(dataset.shards(TRAIN))).split("\n"))
    held = set(BytesTokenizer().decode(np.concatenate(dataset.shards(VALIDATION))).split("\n"))
    assert train & held == {""}


def test_documents_without_text_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows = [{"text": text} for text in ("one", "", " \n", "two", "three")]
    path.write_text("\n".join(map(json.dumps, rows)))
    manifest = read_manifest(prepare(config(path, validation_tokens=1), tmp_path / "data"))
    assert sum(facts.documents for facts in manifest.splits.values()) == 3


def test_too_much_validation_is_refused_with_numbers(corpus: Path, tmp_path: Path) -> None:
    message = r"validation_tokens=99999 leaves nothing .* has (\d+) tokens in 200 documents"
    with pytest.raises(DataError, match=message):
        prepare(config(corpus, validation_tokens=99_999), tmp_path / "data")


def test_one_long_text_file_can_be_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "PIECE_CHARACTERS", 400)
    text = "".join(f"Paragraph {n}.\n\n" for n in range(300))
    path = tmp_path / "book.txt.gz"
    path.write_bytes(gzip.compress(text.encode()))
    dataset = open_dataset(prepare(config(path, validation_tokens=500), tmp_path / "data"))
    assert 500 <= dataset.n_tokens(VALIDATION) < 1000
    assert dataset.n_tokens(TRAIN) > 3000
