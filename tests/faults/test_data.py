"""T1 and T2: damaged data.

A folder that passed verification is damaged: the run must end before its first step, by name.
"""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from token_folders import read_ids, rewrite_ids

from faults.damage import flip_bit
from faults.data_runs import (
    HELD,
    SHORT,
    TRAIN,
    folder_of,
    launch,
    losses,
    on_a_chain,
    on_text,
    refused,
    unprotected,
)
from faults.runner import run_folder, run_here
from train.data import prepare as preparation
from train.data.shards import Dataset, open_dataset
from train.engine import batches
from train.errors import DataError


@pytest.fixture
def config(tiny, prepared_data, tmp_path):
    return on_a_chain(tiny, prepared_data, tmp_path)


@pytest.fixture
def text(tiny, tmp_path):
    return on_text(tiny, tmp_path)


def test_t0_sound_data_is_trained_on(tiny, prepared_data, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    chain = on_a_chain(tiny, prepared_data, tmp_path / "a")
    assert losses(chain) != losses(on_text(tiny, tmp_path / "b"))


@pytest.mark.parametrize("name", [TRAIN, HELD])
def test_t1_a_flipped_byte_is_found_before_the_first_step(config, name):
    flip_bit(folder_of(config) / name, bit=0)
    refused(config, rf"{name}: expected sha256 \w{{64}}, got \w{{64}}; delete the folder .* again")


def test_t1_control_unverified_it_trains_another_model(config, tiny, monkeypatch):
    path = folder_of(config) / TRAIN
    ids = np.fromfile(path, dtype="<u2")
    (ids ^ 1).clip(max=96).astype("<u2").tofile(path)
    unprotected(monkeypatch)
    sound = losses(tiny(study__name="sound", **SHORT))
    assert losses(config) != sound


def test_t1_text_that_was_edited_and_kept_its_size_is_found(text):
    path = Path(text.data.files[0])
    path.write_text(path.read_text().replace("word", "WORD"))
    refused(
        text, r"corpus\.jsonl: was edited after .* was prepared from it .*; delete that folder and"
    )


def test_t1_control_uncompared_it_trains_on_what_the_file_no_longer_says(text, monkeypatch):
    path = Path(text.data.files[0])
    path.write_text(path.read_text().replace("word", "WORD"))
    monkeypatch.setattr(preparation, "verify_sources", lambda *_: None)
    losses(text)
    assert b"WORD" in path.read_bytes()
    assert b"WORD" not in bytes(read_ids(folder_of(text), TRAIN))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: os.truncate(folder / TRAIN, 71_998), "expected 72000 bytes, got 71998; de"),
        (lambda folder: os.truncate(folder / TRAIN, 71_999), "expected 72000 bytes, got 71999; de"),
        (lambda folder: os.truncate(folder / HELD, 0), "expected 8000 bytes, got 0; delete the"),
        (lambda folder: (folder / TRAIN).unlink(), r"train-00000\.bin is missing; delete the fol"),
        (
            lambda folder: shutil.copy(folder / HELD, folder / "train-00001.bin"),
            r"train-00001\.bin is not in the manifest; delete the folder",
        ),
        (
            lambda folder: rewrite_ids(folder, TRAIN, []),
            r"train is empty \(0 tokens of \d+ bytes\); delete the folder",
        ),
    ],
    ids=["cut", "torn", "empty", "missing", "extra", "no-tokens"],
)
def test_t2_files_that_are_not_those_of_the_manifest_are_named(config, damage, message):
    damage(folder_of(config))
    refused(config, message)


@pytest.mark.parametrize("name", [TRAIN, HELD])
def test_t2_a_split_shorter_than_one_window_is_named(text, name):
    rewrite_ids(folder_of(text), name, [1] * 32)
    split = "train" if name == TRAIN else "validation"
    message = f"{split} has 32 tokens, fewer than one window of 33; use data.seq_len=31 or less"
    with pytest.raises(DataError, match=message):
        launch(text)
    with pytest.raises(DataError, match="32 tokens are fewer than one window of seq_len"):
        run_here(text)
    assert not run_folder(text).metrics.exists()


def test_t2_control_unverified_tokens_are_read_that_no_file_holds(config, monkeypatch):
    os.truncate(folder_of(config) / TRAIN, 60_000)
    unprotected(monkeypatch)
    dataset = open_dataset(folder_of(config))
    assert dataset.n_tokens("train") == 36_000
    assert sum(map(len, dataset.shards("train"))) == 30_000
    assert dataset.windows("train", np.array([35_000]), 33).shape == (1, 33)


def test_t2_control_without_the_rule_a_short_split_is_found_in_the_middle_of_a_run(
    text, monkeypatch
):
    rewrite_ids(folder_of(text), HELD, [1] * 32)
    monkeypatch.setattr(Dataset, "refuse_shorter_than", lambda *_: None)
    monkeypatch.setattr(batches, "n_windows", lambda *_: 1)
    launch(text)
    with pytest.raises(IndexError, match="window at 0 of 33 tokens in validation of 32"):
        run_here(text)
