import hashlib
import random

import numpy as np
import pytest

from train.data.split import Encoded, FirstTokens, HighestHashes, LowestHashes


def document(text: str, number: int) -> Encoded:
    plain = text.encode()
    tokens = np.frombuffer(plain, dtype=np.uint8).astype(np.int64)
    return Encoded(hashlib.sha256(plain).digest(), number, tokens, len(plain) + 1)


def divide(texts: list[str], wanted: int) -> tuple[list[str], list[str]]:
    split = LowestHashes(wanted)
    documents = [document(text, number) for number, text in enumerate(texts)]
    train = [bytes(one.tokens.astype(np.uint8)).decode() for one in split.training(documents)]
    held = [bytes(one.tokens.astype(np.uint8)).decode() for one in split.validation()]
    return train, held


TEXTS = [f"document {number} " * (1 + number % 7) for number in range(300)]


def test_held_out_are_the_lowest_hashes_that_reach_the_wanted_tokens() -> None:
    _, held = divide(TEXTS, 2000)
    by_hash = sorted(TEXTS, key=lambda text: hashlib.sha256(text.encode()).digest())
    expected: list[str] = []
    while sum(map(len, expected)) < 2000:
        expected.append(by_hash[len(expected)])
    assert held == expected


def test_the_choice_does_not_depend_on_document_order() -> None:
    _, held = divide(TEXTS, 2000)
    for seed in range(5):
        shuffled = random.Random(seed).sample(TEXTS, len(TEXTS))
        train, other = divide(shuffled, 2000)
        assert other == held
        assert sorted(train + other) == sorted(TEXTS)


def test_copies_of_a_document_fall_on_one_side() -> None:
    for seed in range(20):
        texts = random.Random(seed).choices(TEXTS, k=400)
        train, held = divide(texts, 3000)
        assert not set(train) & set(held)
        assert sorted(train + held) == sorted(texts)
        assert sum(map(len, held)) >= 3000


def test_a_text_that_is_too_short_is_held_out_whole() -> None:
    train, held = divide(TEXTS[:3], 10_000)
    assert train == []
    assert len(held) == 3


def test_a_chain_is_split_at_a_document_border() -> None:
    split = FirstTokens(25)
    documents = [document("x" * 10, number) for number in range(5)]
    assert [one.number for one in split.training(documents)] == [3, 4]
    assert [one.number for one in split.validation()] == [0, 1, 2]


def test_a_tokenizer_sample_comes_from_the_other_end() -> None:
    sample = HighestHashes(1000)
    sample.take(TEXTS)
    texts = sample.texts()
    by_hash = sorted(TEXTS, key=lambda text: hashlib.sha256(text.encode()).digest())
    assert texts == by_hash[-len(texts) :]
    assert sum(map(len, texts[1:])) < 1000 <= sum(map(len, texts))
    shuffled = HighestHashes(1000)
    shuffled.take(random.Random(1).sample(TEXTS, len(TEXTS)))
    assert shuffled.texts() == texts
    assert sample.lowest() == hashlib.sha256(texts[0].encode()).digest()


def test_a_tokenizer_sample_is_at_most_half_of_a_short_text() -> None:
    sample = HighestHashes(1 << 20)
    sample.take(TEXTS)
    assert sum(map(len, sample.texts())) / sum(map(len, TEXTS)) == pytest.approx(0.5, abs=0.01)
    single = HighestHashes(1 << 20)
    single.take(["only one"])
    assert single.texts() == ["only one"]
