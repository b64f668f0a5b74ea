"""Validation documents in the training split are found, whatever borders lie between."""

import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from token_folders import build

from train.data import overlap, token_file
from train.data.manifest import TRAIN, read_manifest
from train.data.overlap import refuse_overlap
from train.errors import DataError

REMEDY = "do something"


def look(folder: Path) -> None:
    refuse_overlap(folder, read_manifest(folder), remedy=REMEDY)


def text(*documents: Sequence[int]) -> list[int]:
    """Ids of documents, a separator after each."""
    return [token for document in documents for token in (*document, 0)]


A, B, C, D = [1, 2, 3], [4], [5, 6, 7, 8, 9, 10, 11], [12, 13]


def test_a_shared_document_is_named_with_both_its_places(tmp_path: Path) -> None:
    folder = build(tmp_path / "d", text(A, B, C), text(D, B))
    message = (
        r"the validation document at token 3 \(sha256 [0-9a-f]{12} of its ids\) is in the training "
        r"split too, at token 4: its loss would be .*; do something$"
    )
    with pytest.raises(DataError, match=message):
        look(folder)


@pytest.mark.parametrize(
    ("train", "held"),
    [
        ((A, B), (C, D)),
        ((A + B,), (A, B)),  # a part is no whole
        ((A,), (A + B,)),
        (([1, 3, 2],), (A,)),
        (([1, 9, 3],), (A,)),
        (([],), (A,)),
        ((A,), ([],)),
    ],
)
def test_documents_that_are_not_the_same_are_not_shared(
    tmp_path: Path, train: tuple[list[int], ...], held: tuple[list[int], ...]
) -> None:
    look(build(tmp_path / "d", text(*train), text(*held)))


def test_empty_documents_are_documents(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at token 4: "):
        look(build(tmp_path / "d", text(A, [], B), text(C, [])))


def test_ids_without_separators_are_no_documents(tmp_path: Path) -> None:
    look(build(tmp_path / "d", A, A))


@pytest.mark.parametrize("shard", [1, 3, 7, 100])
def test_borders_of_files_and_blocks_are_invisible(
    tmp_path: Path, shard: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = [A, C + C + C, B, D]
    apart = build(tmp_path / "apart", text(*documents), text(C, A + A), shard=shard)
    for number, shared in enumerate(documents):
        place = len(text(*documents[:number]))
        folder = build(tmp_path / str(number), text(*documents), text(C, shared), shard=shard)
        for block in (1, 2, 3, 5, 100):
            monkeypatch.setattr(token_file, "BLOCK_TOKENS", block)
            with pytest.raises(DataError, match=f"at token 8 .* at token {place}: "):
                look(folder)
            look(apart)


def test_equal_signatures_are_not_taken_for_equal_documents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def all_alike(documents: overlap._Documents) -> np.ndarray:
        return np.zeros(len(documents.ends), dtype=np.uint64)

    monkeypatch.setattr(overlap._Documents, "signatures", all_alike)
    look(build(tmp_path / "apart", text(A, B), text(C, D)))
    with pytest.raises(DataError, match="at token 4: "):
        look(build(tmp_path / "shared", text(A, B), text(C, B)))


def test_signatures_spare_the_hashing_of_most_documents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    documents = rng.integers(1, 256, (2_000, 20)).tolist()
    folder = build(tmp_path / "d", text(*documents[:1_900]), text(*documents[1_900:]))
    hashed: list[int] = []
    real = overlap._Documents.digest
    monkeypatch.setattr(
        overlap._Documents, "digest", lambda self, n: (hashed.append(n), real(self, n))[1]
    )
    look(folder)
    assert len(hashed) == 100  # the validation documents themselves


def test_every_document_of_many_is_found(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    documents = [rng.integers(1, 70_000, rng.integers(1, 60)).tolist() for _ in range(300)]
    train = text(*documents)
    for number in range(0, 300, 25):
        folder = build(tmp_path / str(number), train, text(documents[number]), vocab=70_000)
        with pytest.raises(DataError, match="is in the training split too"):
            look(folder)


def test_memory_does_not_grow_with_the_training_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_file, "BLOCK_TOKENS", 10_000)
    peaks = []
    for tokens in (100_000, 1_000_000):
        train = np.ones(tokens, dtype=np.int64)  # one document longer than any that is looked for
        train[-50_000::10] = 0
        folder = build(tmp_path / str(tokens), train.tolist(), text(C))
        tracemalloc.start()
        look(folder)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]
    assert peaks[1] < 1_000_000


def chain(folder: Path, train: list[int], held: list[int], tokens: object) -> Path:
    spec = {"source": "synthetic", "synthetic": {"tokens": tokens, "document_tokens": 2}}
    return build(folder, train, held, spec=spec)


def test_a_chain_may_repeat_itself_but_no_piece_of_it_may_be_in_both_splits(
    tmp_path: Path,
) -> None:
    look(chain(tmp_path / "apart", [1, 0, 2, 0, 2, 0], [1, 0], 8))
    message = "8 training and 2 validation tokens do not add up to the chain's 8, .*; do something"
    with pytest.raises(DataError, match=message):
        look(chain(tmp_path / "both", [1, 0, 1, 0, 2, 0, 2, 0], [1, 0], 8))


def test_a_chain_of_unknown_length_is_refused(tmp_path: Path) -> None:
    for number, spec in enumerate(({}, {"synthetic": 3}, {"synthetic": {"tokens": "8"}})):
        spec = {"source": "synthetic", **spec}
        with pytest.raises(DataError, match="do not add up to the chain's"):
            look(build(tmp_path / str(number), [1] * 6, [2] * 2, spec=spec))


def test_an_unfinished_document_is_none(tmp_path: Path) -> None:
    folder = build(tmp_path / "d", text(A) + B, text(C) + B)
    look(folder)
    assert read_manifest(folder).splits[TRAIN].tokens == 5
