"""Percentile intervals, and resampling as counts so that a resample is a weight vector."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Interval = tuple[float, float]

LEVEL = 0.95
"""Coverage aimed at by every interval."""

ELEMENTS_PER_BATCH = 250_000
"""Resamples x rows held at once: arrays of 2 MB stay in cache and bound the memory."""


def percentile_interval(draws: Floats) -> Interval:
    """Return the central 95 % of the finite draws."""
    low, high = np.nanpercentile(draws, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    return float(low), float(high)


def resample_counts(n_rows: int, n_resamples: int, seed: int) -> Iterator[Floats]:
    """Yield batches of pairs-bootstrap weights: how often each row was drawn.

    Args:
        n_rows: Rows of the table.
        n_resamples: Resamples in all.
        seed: Seeds the draws.

    Yields:
        Shape (batch, rows); each row sums to n_rows.
    """
    rng = np.random.default_rng(seed)
    batch = max(1, ELEMENTS_PER_BATCH // n_rows)
    for start in range(0, n_resamples, batch):
        size = min(batch, n_resamples - start)
        drawn = rng.integers(0, n_rows, size=(size, n_rows))
        flat = drawn + n_rows * np.arange(size)[:, None]
        counts = np.bincount(flat.ravel(), minlength=size * n_rows)
        yield counts.reshape(size, n_rows).astype(np.float64)
