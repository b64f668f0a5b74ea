import hashlib
import random

import numpy as np
import pytest

from train.data.split import EncodedDocument, FirstTokens, HighestHashes, LowestHashes


def document(text, number):
    plain = text.encode()
    tokens = np.frombuffer(plain, dtype=np.uint8).astype(np.int64)
    return EncodedDocument(hashlib.sha256(plain).digest(), number, tokens, len(plain) + 1)


def divide(texts, wanted, rule=LowestHashes):
    """Return the training and the validation documents as texts."""
    split = rule(wanted)
    documents = [document(text, number) for number, text in enumerate(texts)]
    train = [bytes(one.tokens.astype(np.uint8)).decode() for one in split.training(documents)]
    held = [bytes(one.tokens.astype(np.uint8)).decode() for one in split.validation()]
    return train, held


def by_hash(texts):
    return sorted(texts, key=lambda text: hashlib.sha256(text.encode()).digest())


def arbitrary(seed):
    """1 to 300 documents of 1 to 50 characters, from none to nearly all of them copies."""
    rng = random.Random(seed)
    letters = "abcdefgh"[: rng.randint(1, 8)]
    pool = ["".join(rng.choices(letters, k=rng.randint(1, 50))) for _ in range(rng.randint(1, 200))]
    return rng.choices(pool, k=rng.randint(1, 300)), rng


@pytest.mark.parametrize("seed", range(100))
def test_no_document_is_in_both_splits_and_each_is_in_one(seed):
    texts, rng = arbitrary(seed)
    wanted = rng.randint(1, 2 * sum(map(len, texts)))
    train, held = divide(texts, wanted)
    assert not set(train) & set(held)
    assert sorted(train + held) == sorted(texts)
    # the fewest distinct texts, lowest hashes first, that reach `wanted`
    assert held == by_hash(held)
    assert set(held) == set(by_hash(set(texts))[: len(set(held))])
    assert sum(map(len, held)) >= min(wanted, sum(map(len, texts)))
    assert sum(len(text) for text in held if text != held[-1]) < wanted
    # whatever the order of the source
    assert divide(rng.sample(texts, len(texts)), wanted)[1] == held


@pytest.mark.parametrize("seed", range(20))
def test_a_chain_is_cut_once_at_the_border_of_a_piece(seed):
    texts, rng = arbitrary(seed)
    wanted = rng.randint(1, sum(map(len, texts)))
    train, held = divide(texts, wanted, FirstTokens)
    assert held + train == texts
    assert sum(map(len, held[:-1])) < wanted <= sum(map(len, held))


def test_the_text_for_a_tokenizer_comes_from_the_other_end():
    texts = [f"document {number} " * (1 + number % 7) for number in range(300)]
    sample = HighestHashes(1000)
    sample.take(random.Random(1).sample(texts, len(texts)))
    found = sample.texts()
    assert found == by_hash(texts)[-len(found) :]
    assert sum(map(len, found[1:])) < 1000 <= sum(map(len, found))
    assert sample.lowest() == hashlib.sha256(found[0].encode()).digest()


def test_the_text_for_a_tokenizer_is_at_most_half_of_a_short_one():
    texts = [f"document {number} " * (1 + number % 7) for number in range(300)]
    sample = HighestHashes(1 << 20)
    sample.take(texts)
    assert sum(map(len, sample.texts())) / sum(map(len, texts)) == pytest.approx(0.5, abs=0.01)
    single = HighestHashes(1 << 20)
    single.take(["only one"])
    assert single.texts() == ["only one"]
