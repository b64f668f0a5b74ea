"""Builds tables of runs that repeat data, from a known surface."""

import numpy as np
import pandas as pd

SURFACE = {"E": 1.8, "A": 480.0, "B": 2100.0, "alpha": 0.35, "beta": 0.37}
SIZES = (3e7, 1e8, 3e8, 1e9, 3e9)
UNIQUE = (3e8, 1e9, 3e9)

PUBLISHED = {
    "E": np.exp(0.6254804),
    "A": np.exp(6.255414),
    "B": np.exp(7.3049974),
    "alpha": 0.3526596,
    "beta": 0.3526596,
    "R_D": 15.387756,
    "R_N": 5.309743,
}
"""Muennighoff et al. 2023 (arXiv:2305.16264), appendix A."""


def worth(have, fresh, r):
    """D' of D tokens over U fresh ones, or N' of N parameters where fewer are asked for.

    Muennighoff et al. 2023 (arXiv:2305.16264), equations 5 and 6.
    """
    fresh = np.minimum(fresh, have)
    return fresh * (1.0 + r * (1.0 - np.exp(-(have / fresh - 1.0) / r)))


def repeated_table(
    r_d=15.0, r_n=5.0, *, epochs=(1, 4, 16, 64), sizes=SIZES, unique=UNIQUE, noise=0.0, seed=0
):
    """One row a run: every size on every set of unique tokens for every number of epochs."""
    u, n, k = (grid.ravel() for grid in np.meshgrid(unique, sizes, epochs, indexing="ij"))
    s = SURFACE
    needed = (s["alpha"] * s["A"] / (s["beta"] * s["B"]) * u ** s["beta"]) ** (1 / s["alpha"])
    by_n = s["A"] / worth(n, needed, r_n) ** s["alpha"]
    by_d = s["B"] / worth(u * k, u, r_d) ** s["beta"]
    noises = np.random.default_rng(seed).standard_normal(len(u))
    loss = (s["E"] + by_n + by_d) * np.exp(noise * noises)
    return pd.DataFrame(
        {"n_params": n, "tokens": u * k, "flops": 6 * n * u * k, "loss": loss, "unique_tokens": u}
    )
