"""Percentile intervals, and resampling as counts so that a resample is a weight vector.

What is resampled is what varies by chance: a run. Rows that are checkpoints of one run rise and
fall together, so they are drawn together.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtrit  # scipy.stats takes a second to import

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Interval = tuple[float, float]

LEVEL = 0.95
"""Coverage aimed at by every interval."""

ELEMENTS_PER_BATCH = 250_000
"""Resamples x rows held at once: arrays of 2 MB stay in cache and bound the memory."""


def percentile_interval(draws: Floats, *, n: int | None = None, parameters: int = 1) -> Interval:
    """Return the central 95 % of the finite draws, or a little more where they were few runs.

    Args:
        draws: Shape (resamples,). NaN marks a resample without an answer.
        n: What was resampled: runs, or clusters of them. None takes the plain percentiles.
        parameters: Fitted to each resample; used with n.

    Raises:
        ValueError: n does not exceed the parameters.

    Source:
        Hesterberg 2015 (arXiv:1411.5279), section 3: percentile intervals of small samples are
        too narrow by sqrt((n - p) / n), and take a normal quantile where Student's t belongs.
    """
    tail = 100.0 * (float(ndtr(-_quantile(n, parameters))) if n else 0.5 * (1 - LEVEL))
    low, high = np.nanpercentile(draws, [tail, 100.0 - tail])
    return float(low), float(high)


def _quantile(n: int, parameters: int) -> float:
    """Return the normal quantile at which expanded percentiles are read."""
    freedom = n - parameters
    if freedom < 1:
        raise ValueError(f"n={n} is not above parameters={parameters}: no freedom is left")
    return float(np.sqrt(n / freedom) * stdtrit(freedom, 0.5 * (1 + LEVEL)))


def resample_counts(
    n_rows: int, n_resamples: int, seed: int, clusters: Ints | None = None
) -> Iterator[Floats]:
    """Yield batches of pairs-bootstrap weights: how often each row was drawn.

    Args:
        n_rows: Rows of the table.
        n_resamples: Resamples in all.
        seed: Seeds the draws.
        clusters: Shape (rows,). Any number per run; all rows of a run are drawn together. None
            takes every row as its own run.

    Yields:
        Shape (batch, rows). Without clusters each row sums to n_rows; with them as many clusters
        are drawn as there are.
    """
    n_drawn, member = _members(n_rows, clusters)
    rng = np.random.default_rng(seed)
    for size in _batches(n_rows, n_resamples):
        drawn = rng.integers(0, n_drawn, size=(size, n_drawn))
        flat = drawn + n_drawn * np.arange(size)[:, None]
        counts = np.bincount(flat.ravel(), minlength=size * n_drawn)
        weights = counts.reshape(size, n_drawn).astype(np.float64)
        yield weights if clusters is None else weights[:, member]


def resample_weights(
    n_rows: int, n_resamples: int, seed: int, clusters: Ints | None = None
) -> Iterator[Floats]:
    """Yield batches of Bayesian-bootstrap weights: every run counts, each by another weight.

    Args:
        n_rows: Rows of the table.
        n_resamples: Resamples in all.
        seed: Seeds the draws.
        clusters: Shape (rows,). Any number per run; all rows of a run share a weight. None takes
            every row as its own run.

    Yields:
        Shape (batch, rows). The weights of the runs have mean 1.

    Source:
        Rubin 1981, "The Bayesian bootstrap": exponential weights over their mean, which have the
        mean of multinomial counts and nearly their variance, but never leave a run out.
    """
    n_drawn, member = _members(n_rows, clusters)
    rng = np.random.default_rng(seed)
    for size in _batches(n_rows, n_resamples):
        weights = rng.exponential(size=(size, n_drawn))
        yield (weights / weights.mean(axis=1, keepdims=True))[:, member]


def _members(n_rows: int, clusters: Ints | None) -> tuple[int, Ints]:
    """Return how many runs there are, and which run each row is of."""
    if clusters is None:
        return n_rows, np.arange(n_rows)
    known, member = np.unique(clusters, return_inverse=True)
    return len(known), member


def _batches(n_rows: int, n_resamples: int) -> Iterator[int]:
    """Yield the sizes of batches of resamples."""
    batch = max(1, ELEMENTS_PER_BATCH // n_rows)
    for start in range(0, n_resamples, batch):
        yield min(batch, n_resamples - start)
