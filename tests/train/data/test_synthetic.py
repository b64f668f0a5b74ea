import dataclasses

import numpy as np
import pytest

from train.config.experiment import SyntheticConfig
from train.data import synthetic
from train.errors import ConfigError


def chain(config, vocab_size):
    source = synthetic.markov_source(config, vocab_size)
    return np.concatenate(list(synthetic.generate(source, tokens=config.tokens, seed=config.seed)))


def transitions(source):
    return synthetic._transitions(source.unigram_V, source.successors_VS, source.bigram_weight)


def test_entropy_rate_is_exact_where_it_is_known_by_hand():
    uniform = SyntheticConfig(zipf_exponent=0.0, bigram_weight=0.0, successors=1)
    assert synthetic.markov_source(uniform, 64).entropy_rate == pytest.approx(np.log(64), abs=1e-12)
    every = SyntheticConfig(zipf_exponent=0.0, bigram_weight=0.5, successors=8)
    assert synthetic.markov_source(every, 8).entropy_rate == pytest.approx(np.log(8), abs=1e-12)
    half = SyntheticConfig(zipf_exponent=0.0, bigram_weight=0.5, successors=1)
    # one successor has 1/2 + 1/2 * 1/4, the three others 1/8 each
    by_hand = -(5 / 8 * np.log(5 / 8) + 3 / 8 * np.log(1 / 8))
    assert synthetic.markov_source(half, 4).entropy_rate == pytest.approx(by_hand, abs=1e-12)


def test_stationary_distribution_is_kept_by_the_chain():
    source = synthetic.markov_source(SyntheticConfig(bigram_weight=0.9), 97)
    matrix = transitions(source)
    assert np.abs(matrix.sum(axis=1) - 1).max() < 1e-12
    assert np.abs(source.stationary_V @ matrix - source.stationary_V).max() < 1e-12
    assert source.stationary_V.sum() == pytest.approx(1, abs=1e-12)
    assert all(len(set(row)) == 4 for row in source.successors_VS.tolist())


@pytest.mark.parametrize("weight", [0.0, 0.5, 0.95])
def test_generated_tokens_have_the_stated_entropy_rate_and_transitions(weight):
    config = SyntheticConfig(tokens=1_500_000, bigram_weight=weight)
    tokens = chain(config, 31)
    source = synthetic.markov_source(config, 31)
    matrix = transitions(source)
    surprise = -np.log(matrix[tokens[:-1], tokens[1:]])
    assert surprise.mean() == pytest.approx(source.entropy_rate, abs=0.01)
    shares = np.bincount(tokens, minlength=31) / len(tokens)
    assert np.abs(shares - source.stationary_V).max() < 0.005
    counts = np.zeros((31, 31))
    np.add.at(counts, (tokens[:-1], tokens[1:]), 1)
    assert np.abs(counts[0] / counts[0].sum() - matrix[0]).max() < 0.01


def test_blocks_join_into_one_chain(monkeypatch):
    config = SyntheticConfig(tokens=20_000, bigram_weight=0.999, successors=1, zipf_exponent=0.0)
    monkeypatch.setattr(synthetic, "BLOCK_TOKENS", 10)
    tokens = chain(config, 50)
    follower = synthetic.markov_source(config, 50).successors_VS[:, 0]
    followed = (tokens[1:] == follower[tokens[:-1]]).reshape(-1)
    # across block borders as inside
    assert followed[9::10].mean() > 0.99
    assert followed.mean() > 0.99


def test_documents_are_consecutive_pieces_of_the_chain():
    config = SyntheticConfig(tokens=10_500, document_tokens=1000)
    source = synthetic.markov_source(config, 17)
    pieces = list(synthetic.documents(config, source))
    assert [len(piece) for piece in pieces] == [1000] * 10 + [500]
    assert np.concatenate(pieces).tolist() == chain(config, 17).tolist()


def test_chain_depends_on_its_seed_alone():
    config = SyntheticConfig(tokens=1000)
    assert chain(config, 17).tolist() == chain(config, 17).tolist()
    assert chain(config, 17).tolist() != chain(dataclasses.replace(config, seed=1), 17).tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": 1}, "tokens=1 must be at least 2"),
        ({"document_tokens": 0}, "document_tokens=0 must be at least 1"),
        ({"zipf_exponent": -1.0}, "zipf_exponent=-1.0 must be finite and at least 0"),
        ({"zipf_exponent": float("inf")}, "zipf_exponent=inf must be finite"),
        ({"bigram_weight": 1.0}, r"bigram_weight=1.0 must be in \[0, 1\)"),
        ({"successors": 18}, "successors=18 must be between 1 and data.vocab_size=17"),
        ({"seed": -1}, "seed=-1 must be at least 0"),
    ],
)
def test_settings_without_meaning_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        synthetic.markov_source(dataclasses.replace(SyntheticConfig(), **change), 17)
