"""Which runs share (N, D), and what they tried: from runs to grids of learning rate and batch."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.errors import RefusedError
from analysis.isoflop.budgets import SAME_TOKENS

Floats = NDArray[np.float64]

SMOOTH = "loss_smooth"
"""Preferred to `loss` where the table has it for every run: the last training loss jitters from
batch to batch, and at one batch size alike for all learning rates. On Step Law's table 3 of 17
groups have a steady interior optimum in `loss`, and all 17 in its running mean."""

MIN_RATES = 3
"""Learning rates that a grid needs."""

SEEDS_APART = 0.02
"""Log loss: runs of one setting that differ by more differ in something the table does not say.
Ours: seeds of one run differ by under a hundredth."""

SEEDS_CALM = 0.10
"""Log loss above the lowest beyond which losses are not compared between seeds."""

MIN_BATCHES = 3
"""Batch sizes from which batch is an axis; with fewer, learning rates are compared at the best."""

SETUP = (
    "schedule",
    "optimizer",
    "warmup",
    "warmup_steps",
    "warmup_tokens",
    "beta1",
    "beta2",
    "weight_decay",
    "final_lr_ratio",
    "decay",
)
"""Columns that shift the best learning rate."""


@dataclass(frozen=True)
class Grid:
    """One (N, D) and the settings it was trained at."""

    n_params: float
    tokens: float
    flops: float
    """nan when the table does not say."""
    settings: Floats
    """Shape (cells, axes). Log learning rate; log batch tokens where MIN_BATCHES were tried."""
    loss: Floats
    """Shape (cells,). Nats per token, mean over seeds."""
    batch_tokens: float
    """The one batch of the cells; nan where batch is an axis or not known."""
    seed_squares: float
    """Sum of squared deviations of log losses between seeds of a cell."""
    seed_freedom: int


def make_grids(frame: pd.DataFrame) -> tuple[list[Grid], str, tuple[str, ...]]:
    """Group runs by (N, D), and within each by learning rate and batch.

    Args:
        frame: Columns n_params, tokens, loss, lr; batch_tokens, seed, run_id, flops, loss_smooth
            where the table has them.

    Returns:
        Grids with 3 or more learning rates, the loss column used, and notes.

    Raises:
        RefusedError: No learning rate in the table, no grid, or runs of one setting that differ in
            what the table does not say.
    """
    if not (_numbers(frame, "lr") > 0).any():
        raise RefusedError(
            "the table has no learning rates (column lr); add them to find how they should vary"
        )
    notes: list[str] = []
    work, column = _runs(frame, notes)
    _note_setup(frame, notes)
    rates = work.groupby("group")["lr"].nunique()
    rich = rates.index[rates >= MIN_RATES]
    poor = len(rates) - len(rich)
    grids = [_grid(rows) for _, rows in work[work["group"].isin(rich)].groupby("group", sort=True)]
    if not grids:
        raise RefusedError(
            f"none of {poor} (N, D) was trained at {MIN_RATES} or more learning rates; add runs at "
            "half and twice the learning rate of each, for example with optimizer.lr_multiplier"
        )
    if poor:
        notes.append(f"{poor} (N, D) with fewer than {MIN_RATES} learning rates are not used.")
    return grids, column, tuple(notes)


def _runs(frame: pd.DataFrame, notes: list[str]) -> tuple[pd.DataFrame, str]:
    """Return one row a run with its group, and the loss column."""
    smooth = bool((_numbers(frame, SMOOTH) > 0).all())
    column = SMOOTH if smooth else "loss"
    if smooth:
        notes.append(f"Column {SMOOTH} stands for loss: a last training loss jitters.")
    names = ("n_params", "tokens", "lr", "batch_tokens", "flops", "seed", "batch_seqs")
    work = pd.DataFrame({name: _numbers(frame, name) for name in names})
    work["loss"] = _numbers(frame, column)
    work["batch_tokens"] = _whole_sequences(work["batch_tokens"], work["batch_seqs"])
    if "run_id" in frame:
        # A checkpoint has not come to the end of its schedule: only a run's last row counts.
        order = work["tokens"].argsort(kind="stable")
        last = ~frame["run_id"].iloc[order].duplicated(keep="last").to_numpy()
        work = work.iloc[order[last]]
    positive = work[["n_params", "tokens", "loss", "lr"]]
    values = positive.to_numpy()
    usable = (np.isfinite(values) & (values > 0)).all(axis=1)
    if not usable.all():
        notes.append(f"{int((~usable).sum())} runs without a learning rate are not used.")
    work = work[usable].sort_values(["n_params", "tokens"], kind="stable")
    step = np.diff(np.log(work["tokens"])) > SAME_TOKENS
    new = np.concatenate([[True], step | (np.diff(work["n_params"]) != 0)])
    return work.assign(group=np.cumsum(new)), column


def _numbers(frame: pd.DataFrame, name: str) -> Floats:
    """Return a column; NaN where the table lacks it or holds no number."""
    if name not in frame:
        return np.full(len(frame), np.nan)
    return pd.to_numeric(frame[name], errors="coerce").to_numpy(float)


def _whole_sequences(batch: "pd.Series[float]", sequences: "pd.Series[float]") -> Floats:
    """Return batches without the rounding of the steps that they may be derived from."""
    tokens = np.where(batch > 0, batch, np.nan)
    count = np.where(sequences > 0, sequences, np.nan)
    per_sequence = tokens / count
    if not np.isfinite(per_sequence).any():
        return tokens
    length = np.nanmedian(per_sequence)
    near = np.abs(per_sequence / length - 1.0) <= SAME_TOKENS
    return np.where(near, count * np.round(length), tokens)


def _grid(rows: pd.DataFrame) -> Grid:
    """Reduce the runs of one (N, D) to cells."""
    batch = _same(rows["batch_tokens"].to_numpy())
    n_batches = len(np.unique(batch[np.isfinite(batch)]))
    has_axis = n_batches >= MIN_BATCHES and bool(np.isfinite(batch).all())
    if not has_axis and n_batches:
        best = batch[int(np.argmin(rows["loss"]))]
        same = batch == best if np.isfinite(best) else ~np.isfinite(batch)
        rows, batch = rows[same], batch[same]
    lr, log_loss = rows["lr"].to_numpy(), np.log(rows["loss"].to_numpy())
    keys, code = np.unique(
        np.stack([lr, np.nan_to_num(batch)], axis=1), axis=0, return_inverse=True
    )
    runs = np.bincount(code)
    mean = np.bincount(code, log_loss) / runs
    low, high = np.full(len(runs), np.inf), np.full(len(runs), -np.inf)
    np.minimum.at(low, code, log_loss)
    np.maximum.at(high, code, log_loss)
    seed = rows["seed"].to_numpy()
    known = np.unique(np.stack([code, seed], axis=1)[np.isfinite(seed)], axis=0)[:, 0]
    replicas = np.bincount(known.astype(int), minlength=len(runs)) == runs
    # Where training all but diverges, seeds differ by any amount; no surface is fitted there.
    near = low <= low.min() + SEEDS_CALM
    unexplained = np.flatnonzero(near & ~replicas & (high - low > SEEDS_APART))
    if len(unexplained):
        k = unexplained[0]
        raise RefusedError(_unexplained(rows, keys[k, 0], runs[k], np.exp([low[k], high[k]])))
    compared = replicas & near
    squares = np.bincount(code, (log_loss - mean[code]) ** 2)
    return Grid(
        float(rows["n_params"].iloc[0]),
        float(rows["tokens"].mean()),
        float(rows["flops"].median()),
        np.log(keys if has_axis else keys[:, :1]),
        np.exp(mean),
        float(batch[0]) if not has_axis else float("nan"),
        float(squares[compared].sum()),
        int((runs[compared] - 1).sum()),
    )


def _unexplained(rows: pd.DataFrame, lr: float, count: int, losses: Floats) -> str:
    first = rows.iloc[0]
    missing = [name for name in ("batch_tokens", "seed") if not rows[name].notna().any()]
    return (
        f"{count} runs of N = {first['n_params']:.3g}, D = {first['tokens']:.3g} at learning rate "
        f"{lr:.3g} have losses from {losses[0]:.4g} to {losses[1]:.4g} and nothing tells them "
        f"apart; add the column {' or '.join(missing) or 'in which they differ'}, or choose with "
        "where="
    )


def _same(batch: Floats) -> Floats:
    """Give batches that differ by rounding (tokens over whole steps) one value."""
    order = np.argsort(batch)  # NaN last
    log_b = np.log(batch[order])
    level = np.concatenate([[0], np.cumsum(~(np.diff(log_b) <= SAME_TOKENS))])
    out = np.empty_like(batch)
    for k in np.unique(level):
        out[order[level == k]] = batch[order[level == k]].mean()
    return out


def _note_setup(frame: pd.DataFrame, notes: list[str]) -> None:
    for name in SETUP:
        if name not in frame:
            continue
        kinds = sorted(str(v) for v in frame[name].dropna().unique())
        if len(kinds) > 1:
            notes.append(
                f"Column {name} takes {len(kinds)} values ({', '.join(kinds[:3])}): it shifts the "
                f'best learning rate; choose with where="{name}={kinds[0]}".'
            )
