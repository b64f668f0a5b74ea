"""Made-up grids of learning rate and batch with a known best setting."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Floats = NDArray[np.float64]

BEND = np.array([[0.014, -0.004], [-0.004, 0.010]])
"""Second derivatives of log loss by (log lr, log batch), as on the published grids."""

P, Q, R = -0.7, 0.2, 0.57
"""Exponents of lr = 10 N**P D**Q and batch = .5 D**R."""

PAIRS = tuple((n, d) for n in (1e8, 2e8, 4e8) for d in (4e9, 1.6e10, 6.4e10))


def best_lr(n: float, d: float) -> float:
    return 10.0 * n**P * d**Q


def best_batch(d: float) -> float:
    return 0.5 * d**R


def floor(n: float, d: float) -> float:
    """Nats per token at the best setting."""
    return 2.0 + 400.0 / n**0.35 + 1000.0 / d**0.35


def study(
    pairs: Sequence[tuple[float, float]] = PAIRS,
    *,
    batches: int = 7,
    noise: float = 0.0,
    seed: int = 0,
) -> pd.DataFrame:
    """Return runs at learning rates and batches in factors of 2 around the best.

    Args:
        pairs: (N, D).
        batches: Batch sizes; 1 is the best one alone.
        noise: Sd of a log loss.
        seed: Of the noise.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for n, d in pairs:
        # Off the grid's center by the same third of a step everywhere, so that nothing cancels.
        for lr in best_lr(n, d) * 2.0 ** (np.arange(-4, 5) + 0.3):
            for batch in best_batch(d) * 2.0 ** (np.arange(batches) - batches // 2):
                z = np.log([lr / best_lr(n, d), batch / best_batch(d)])
                log_loss = np.log(floor(n, d)) + 0.5 * z @ BEND @ z + noise * rng.standard_normal()
                rows.append((n, d, 6 * n * d, np.exp(log_loss), lr, batch))
    return pd.DataFrame(rows, columns=["n_params", "tokens", "flops", "loss", "lr", "batch_tokens"])
