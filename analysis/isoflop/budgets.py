"""Which runs share C, and the one best loss of each size: from runs to cells.

A cell is one (N, D): the mean over seeds at the learning rate (and batch) whose mean is lowest.
"""

from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.errors import RefusedError
from analysis.intake.table import clusters
from analysis.isoflop.valley import MIN_SIZES

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
    """Columns n_params, tokens, flops, loss, seeds, lr_edge ('' or 'lowest' or 'highest'),
    cluster (the same number where cells are checkpoints of the same runs), and seed_squares and
    seed_freedom (of log loss about the cell's mean, where rows are known to differ in seed)."""
    best: NDArray[np.bool_]
    """Shape (runs,): rows at their cell's best learning rate, where the grid brackets it."""
    seed_sd: float
    """Sd of log loss between seeds of one cell; nan without replicas."""
    seed_freedom: int
    """Degrees of freedom behind seed_sd."""
    lr_tried: int
    """Most learning rates tried in one cell."""
    clusters: NDArray[np.int64]
    """Shape (runs,): which run each row is a checkpoint of, for resampling."""


@dataclass(frozen=True)
class Budget:
    """A budget's cells, ascending in size; every array has shape (sizes,)."""

    flops: float
    n_params: Floats
    tokens: Floats
    losses: Floats
    seeds: Floats
    """Runs behind each loss."""
    clusters: NDArray[np.int64]


def make_cells(frame: pd.DataFrame) -> Cells:
    """Reduce runs to cells.

    Args:
        frame: Columns n_params, tokens, flops, loss; lr, batch_tokens, seed and run_id where the
            table has them.
    """
    codes = clusters(frame) if "run_id" in frame else np.arange(len(frame))
    work = frame[["n_params", "tokens", "flops", "loss"]].copy()
    work["seed"] = frame["seed"].to_numpy() if "seed" in frame else 0
    for name in _TUNED:
        work[name] = frame[name].to_numpy() if name in frame else np.nan
    work["row"] = np.arange(len(work))
    work["run"] = codes
    work["cell"] = _number_cells(work)
    best = np.zeros(len(work), dtype=bool)
    columns = ["n_params", "tokens", "flops", "loss"]
    lone = ~work["cell"].duplicated(keep=False)
    best[lone.to_numpy()] = True
    alone = work.loc[lone, columns].assign(seeds=1, lr_edge="", seed_squares=0.0, seed_freedom=0)
    records = alone.to_dict("records")
    members: list[tuple[int, ...]] = [(run,) for run in work.loc[lone, "run"]]
    lr_tried = 1
    for _, cell in work[~lone].groupby("cell", sort=False):
        tried = cell.groupby(list(_TUNED), dropna=False, sort=False)
        chosen = min((rows for _, rows in tried), key=lambda rows: rows["loss"].mean())
        edge = _lr_edge(cell, chosen)
        lr_tried = max(lr_tried, cell["lr"].nunique())
        best[chosen["row"].to_numpy()] = not edge
        members.append(tuple(sorted(set(chosen["run"]))))
        records.append(
            {
                **chosen[columns].mean().to_dict(),
                "seeds": len(chosen),
                "lr_edge": edge,
                **_seed_scatter(chosen),
            }
        )
    cells = pd.DataFrame(records)
    cells["cluster"] = pd.factorize(pd.Series(members, dtype=object))[0]
    squares, freedom = cells["seed_squares"].sum(), int(cells["seed_freedom"].sum())
    seed_sd = float(np.sqrt(squares / freedom)) if freedom else float("nan")
    return Cells(cells, best, seed_sd, freedom, lr_tried, codes)


def _seed_scatter(chosen: pd.DataFrame) -> dict[Hashable, float]:
    """Return squares about the mean, only of what is known to be another seed."""
    if chosen["seed"].nunique() < len(chosen):
        return {"seed_squares": 0.0, "seed_freedom": 0}
    log_loss = np.log(chosen["loss"].to_numpy())
    squares = float(((log_loss - log_loss.mean()) ** 2).sum())
    return {"seed_squares": squares, "seed_freedom": len(chosen) - 1}


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
    for k in range(int(cluster[-1]) + 1 if len(flops) else 0):
        members = np.flatnonzero(cluster == k)
        if log_c[members[-1]] - log_c[members[0]] <= SPREAD:
            labels[order[members]] = count
            count += 1
    return labels


def split_budgets(cells: pd.DataFrame) -> list[Budget]:
    """Group cells by C, leaving out sizes whose best learning rate is on the edge of its grid.

    Args:
        cells: A Cells.frame.

    Raises:
        RefusedError: Fewer than half of the cells share their C with enough other sizes, or have
            a best learning rate inside their grid.
    """
    labels = group_budgets(cells["flops"].to_numpy())
    budgets = []
    for k in range(labels.max() + 1):
        rows = cells[(labels == k) & (cells["lr_edge"] == "").to_numpy()]
        if len(rows) == 0:
            continue
        by_size = rows.groupby("n_params")
        means = by_size[["tokens", "loss"]].mean()
        budgets.append(
            Budget(
                float(rows["flops"].median()),
                means.index.to_numpy(float),
                means["tokens"].to_numpy(float),
                means["loss"].to_numpy(float),
                by_size["seeds"].sum().to_numpy(float),
                by_size["cluster"].first().to_numpy(np.int64),
            )
        )
    shared = sum(len(b.n_params) for b in budgets if len(b.n_params) >= MIN_SIZES)
    if shared < 0.5 * len(cells):
        _refuse_edges(cells)
        raise RefusedError(
            f"only {shared} of {len(cells)} (N, D) points share their C (within 2 %) with at least "
            f"{MIN_SIZES - 1} other sizes; valleys need budgets: add runs of several sizes at "
            "equal C, for example with budget.flops"
        )
    return budgets


def _refuse_edges(cells: pd.DataFrame) -> None:
    """Say so where it is the learning rates that leave too few cells.

    Raises:
        RefusedError: It is.
    """
    counts = cells["lr_edge"].value_counts()
    lowest, highest = (int(counts.get(edge, 0)) for edge in ("lowest", "highest"))
    if lowest + highest < 0.5 * len(cells):
        return
    parts = [
        f"{count} at the {edge} (add {word} ones)"
        for count, edge, word in ((lowest, "lowest", "lower"), (highest, "highest", "higher"))
        if count
    ]
    raise RefusedError(
        f"the best learning rate of {lowest + highest} of {len(cells)} (N, D) points is at an end "
        f"of those tried: {', '.join(parts)}"
    )
