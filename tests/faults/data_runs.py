"""Runs of eight steps on a test's own data, and the assertion that they are refused."""

import json
import re
import shutil
from pathlib import Path

import pytest

from faults.runner import run_folder, run_here
from tests.builders import planned
from train.config.experiment import Source
from train.data import shards
from train.data.prepare import prepare, prepared_folder
from train.data.shards import open_dataset
from train.errors import DataError
from train.storage.records import read_json, read_jsonl
from train.study.preflight import preflight

TRAIN, HELD = "train-00000.bin", "validation.bin"

STEPS = 8
SHORT = {"budget__tokens": STEPS * 256, "schedule__warmup_steps": 1}


def on_a_chain(tiny, prepared_data, root):
    """A run on a copy of the prepared chain, which has been verified."""
    shutil.copytree(prepared_data, root / "data")
    config = tiny(paths__data=str(root / "data"), **SHORT)
    open_dataset(folder_of(config))
    return config


DOCUMENTS = [f"Document {n} says {'word ' * (n % 9)}." for n in range(150)]


def on_text(tiny, root, texts=DOCUMENTS):
    """A run on the documents of one file, prepared and verified."""
    path = root / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    config = tiny(
        paths__data=str(root / "data"),
        data__source=Source.files,
        data__files=[str(path)],
        data__vocab_size=256,
        data__validation_tokens=1_000,
        **SHORT,
    )
    open_dataset(prepare(config.data, root / "data"))
    return config


def folder_of(config):
    return prepared_folder(config.data, Path(config.paths.data))


def refused(config, message):
    """Neither a launch nor a single run starts; the message is raised and recorded."""
    with pytest.raises(DataError, match=message) as caught:
        launch(config)
    assert caught.value.exit_code == 2
    with pytest.raises(DataError, match=message):
        run_here(config)
    folder = run_folder(config)
    status = read_json(folder.status)
    assert (status["state"], status["exit_code"]) == ("failed", 2)
    assert re.search(message, status["reason"])
    assert read_jsonl(folder.attempts)[-1]["cause"] == "data"
    assert not folder.metrics.exists()


def losses(config):
    run_here(config)
    rows = read_jsonl(run_folder(config).metrics)
    assert len(rows) == STEPS
    return [row["loss"] for row in rows]


def launch(config):
    """The checks of a launch, before any run starts."""
    preflight([planned(config)])


def unprotected(monkeypatch):
    monkeypatch.setattr(shards, "verify_shards", lambda *_: None)
