import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from omegaconf import OmegaConf

import configs
from train.config.experiment import DataConfig, Source, SyntheticConfig, TokenizerKind
from train.data import prepare as preparation
from train.data.manifest import TRAIN
from train.data.prepare import check, prepare, prepared_folder
from train.data.shards import open_dataset
from train.errors import ConfigError, DataError, StorageError
from train.storage.lock import hold


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.jsonl"
    rows = [{"text": f"Document {n} says {'word ' * (n % 9)}\u00e9nd."} for n in range(200)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def config(corpus, **changes):
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


FILES = sorted(Path(next(iter(configs.__path__)), "data").glob("*.yaml"))


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_preparation_gives_the_same_bytes_anywhere(corpus, tmp_path):
    one = prepare(config(corpus), tmp_path / "a")
    two = prepare(config(corpus), tmp_path / "b")
    assert one.name == two.name == prepared_folder(config(corpus), tmp_path).name
    assert contents(one) == contents(two)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_data_config_is_typed_and_meaningful(path):
    merged = OmegaConf.merge(OmegaConf.structured(DataConfig), OmegaConf.load(path))
    data = OmegaConf.to_object(merged)
    assert isinstance(data, DataConfig)
    check(data)
    assert prepared_folder(data, Path("data")).name.startswith(f"{data.name}-")
    first = path.read_text().splitlines()[0]
    assert first.startswith("# ")
    assert f"data={path.stem}" in first


def test_the_four_data_configs_are_there():
    assert [path.stem for path in FILES] == ["enwik8", "enwik8_bpe", "files", "synthetic"]


def test_a_second_call_does_nothing(corpus, tmp_path, monkeypatch):
    folder = prepare(config(corpus), tmp_path / "data")
    monkeypatch.setattr(preparation, "_build", lambda *_, **__: pytest.fail("built again"))
    assert prepare(config(corpus), tmp_path / "data") == folder


def test_folder_name_follows_what_determines_the_tokens(corpus, tmp_path):
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


def test_many_jobs_at_once_build_it_once(tmp_path):
    root = tmp_path / "data"
    script = (
        "from pathlib import Path; from train.data.prepare import prepare;"
        "from train.config.experiment import DataConfig, Source, SyntheticConfig;"
        f"prepare(DataConfig({SYNTHETIC_ARGUMENTS}), Path({str(root)!r}))"
    )
    jobs = [subprocess.Popen([sys.executable, "-c", script]) for _ in range(4)]
    assert [job.wait(60) for job in jobs] == [0, 0, 0, 0]
    assert open_dataset(prepared_folder(SYNTHETIC, root)).n_tokens(TRAIN) == 17_000
    assert not list(root.glob("*.partial"))


def test_a_failure_leaves_nothing_behind(corpus, tmp_path):
    corpus.write_text(corpus.read_text() + "{broken")
    root = tmp_path / "data"
    with pytest.raises(DataError, match=r"corpus\.jsonl:201: not JSON"):
        prepare(config(corpus), root)
    assert [path.suffix for path in root.iterdir()] in ([], [".lock"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"validation_tokens": 0}, "data.validation_tokens=0 must be at least 1"),
        ({"vocab_size": 300}, "data.vocab_size=300 with data.tokenizer=bytes"),
        ({"files": []}, r"needs data\.files="),
        ({"source": Source.synthetic, "vocab_size": 3}, "successors=4 must be between 1 and"),
    ],
)
def test_contradictions_are_refused_before_anything_is_written(corpus, tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        prepare(config(corpus, **changes), tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_everything_is_on_disk_before_the_name_is(corpus, tmp_path, monkeypatch):
    acts = []
    fsync, rename = os.fsync, Path.rename

    def note_sync(descriptor):
        acts.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    def note_rename(path, target):
        acts.append(f"rename to {target.name}")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(Path, "rename", note_rename)
    data = config(corpus, tokenizer=TokenizerKind.bpe, vocab_size=300, validation_tokens=300)
    folder = prepare(data, tmp_path / "data")
    last = acts.index(f"rename to {folder.name}")
    files = ("tokenizer.json.partial", "train-00000.bin", "validation.bin", "manifest.json.partial")
    assert set(files) < set(acts[:last])
    assert acts[last - 1 :] == [f"{folder.name}.partial", f"rename to {folder.name}", "data"]


def test_who_waits_says_for_whom(tmp_path, capsys, monkeypatch):
    is_waiting = threading.Event()

    def hold_and_say(*arguments, **options):
        is_waiting.set()  # what it says has been said by now
        return hold(*arguments, **options)

    monkeypatch.setattr(preparation, "hold", hold_and_say)
    lock = tmp_path / f"{prepared_folder(SYNTHETIC, tmp_path).name}.lock"
    with ThreadPoolExecutor() as pool:
        with hold(lock, task="is preparing it"):
            waiting = pool.submit(prepare, SYNTHETIC, tmp_path, progress=True)
            assert is_waiting.wait(20)
            said = capsys.readouterr().err
            assert not waiting.done()
        assert waiting.result(timeout=20).exists()
    holder = rf"process {os.getpid()} on \S+ \(since \S+, \d+ s ago\)"
    assert re.search(rf"chain-bytes-\w{{8}}: waiting for {holder}, which is preparing it", said)


def test_a_root_that_cannot_be_written_is_a_storage_error(tmp_path):
    (tmp_path / "data").write_text("a file where a folder should be")
    with pytest.raises(StorageError, match="data: File exists"):
        prepare(SYNTHETIC, tmp_path / "data")


def test_progress_goes_to_standard_error(tmp_path, capsys):
    prepare(SYNTHETIC, tmp_path, progress=True)
    assert capsys.readouterr().out == ""


def test_a_damaged_folder_is_named_with_its_remedy(tmp_path):
    folder = prepare(SYNTHETIC, tmp_path)
    (folder / "manifest.json").unlink()
    with pytest.raises(DataError, match=r"manifest\.json is missing; delete the folder"):
        prepare(SYNTHETIC, tmp_path)
    shutil.rmtree(folder)
    assert prepare(SYNTHETIC, tmp_path) == folder


def test_a_folder_of_other_settings_under_the_name_is_refused(corpus, tmp_path):
    folder = prepare(config(corpus), tmp_path / "data")
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    facts = open_dataset(folder).manifest
    other = replace(facts, spec={**facts.spec, "vocab_size": 300})
    path.write_text(json.dumps({**manifest, "spec": dict(other.spec), "sha256": other.sha256}))
    with pytest.raises(DataError, match="was made with vocab_size=300, and 256 is asked for"):
        prepare(config(corpus), tmp_path / "data")
