"""Validation text that a run trains on: row T6 of the fault catalogue.

A whole validation document in the training split is refused by its hash, when data are prepared and
when they are opened; for a generated chain, which has no documents, a piece that is in both splits.
Each control removes the protection and shows the harm.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from token_folders import read_ids, rewrite_ids

from faults.data_runs import HELD, TRAIN, folder_of, losses, on_a_chain, on_text, refused
from train.config.schema import Config
from train.data import prepare as preparation
from train.data import verify
from train.data.split import Encoded, LowestHashes
from train.errors import DataError


@pytest.fixture
def text(tiny: Callable[..., Config], tmp_path: Path) -> Config:
    return on_text(tiny, tmp_path)


def documents(config: Config, name: str) -> list[bytes]:
    """The texts of a token file; ids are bytes."""
    return bytes(read_ids(folder_of(config), name)).split(b"\0")[:-1]


def leak(config: Config) -> bytes:
    """Put the third validation document amid the training ones, whose manifest agrees."""
    train, leaked = documents(config, TRAIN), documents(config, HELD)[2]
    assert leaked not in train
    content = b"".join(text + b"\0" for text in (*train[:40], leaked, *train[40:]))
    rewrite_ids(folder_of(config), TRAIN, list(content))
    return leaked


def test_t6_a_validation_document_in_the_training_split_is_found(text: Config) -> None:
    leak(text)
    held = len(b"\0".join(documents(text, HELD)[:2])) + 1
    train = len(b"\0".join(documents(text, TRAIN)[:40])) + 1
    refused(
        text,
        rf"the validation document at token {held} \(sha256 \w{{12}} of its ids\) is in the "
        rf"training split too, at token {train}: .*; delete the folder .* and run again",
    )


def test_t6_half_a_document_is_none(text: Config) -> None:
    train, held = documents(text, TRAIN), documents(text, HELD)
    content = b"".join(half + b"\0" for half in (*train, held[2][:-1], held[2] + b"."))
    rewrite_ids(folder_of(text), TRAIN, list(content))
    losses(text)


def test_t6_control_unlooked_for_a_run_is_measured_on_what_it_read(
    text: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    leaked = leak(text)
    monkeypatch.setattr(verify, "refuse_overlap", lambda *_, **__: None)
    losses(text)
    assert leaked in documents(text, TRAIN)
    assert leaked in documents(text, HELD)


def holds_nothing_back(split: LowestHashes, texts: Iterable[Encoded]) -> Iterator[Encoded]:
    """A split that chooses its validation documents and trains on all."""
    known = list(texts)
    list(CHOOSE(split, known))
    yield from known


CHOOSE = LowestHashes.training


def test_t6_a_preparation_that_leaks_makes_no_folder(
    tiny: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LowestHashes, "training", holds_nothing_back)
    with pytest.raises(DataError, match="is in the training split too"):
        on_text(tiny, tmp_path)
    assert [path.suffix for path in (tmp_path / "data").iterdir()] == [".lock"]


def test_t6_control_unlooked_for_it_makes_one(
    tiny: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LowestHashes, "training", holds_nothing_back)
    for module in (preparation, verify):
        monkeypatch.setattr(module, "refuse_overlap", lambda *_, **__: None)
    config = on_text(tiny, tmp_path)
    assert set(documents(config, HELD)) < set(documents(config, TRAIN))


def test_t6_a_piece_of_a_chain_in_both_splits_is_found(
    tiny: Callable[..., Config], prepared_data: Path, tmp_path: Path
) -> None:
    config = on_a_chain(tiny, prepared_data, tmp_path)
    folder = folder_of(config)
    train, held = read_ids(folder, TRAIN), read_ids(folder, HELD)
    rewrite_ids(folder, TRAIN, [*held[:500], *train])
    refused(
        config,
        "36500 training and 4000 validation tokens do not add up to the chain's 40000, .*; delete",
    )


def test_t6_control_unlooked_for_the_chain_s_validation_is_learned(
    tiny: Callable[..., Config],
    prepared_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = on_a_chain(tiny, prepared_data, tmp_path)
    folder = folder_of(config)
    rewrite_ids(folder, TRAIN, [*read_ids(folder, HELD)[:500], *read_ids(folder, TRAIN)])
    monkeypatch.setattr(verify, "refuse_overlap", lambda *_, **__: None)
    losses(config)
    assert read_ids(folder, TRAIN)[:500] == read_ids(folder, HELD)[:500]
