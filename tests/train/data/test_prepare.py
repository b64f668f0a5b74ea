import dataclasses
import gzip
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from train.config import DataConfig, Source, SyntheticConfig, TokenizerKind
from train.data import prepare as preparation
from train.data import sources, synthetic
from train.data.manifest import TRAIN, VALIDATION, read_manifest
from train.data.prepare import prepare, prepared_folder
from train.data.shards import open_dataset
from train.data.tokenizer import BytesTokenizer, load_bpe
from train.errors import ConfigError, DataError, StorageError


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
SYNTHETIC_ARGUMENTS = """name="chain", source=Source.synthetic, vocab_size=97,
    validation_tokens=3000, synthetic=SyntheticConfig(tokens=20_000, document_tokens=1000)"""


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


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


def test_preparation_gives_the_same_bytes_anywhere(corpus: Path, tmp_path: Path) -> None:
    one = prepare(config(corpus), tmp_path / "a")
    two = prepare(config(corpus), tmp_path / "b")
    assert one.name == two.name == prepared_folder(config(corpus), tmp_path).name
    assert contents(one) == contents(two)


def test_validation_does_not_depend_on_document_order(corpus: Path, tmp_path: Path) -> None:
    before = np.concatenate(
        open_dataset(prepare(config(corpus), tmp_path / "a")).shards(VALIDATION)
    )
    lines = corpus.read_text().splitlines(keepends=True)
    corpus.write_text("".join(reversed(lines)))
    after = np.concatenate(open_dataset(prepare(config(corpus), tmp_path / "b")).shards(VALIDATION))
    assert before.tolist() == after.tolist()


