"""Training curves of a study's runs, smoothed for drawing. No fit reads them yet."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.table import RunsTable
from train.records import read_jsonl

Floats = NDArray[np.float64]

BINS = 60
"""Equal steps in log FLOPs; each point of a drawn curve is the mean loss of its bin."""


@dataclass(frozen=True)
class Curve:
    """One run."""

    run_id: str
    n_params: float
    flops: Floats
    loss: Floats
    """Training loss in nats, means over bins of log FLOPs."""
    final_flops: float
    final_loss: float
    """Validation loss of the runs table."""


def load_curves(table: RunsTable) -> list[Curve]:
    """Read metrics.jsonl of the usable runs; runs without one are left out."""
    if table.folder is None:
        return []
    curves = []
    for row in table.frame.to_dict("records"):
        try:
            rows = read_jsonl(table.folder / str(row["run_id"]) / "metrics.jsonl")
        except (ValueError, OSError):
            continue
        pairs = [(r.get("flops"), r.get("loss")) for r in rows]
        numbers = np.array(
            [(f, v) for f, v in pairs if isinstance(f, int | float) and isinstance(v, int | float)],
            dtype=np.float64,
        ).reshape(-1, 2)
        numbers = numbers[numbers[:, 0] > 0]
        if len(numbers) < 2:
            continue
        flops, loss = _smooth(numbers[:, 0], numbers[:, 1])
        curves.append(
            Curve(
                str(row["run_id"]),
                float(row["n_params"]),
                flops,
                loss,
                float(row["flops"]),
                float(row["loss"]),
            )
        )
    return curves


def _smooth(flops: Floats, loss: Floats) -> tuple[Floats, Floats]:
    log_c = np.log(flops)
    edges = np.linspace(log_c.min(), log_c.max(), BINS + 1)
    cell = np.clip(np.digitize(log_c, edges) - 1, 0, BINS - 1)
    count = np.bincount(cell, minlength=BINS)
    have = count > 0
    mean_c = np.bincount(cell, log_c, BINS)[have] / count[have]
    return np.exp(mean_c), np.bincount(cell, loss, BINS)[have] / count[have]
