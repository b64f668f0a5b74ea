"""Markov source with a known entropy rate, which is the loss of the best possible model.

With probability 1 - w the next token is drawn from a Zipf unigram distribution (token id = rank),
and with probability w uniformly from the `successors` of the token before it. The tokens are one
stationary chain: documents are consecutive pieces without separators, and validation is its
beginning, so the entropy rate holds for both splits.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from train.config.experiment import SyntheticConfig
from train.errors import ConfigError

BLOCK_TOKENS = 1 << 20
"""Tokens per block. Random numbers are drawn block by block, so this determines the tokens."""


@dataclass(frozen=True, kw_only=True)
class MarkovSource:
    """Markov chain and its entropy rate.

    Attributes:
        unigram_V: Shape (V,). Zipf probabilities.
        successors_VS: Shape (V, S). The distinct successors of each token.
        bigram_weight: Probability that a token is one of its predecessor's successors.
        stationary_V: Shape (V,). Stationary distribution of the chain.
        entropy_rate: Nats per token.
    """

    unigram_V: NDArray[np.float64]
    successors_VS: NDArray[np.int64]
    bigram_weight: float
    stationary_V: NDArray[np.float64]
    entropy_rate: float


def markov_source(config: SyntheticConfig, vocab_size: int) -> MarkovSource:
    """Build the chain that `config` describes.

    Raises:
        ConfigError: A setting is out of its range.
    """
    check(config, vocab_size)
    weights = np.arange(1, vocab_size + 1, dtype=np.float64) ** -config.zipf_exponent
    unigram = weights / weights.sum()
    rng = np.random.default_rng([config.seed, 0])
    # a draw without replacement: the tokens with the lowest keys of a row
    keys = rng.random((vocab_size, vocab_size))
    successors = np.argsort(keys, axis=1, kind="stable")[:, : config.successors].astype(np.int64)
    matrix = _transitions(unigram, successors, config.bigram_weight)
    stationary = _stationary(matrix)
    rows = -np.sum(matrix * np.log(np.where(matrix > 0, matrix, 1.0)), axis=1)
    return MarkovSource(
        unigram_V=unigram,
        successors_VS=successors,
        bigram_weight=config.bigram_weight,
        stationary_V=stationary,
        entropy_rate=float(stationary @ rows),
    )


def check(config: SyntheticConfig, vocab_size: int) -> None:
    """Check the range of every setting.

    Raises:
        ConfigError: Names the setting, its value and its range.
    """
    rules = (
        ("tokens", config.tokens, config.tokens >= 2, "at least 2"),
        ("document_tokens", config.document_tokens, config.document_tokens >= 1, "at least 1"),
        ("zipf_exponent", config.zipf_exponent, 0 <= config.zipf_exponent < np.inf,
         "finite and at least 0"),
        ("bigram_weight", config.bigram_weight, 0 <= config.bigram_weight < 1, "in [0, 1)"),
        ("successors", config.successors, 1 <= config.successors <= vocab_size,
         f"between 1 and data.vocab_size={vocab_size}"),
        ("seed", config.seed, config.seed >= 0, "at least 0"),
    )  # fmt: skip
    for name, value, holds, rule in rules:
        if not holds:
            raise ConfigError(f"data.synthetic.{name}={value} must be {rule}")


def generate(source: MarkovSource, *, tokens: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Yield the chain in blocks of BLOCK_TOKENS, the last one shorter.

    Unigram tokens do not depend on the token before them and are drawn at once. The others follow
    in vectorised passes: those one position after a unigram token, those two after, and so on.
    """
    rng = np.random.default_rng([seed, 1])
    unigram_cdf = np.cumsum(source.unigram_V)
    n_successors = source.successors_VS.shape[1]
    last_token = -1
    for begin in range(0, tokens, BLOCK_TOKENS):
        count = min(BLOCK_TOKENS, tokens - begin)
        follows = rng.random(count) < source.bigram_weight
        draws = rng.random(count)
        block = _draw(unigram_cdf, draws)
        choices = np.minimum((draws * n_successors).astype(np.int64), n_successors - 1)
        if last_token < 0:
            # the chain starts in its stationary distribution
            block[0] = _draw(np.cumsum(source.stationary_V), draws[:1])[0]
        elif follows[0]:
            block[0] = source.successors_VS[last_token, choices[0]]
        follows[0] = False
        _follow(block, follows, choices, source.successors_VS)
        last_token = int(block[-1])
        yield block


def documents(config: SyntheticConfig, source: MarkovSource) -> Iterator[NDArray[np.int64]]:
    """Yield consecutive pieces of `document_tokens` tokens, the last possibly shorter."""
    size = config.document_tokens
    rest = np.empty(0, dtype=np.int64)
    for block in generate(source, tokens=config.tokens, seed=config.seed):
        rest = np.concatenate([rest, block])
        whole = len(rest) // size * size
        for begin in range(0, whole, size):
            yield rest[begin : begin + size]
        rest = rest[whole:]
    if len(rest):
        yield rest


def _follow(
    block: NDArray[np.int64],
    follows: NDArray[np.bool_],
    choices: NDArray[np.int64],
    successors: NDArray[np.int64],
) -> None:
    """Fill in the successors, by distance from the last unigram token."""
    due = np.flatnonzero(follows[1:] & ~follows[:-1]) + 1
    while due.size:
        block[due] = successors[block[due - 1], choices[due]]
        due = due + 1
        due = due[due < len(block)]
        due = due[follows[due]]


def _draw(cdf: NDArray[np.float64], draws: NDArray[np.float64]) -> NDArray[np.int64]:
    """Tokens by inverse transform sampling."""
    tokens = np.searchsorted(cdf, draws, side="right")
    return np.minimum(tokens, len(cdf) - 1).astype(np.int64)


def _transitions(
    unigram: NDArray[np.float64], successors: NDArray[np.int64], weight: float
) -> NDArray[np.float64]:
    """P[i, j] = (1 - w) unigram[j] + w [j is a successor of i] / successors."""
    matrix = np.tile((1 - weight) * unigram, (len(unigram), 1))
    rows = np.arange(len(unigram))[:, None]
    matrix[rows, successors] += weight / successors.shape[1]
    return matrix


def _stationary(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Solve pi P = pi, sum(pi) = 1; the unigram part makes the solution unique."""
    size = len(matrix)
    system = matrix.T - np.eye(size)
    system[-1] = 1.0
    target = np.zeros(size)
    target[-1] = 1.0
    solution: NDArray[np.float64] = np.clip(np.linalg.solve(system, target), 0.0, None)
    solution /= solution.sum()
    return solution
