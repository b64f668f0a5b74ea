"""IsoFLOP budgets under another counting than the one the runs were planned in.

Runs that share C as 6 N D with the head do not share it without the head, or with attention. But a
size that was trained to several horizons has a loss at any C between them, so each size's losses
are interpolated along C and cut at common values.
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

from analysis.errors import RefusedError
from analysis.isoflop.budgets import group_budgets
from analysis.isoflop.valley import MIN_SIZES

Floats = NDArray[np.float64]

MIN_HORIZONS = 3
"""Horizons of a size below which a straight line would stand for a bent curve."""

MIN_SLICES = 3
"""Two valleys always lie on a power law."""


def reslice(cells: pd.DataFrame, planned: Floats) -> pd.DataFrame:
    """Return cells that share C in their own counting.

    Args:
        cells: Columns n_params, tokens, flops, loss, lr_edge: best loss by (N, D), counted as asked
            for. Cells at the edge of their learning-rate grid are left out.
        planned: Shape (cells,). The C that the runs were planned to share.

    Returns:
        The same columns, one row a size and slice; `flops` is one of at most as many slices as
        there were budgets, each the C of the best cell of a planned budget.

    Raises:
        RefusedError: Too few sizes were trained to several horizons.

    Source:
        Ours. Monotone cubic interpolation (PCHIP) of log loss in log C between runs only: on a
        noise-free surface with budgets a factor of 3 apart it moves N_opt by less than 0.1 %
        (tests/analysis/isoflop/test_reslice.py).
    """
    kept = (cells["lr_edge"] == "").to_numpy()
    frame, planned = cells[kept], planned[kept]
    curves = [
        rows.sort_values("flops")
        for _, rows in frame.groupby("n_params")
        if len(rows) >= MIN_HORIZONS
    ]
    slices = _slices(frame, planned)
    rows = [row for at in slices for curve in curves if (row := _cut(curve, at))]
    counts = pd.Series([row["flops"] for row in rows], dtype=float).value_counts()
    if int((counts >= MIN_SIZES).sum()) < MIN_SLICES:
        raise RefusedError(
            f"{len(curves)} sizes have {MIN_HORIZONS} or more horizons, and fewer than "
            f"{MIN_SLICES} values of C in this counting are crossed by {MIN_SIZES} of them; train "
            "the same sizes at more budgets"
        )
    return pd.DataFrame(rows).assign(seeds=1, lr_edge="")


def _slices(frame: pd.DataFrame, planned: Floats) -> Floats:
    """Return the C, in the new counting, of the lowest loss of every planned budget."""
    labels = group_budgets(planned)
    loss, flops = frame["loss"].to_numpy(float), frame["flops"].to_numpy(float)
    best = []
    for k in range(labels.max() + 1):
        members = np.flatnonzero(labels == k)
        if len(members) >= MIN_SIZES:
            best.append(flops[members[np.argmin(loss[members])]])
    return np.unique(best)


def _cut(curve: pd.DataFrame, at: float) -> dict[str, float] | None:
    """Return a size's cell at C = at, or None where no runs lie on both sides."""
    log_c = np.log(curve["flops"].to_numpy(float))
    x = float(np.log(at))
    if not log_c[0] - 1e-9 <= x <= log_c[-1] + 1e-9:
        return None
    x = float(np.clip(x, log_c[0], log_c[-1]))
    names = ("loss", "tokens")
    loss, tokens = (
        float(np.exp(PchipInterpolator(log_c, np.log(curve[name].to_numpy(float)))(x)))
        for name in names
    )
    return {
        "n_params": float(curve["n_params"].iloc[0]),
        "tokens": tokens,
        "flops": at,
        "loss": loss,
    }
