import json
import os
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from token_folders import CHAIN, of_files, write_documents

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
    return write_documents(tmp_path / "corpus.jsonl")


REPO = Path(__file__).resolve().parents[3]
FILES = sorted(Path(next(iter(configs.__path__)), "data").glob("*.yaml"))


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_preparation_gives_the_same_bytes_anywhere(corpus, tmp_path):
    one = prepare(of_files(corpus), tmp_path / "a")
    two = prepare(of_files(corpus), tmp_path / "b")
    assert one.name == two.name == prepared_folder(of_files(corpus), tmp_path).name
    assert contents(one) == contents(two)


BPE = {"tokenizer": TokenizerKind.bpe, "vocab_size": 300, "validation_tokens": 300}


@pytest.mark.parametrize(
    ("data", "name", "sha256"),
    [
        (CHAIN, "chain-bytes-5ae147c7", "6771095fa7cbb5533dacd40917c28a6d"),
        (of_files("corpus.jsonl"), "small-bytes-f807e090", "202e758f03c25e8ec6d58b493c71b711"),
        (of_files("corpus.jsonl", **BPE), "small-bpe-35ab8317", "92ea9035f07b294352d13ad30803c52e"),
    ],
)
@pytest.mark.usefixtures("corpus")
def test_names_and_tokens_are_golden(data, name, sha256, tmp_path, monkeypatch):
    """Printed by version 0.4.0; runs record the sha256, so a change is a change of numerics."""
    monkeypatch.chdir(tmp_path)
    folder = prepare(data, Path("data"))
    assert folder.name == name
    assert open_dataset(folder).sha256.startswith(sha256)


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
    folder = prepare(of_files(corpus), tmp_path / "data")
    monkeypatch.setattr(preparation, "_build", lambda *_, **__: pytest.fail("built again"))
    assert prepare(of_files(corpus), tmp_path / "data") == folder


def test_folder_name_follows_what_determines_the_tokens(corpus, tmp_path):
    base = prepared_folder(of_files(corpus), tmp_path)
    assert base.name.startswith("small-bytes-")
    same = of_files(corpus, seq_len=64, allow_repeat=True, synthetic=SyntheticConfig(seed=3))
    assert prepared_folder(same, tmp_path) == base
    others = [
        of_files(corpus, validation_tokens=2000),
        of_files(corpus, files=["other.txt"]),
        of_files(corpus, tokenizer=TokenizerKind.bpe, vocab_size=300),
        of_files(corpus, source=Source.enwik8),
        CHAIN,
        replace(CHAIN, synthetic=SyntheticConfig(seed=1)),
    ]
    names = {prepared_folder(other, tmp_path).name[-8:] for other in others}
    assert len(names | {base.name[-8:]}) == 7


def test_many_jobs_at_once_build_it_once(tmp_path):
    root = tmp_path / "data"
    script = (
        "from pathlib import Path; from train.data.prepare import prepare;"
        f"from token_folders import CHAIN; prepare(CHAIN, Path({str(root)!r}))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(REPO), str(REPO / "tests")))}
    command = [sys.executable, "-c", script]
    jobs = [subprocess.Popen(command, env=environment) for _ in range(4)]
    assert [job.wait(60) for job in jobs] == [0, 0, 0, 0]
    assert open_dataset(prepared_folder(CHAIN, root)).n_tokens(TRAIN) == 17_000
    assert not list(root.glob("*.partial"))


def test_a_failure_leaves_nothing_behind(corpus, tmp_path):
    corpus.write_text(corpus.read_text() + "{broken")
    root = tmp_path / "data"
    with pytest.raises(DataError, match=r"corpus\.jsonl:201: not JSON"):
        prepare(of_files(corpus), root)
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
        prepare(of_files(corpus, **changes), tmp_path / "data")
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
    data = of_files(corpus, tokenizer=TokenizerKind.bpe, vocab_size=300, validation_tokens=300)
    folder = prepare(data, tmp_path / "data")
    last = acts.index(f"rename to {folder.name}")
    files = ("tokenizer.json.partial", "train-00000.bin", "validation.bin", "manifest.json.partial")
    assert set(files) < set(acts[:last])
    assert acts[last - 1 :] == [f"{folder.name}.partial", f"rename to {folder.name}", "data"]


def test_who_waits_says_for_whom(tmp_path, capsys, monkeypatch):
    is_waiting = threading.Event()

    def hold_and_say(*arguments, **options):
        # what it says has been said by now
        is_waiting.set()
        return hold(*arguments, **options)

    monkeypatch.setattr(preparation, "hold", hold_and_say)
    lock = tmp_path / f"{prepared_folder(CHAIN, tmp_path).name}.lock"
    with ThreadPoolExecutor() as pool:
        with hold(lock, task="is preparing it"):
            waiting = pool.submit(prepare, CHAIN, tmp_path, progress=True)
            assert is_waiting.wait(20)
            said = capsys.readouterr().err
            assert not waiting.done()
        assert waiting.result(timeout=20).exists()
    holder = rf"process {os.getpid()} on \S+ \(since \S+, \d+ s ago\)"
    assert re.search(rf"chain-bytes-\w{{8}}: waiting for {holder}, which is preparing it", said)


def test_a_root_that_cannot_be_written_is_a_storage_error(tmp_path):
    (tmp_path / "data").write_text("a file where a folder should be")
    with pytest.raises(StorageError, match="data: File exists"):
        prepare(CHAIN, tmp_path / "data")


def test_progress_goes_to_standard_error(tmp_path, capsys):
    prepare(CHAIN, tmp_path, progress=True)
    assert capsys.readouterr().out == ""


def test_a_folder_of_other_settings_under_the_name_is_refused(corpus, tmp_path):
    folder = prepare(of_files(corpus), tmp_path / "data")
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "spec": {**manifest["spec"], "vocab_size": 300}}))
    with pytest.raises(DataError, match="was prepared with vocab_size=300, not 256; move"):
        prepare(of_files(corpus), tmp_path / "data")
