"""Which runs share C, and the one best loss of each size: from runs to cells.

A cell is one (N, D): the mean over seeds at the learning rate (and batch) whose mean is lowest.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Floats = NDArray[np.float64]

GAP = 0.02
"""Natural log: neighbours in sorted C further apart than this belong to different budgets."""

SPREAD = 0.05
"""Natural log: runs chained over more than this vary C continuously and are no budget."""

SAME_TOKENS = 0.01
"""Natural log: runs of one size whose tokens differ by less are the same cell."""

_TUNED = ("lr", "batch_tokens")


@dataclass(frozen=True)
class Cells:
    """Best runs by (N, D), and what the seeds say about noise."""

    frame: pd.DataFrame
    """Columns n_params, tokens, flops, loss, seeds, lr_edge ('' or 'lowest' or 'highest')."""
    best: NDArray[np.bool_]
    """Shape (runs,): rows at their cell's best learning rate, where the grid brackets it."""
    seed_sd: float
    """Sd of log loss between seeds of one cell; nan without replicas."""
    seed_freedom: int
    """Degrees of freedom behind seed_sd."""
    lr_tried: int
    """Most learning rates tried in one cell."""


def make_cells(frame: pd.DataFrame) -> Cells:
    """Reduce runs to cells.

    Args:
        frame: Columns n_params, tokens, flops, loss; lr, batch_tokens where the table has them.
    """
    work = frame[["n_params", "tokens", "flops", "loss"]].copy()
    work["seed"] = frame["seed"].to_numpy() if "seed" in frame else 0
    for name in _TUNED:
        work[name] = frame[name].to_numpy() if name in frame else np.nan
    work["row"] = np.arange(len(work))
    work["cell"] = _number_cells(work)
    best = np.zeros(len(work), dtype=bool)
    columns = ["n_params", "tokens", "flops", "loss"]
    lone = ~work["cell"].duplicated(keep=False)
    best[lone.to_numpy()] = True
    records = work.loc[lone, columns].assign(seeds=1, lr_edge="").to_dict("records")
    squares, freedom, lr_tried = 0.0, 0, 1
    for _, cell in work[~lone].groupby("cell", sort=False):
        tried = cell.groupby(list(_TUNED), dropna=False, sort=False)
        chosen = min((rows for _, rows in tried), key=lambda rows: rows["loss"].mean())
        edge = _lr_edge(cell, chosen)
        lr_tried = max(lr_tried, cell["lr"].nunique())
        best[chosen["row"].to_numpy()] = not edge
        log_loss = np.log(chosen["loss"].to_numpy())
        if chosen["seed"].nunique() == len(chosen):  # only what is known to be another seed
            squares += float(((log_loss - log_loss.mean()) ** 2).sum())
            freedom += len(chosen) - 1
        means = chosen[columns].mean()
        records.append({**means.to_dict(), "seeds": len(chosen), "lr_edge": edge})
    seed_sd = float(np.sqrt(squares / freedom)) if freedom else float("nan")
    return Cells(pd.DataFrame(records), best, seed_sd, freedom, lr_tried)


def _number_cells(work: pd.DataFrame) -> NDArray[np.int64]:
    """Number runs by size, then by gaps in tokens."""
    order = work.sort_values(["n_params", "tokens"])
    log_d = np.log(order["tokens"].to_numpy())
    size = order["n_params"].to_numpy()
    new = np.concatenate([[True], (np.diff(log_d) > SAME_TOKENS) | (np.diff(size) != 0)])
    out = np.empty(len(work), dtype=np.int64)
    out[order["row"].to_numpy()] = np.cumsum(new)
    return out


def _lr_edge(cell: pd.DataFrame, chosen: pd.DataFrame) -> str:
    """Say on which edge of a learning-rate grid of 3 or more the best one lies."""
    batch = chosen["batch_tokens"].iloc[0]
    same = cell if np.isnan(batch) else cell[cell["batch_tokens"] == batch]
    rates = np.sort(same["lr"].dropna().unique())
    if len(rates) < 3:
        return ""
    best = chosen["lr"].iloc[0]
    return "lowest" if best == rates[0] else "highest" if best == rates[-1] else ""


def group_budgets(flops: Floats) -> NDArray[np.int64]:
    """Number the budgets from the smallest; -1 marks runs whose C is nobody else's budget."""
    order = np.argsort(flops, kind="stable")
    log_c = np.log(flops[order])
    cluster = np.concatenate([[0], np.cumsum(np.diff(log_c) > GAP)])
    labels = np.full(len(flops), -1, dtype=np.int64)
    count = 0
    for k in range(int(cluster[-1]) + 1):
        members = np.flatnonzero(cluster == k)
        if log_c[members[-1]] - log_c[members[0]] <= SPREAD:
            labels[order[members]] = count
            count += 1
    return labels
