"""Windows of each step, as a pure function of seed and step, without a shuffle buffer.

Windows of seq_len + 1 tokens start at multiples of seq_len, so every token but the first is
predicted once per epoch. An epoch visits its windows in the order of a keyed permutation: a
Feistel network on the smallest nearly square grid that holds them (Black and Rogaway 2002,
"Ciphers with arbitrary finite domains"), with cycle walking: an image outside the range is mapped
again until it is inside. That is rare, because the grid is hardly larger than the range; one step
costs about 0.1 ms.

Invariant: the result depends only on (seed, step, batch_seqs, n_tokens, seq_len). Micro-batches and
ranks take slices of it.
"""

import math

import numpy as np
from numpy.typing import NDArray

from train.errors import DataError

ROUNDS = 8
"""Feistel rounds. Four suffice for a pseudo-random round function (Luby and Rackoff 1988); a hash
is not proven to be one, so we take eight."""

_GOLDEN = 0x9E3779B97F4A7C15
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB
_MASK_64 = 0xFFFFFFFFFFFFFFFF


def n_windows(n_tokens: int, seq_len: int) -> int:
    """Number of windows per epoch: seq_len + 1 tokens each, neighbours share one token.

    Raises:
        DataError: No window fits.
    """
    windows = (n_tokens - 1) // seq_len
    if windows < 1:
        raise DataError(
            f"{n_tokens} tokens are fewer than one window of seq_len + 1 = {seq_len + 1} tokens; "
            f"use data.seq_len={max(1, n_tokens - 1)} or less, or more text"
        )
    return windows


def epochs(tokens: float, n_tokens: int, seq_len: int) -> float:
    """Number of epochs in `tokens` training tokens."""
    return tokens / (n_windows(n_tokens, seq_len) * seq_len)


def segment_starts(
    *, seed: int, step: int, n_steps: int, batch_seqs: int, n_tokens: int, seq_len: int
) -> NDArray[np.int64]:
    """Starts of the windows of consecutive optimiser steps.

    Args:
        seed: Any integer; determines the order.
        step: First step, counted from 0.
        n_steps: Number of steps.
        batch_seqs: Windows per step.
        n_tokens: Tokens in the split.
        seq_len: Predicted tokens per window.

    Returns:
        Shape (n_steps, batch_seqs). Token offsets, multiples of seq_len; a batch may span epochs.

    Raises:
        DataError: The split is shorter than one window.
    """
    windows = n_windows(n_tokens, seq_len)
    # Python integers do not overflow
    first, total = step * batch_seqs, n_steps * batch_seqs
    starts = np.empty(total, dtype=np.int64)
    done = 0
    while done < total:
        epoch, position = divmod(first + done, windows)
        count = min(total - done, windows - position)
        positions = np.arange(position, position + count, dtype=np.uint64)
        starts[done : done + count] = permute(positions, size=windows, key=epoch_key(seed, epoch))
        done += count
    return starts.reshape(n_steps, batch_seqs) * seq_len


def epoch_key(seed: int, epoch: int) -> int:
    """64-bit key of (seed, epoch)."""
    return _mix_int(_mix_int(seed) + _GOLDEN * (epoch + 1))


def permute(positions: NDArray[np.uint64], *, size: int, key: int) -> NDArray[np.int64]:
    """Apply the permutation of range(size) that `key` selects.

    Args:
        positions: Shape (n,), each below `size`.
        size: Length of the range.
        key: 64-bit integer.

    Returns:
        Images of the positions, shape (n,).
    """
    rows = math.isqrt(size - 1) + 1
    columns = -(-size // rows)
    keys = [_mix_int(key + _GOLDEN * (number + 1)) for number in range(ROUNDS)]
    images = _feistel(positions, rows, columns, keys)
    # rare: the grid has fewer than sqrt(size) cells more than the range
    while (images >= size).any():
        outside = np.flatnonzero(images >= size)
        images[outside] = _feistel(images[outside], rows, columns, keys)
    return images.astype(np.int64)


def _feistel(
    values: NDArray[np.uint64], rows: int, columns: int, keys: list[int]
) -> NDArray[np.uint64]:
    """Permute the cells of a grid: each round shifts one coordinate by a hash of the other."""
    width = np.uint64(columns)
    here, there = values // width, values % width
    modulus, other_modulus = np.uint64(rows), width
    for key in keys:
        here = (here + _mix(there ^ np.uint64(key)) % modulus) % modulus
        here, there = there, here
        modulus, other_modulus = other_modulus, modulus
    # an even number of rounds swaps the coordinates back
    return here * width + there


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64 finaliser of each value (Steele et al. 2014), modulo 2**64."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(_FIRST)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(_SECOND)
    return values ^ (values >> np.uint64(31))


def _mix_int(value: int) -> int:
    """`_mix` of one Python integer modulo 2**64."""
    value &= _MASK_64
    value = ((value ^ (value >> 30)) * _FIRST) & _MASK_64
    value = ((value ^ (value >> 27)) * _SECOND) & _MASK_64
    return value ^ (value >> 31)
