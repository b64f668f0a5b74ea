"""Made-up grids of learning rate and batch with a known best setting."""

import numpy as np
import pandas as pd

BEND = np.array([[0.014, -0.004], [-0.004, 0.010]])
"""Second derivatives of log loss by (log lr, log batch), as on the published grids."""

P, Q, R = -0.7, 0.2, 0.57
"""Exponents of lr = 10 N**P D**Q and batch = .5 D**R."""

PAIRS = tuple((n, d) for n in (1e8, 2e8, 4e8) for d in (4e9, 1.6e10, 6.4e10))


def best_lr(n, d):
    return 10.0 * n**P * d**Q


def best_batch(d):
    return 0.5 * d**R


def floor(n, d):
    """Nats per token at the best setting."""
    return 2.0 + 400.0 / n**0.35 + 1000.0 / d**0.35


def study(pairs=PAIRS, *, batches=7, noise=0.0, seed=0):
    """Return runs at learning rates and batches in factors of 2 around the best.

    Args:
        pairs: (N, D).
        batches: Batch sizes; 1 is the best one alone.
        noise: Sd of a log loss.
        seed: Of the noise.
    """
    rng = np.random.default_rng(seed)
    parts = []
    for n, d in pairs:
        # Off the grid's center by the same third of a step everywhere, so that nothing cancels.
        lr = best_lr(n, d) * 2.0 ** (np.arange(-4, 5) + 0.3)
        batch = best_batch(d) * 2.0 ** (np.arange(batches) - batches // 2)
        cells = np.stack(np.meshgrid(lr, batch, indexing="ij"), axis=-1).reshape(-1, 2)
        z = np.log(cells / [best_lr(n, d), best_batch(d)])
        log_loss = np.log(floor(n, d)) + 0.5 * np.einsum("ki,ij,kj->k", z, BEND, z)
        log_loss += noise * rng.standard_normal(len(z))
        point = {"n_params": n, "tokens": d, "flops": 6 * n * d, "loss": np.exp(log_loss)}
        parts.append(pd.DataFrame({**point, "lr": cells[:, 0], "batch_tokens": cells[:, 1]}))
    return pd.concat(parts, ignore_index=True)
