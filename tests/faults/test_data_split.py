"""T6: validation text that a run trains on. The control splits by position."""

import random

import pytest
from token_folders import read_ids

from faults.data_runs import HELD, TRAIN, folder_of, losses, on_text
from train.data.split import LowestHashes


def texts(seed):
    rng = random.Random(seed)
    pool = [f"Document {n} says {'word ' * rng.randrange(9)}." for n in range(rng.randint(30, 90))]
    return rng.choices(pool, k=150)


def documents(config, name):
    return [text.decode() for text in bytes(read_ids(folder_of(config), name)).split(b"\0")[:-1]]


@pytest.mark.parametrize("seed", range(10))
def test_t6_copies_of_a_validation_document_are_no_training_documents(tiny, tmp_path, seed):
    config = on_text(tiny, tmp_path, texts(seed))
    train, held = documents(config, TRAIN), documents(config, HELD)
    assert not set(train) & set(held)
    assert sorted(train + held) == sorted(texts(seed))
    assert len(held) > len(set(held)), "no validation document has a copy: nothing was tried"


def by_position(split, documents):
    """Take the first 1000 tokens of the stream for validation, as a split without hashes would."""
    for document in documents:
        if split._tokens < split._wanted:
            split._tokens += len(document.tokens)
            split._held.append((0, document.number, document))
        else:
            yield document


def test_t6_control_split_by_position_a_run_trains_on_what_it_is_measured_on(
    tiny, tmp_path, monkeypatch
):
    monkeypatch.setattr(LowestHashes, "training", by_position)
    config = on_text(tiny, tmp_path, texts(0))
    losses(config)
    assert set(documents(config, TRAIN)) & set(documents(config, HELD))