def test_a_second_call_does_nothing(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = prepare(config(corpus), tmp_path / "data")
    monkeypatch.setattr(preparation, "_build", lambda *_, **__: pytest.fail("built again"))
    assert prepare(config(corpus), tmp_path / "data") == folder


def test_files_that_changed_are_noticed_and_files_that_are_gone_are_not_missed(
    corpus: Path, tmp_path: Path
) -> None:
    folder = prepare(config(corpus), tmp_path / "data")
    size = corpus.stat().st_size
    with corpus.open("a") as file:
        file.write('{"text": "one more"}\n')
    message = rf"corpus\.jsonl: has {size + 21} bytes, and .* made when it had {size}; delete"
    with pytest.raises(DataError, match=message):
        prepare(config(corpus), tmp_path / "data")
    corpus.unlink()
    assert prepare(config(corpus), tmp_path / "data") == folder


def test_folder_name_follows_what_determines_the_tokens(corpus: Path, tmp_path: Path) -> None:
    base = prepared_folder(config(corpus), tmp_path)
    assert base.name.startswith("small-bytes-")
    same = config(corpus, seq_len=64, allow_repeat=True, synthetic=SyntheticConfig(seed=3))
    assert prepared_folder(same, tmp_path) == base
    others = [
        config(corpus, validation_tokens=2000),
        config(corpus, files=["other.txt"]),
        config(corpus, tokenizer=TokenizerKind.bpe, vocab_size=300),
        config(corpus, source=Source.enwik8),
        SYNTHETIC,
        dataclasses.replace(SYNTHETIC, synthetic=SyntheticConfig(seed=1)),
    ]
    names = {prepared_folder(other, tmp_path).name[-8:] for other in others}
    assert len(names | {base.name[-8:]}) == 7


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


def test_many_jobs_at_once_build_it_once(tmp_path: Path) -> None:
    root = tmp_path / "data"
    script = (
        "from pathlib import Path; from train.config import *; from train.data.prepare import *;"
        f"prepare(DataConfig({SYNTHETIC_ARGUMENTS}), Path({str(root)!r}))"
    )
    jobs = [subprocess.Popen([sys.executable, "-c", script]) for _ in range(4)]
    assert [job.wait(60) for job in jobs] == [0, 0, 0, 0]
    assert open_dataset(prepared_folder(SYNTHETIC, root)).n_tokens(TRAIN) == 17_000
    assert not list(root.glob("*.partial"))


def test_what_a_killed_job_left_is_replaced(tmp_path: Path) -> None:
    clean = contents(prepare(SYNTHETIC, tmp_path / "clean"))
    root = tmp_path / "data"
    partial = root / f"{prepared_folder(SYNTHETIC, root).name}.partial"
    partial.mkdir(parents=True)
    (partial / "train-00000.bin").write_bytes(b"torn")
    (partial / "train-00001.bin").write_bytes(b"stale")
    assert contents(prepare(SYNTHETIC, root)) == clean


def test_a_failure_leaves_nothing_behind(corpus: Path, tmp_path: Path) -> None:
    corpus.write_text(corpus.read_text() + "{broken")
    root = tmp_path / "data"
    with pytest.raises(DataError, match=r"corpus\.jsonl:201: not JSON"):
        prepare(config(corpus), root)
    assert [path.suffix for path in root.iterdir()] in ([], [".lock"])


def test_too_much_validation_is_refused_with_numbers(corpus: Path, tmp_path: Path) -> None:
    message = r"validation_tokens=99999 leaves nothing .* has (\d+) tokens in 200 documents"
    with pytest.raises(DataError, match=message):
        prepare(config(corpus, validation_tokens=99_999), tmp_path / "data")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"validation_tokens": 0}, "data.validation_tokens=0 must be at least 1"),
        ({"vocab_size": 300}, "data.vocab_size=300 with data.tokenizer=bytes"),
        ({"files": []}, r"needs data\.files="),
        ({"source": Source.synthetic, "vocab_size": 3}, "successors=4 must be between 1 and"),
    ],
)
def test_contradictions_are_refused_before_anything_is_written(
    corpus: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        prepare(config(corpus, **changes), tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_a_root_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file where a folder should be")
    with pytest.raises(StorageError, match="data: File exists"):
        prepare(SYNTHETIC, tmp_path / "data")


def test_a_full_disk_is_a_storage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"chain-bytes-.*: No space left on device"):
        prepare(SYNTHETIC, tmp_path)
    assert not list(tmp_path.glob("*.partial"))


def test_progress_goes_to_standard_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(SYNTHETIC, tmp_path, progress=True)
    assert capsys.readouterr().out == ""


def test_a_damaged_folder_is_named_with_its_remedy(tmp_path: Path) -> None:
    folder = prepare(SYNTHETIC, tmp_path)
    (folder / "manifest.json").unlink()
    with pytest.raises(DataError, match=r"manifest\.json is missing; delete the folder"):
        prepare(SYNTHETIC, tmp_path)
    shutil.rmtree(folder)
    assert prepare(SYNTHETIC, tmp_path) == folder


def test_one_long_text_file_can_be_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "PIECE_CHARACTERS", 400)
    text = "".join(f"Paragraph {n}.\n\n" for n in range(300))
    path = tmp_path / "book.txt.gz"
    path.write_bytes(gzip.compress(text.encode()))
    dataset = open_dataset(prepare(config(path, validation_tokens=500), tmp_path / "data"))
    assert 500 <= dataset.n_tokens(VALIDATION) < 1000
    assert dataset.n_tokens(TRAIN) > 3000


def test_a_folder_of_other_settings_under_the_name_is_refused(corpus: Path, tmp_path: Path) -> None:
    folder = prepare(config(corpus), tmp_path / "data")
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    facts = open_dataset(folder).manifest
    other = replace(facts, spec={**facts.spec, "vocab_size": 300})
    path.write_text(json.dumps({**manifest, "spec": dict(other.spec), "sha256": other.sha256}))
    with pytest.raises(DataError, match="was made with vocab_size=300, and 256 is asked for"):
        prepare(config(corpus), tmp_path / "data")
