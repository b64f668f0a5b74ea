"""Training curves: the loss of each run against the compute it has spent.

Compute is counted as in the runs table: at a share of its tokens a run has spent that share of its
FLOPs, so a curve follows whatever convention its row was counted in.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

from analysis.intake.table import RunsTable, clusters
from train.storage.records import read_jsonl

Floats = NDArray[np.float64]

BINS = 60
"""Equal steps in log FLOPs; each point of a smoothed curve is the mean loss of its bin."""

MIN_EVALUATIONS = 8
"""Evaluations a run from which its validation curve is drawn through them (the default of
training gives 9 over the last two decades)."""

VALIDATION, TRAINING = "validation loss", "training loss"
CHECKPOINTS, FINALS = "checkpoint rows", "final losses"


@dataclass(frozen=True)
class Curve:
    """One run."""

    run_id: str
    n_params: float
    flops: Floats
    """Shape (points,), ascending, counted as the runs table counts."""
    loss: Floats
    """Shape (points,). Nats per token."""
    final_flops: float
    final_loss: float
    """Validation loss of the runs table."""
    tokens: Floats
    """Shape (points,)."""
    source: str = TRAINING
    """What `loss` is: validation loss, training loss, checkpoint rows or final losses."""
    schedule: str = ""
    """Of the learning rate, '' where the table does not say."""


def load_curves(table: RunsTable, frame: pd.DataFrame | None = None) -> list[Curve]:
    """Read what runs did on the way to their end, for drawing.

    Args:
        table: A study, whose metrics.jsonl are read, or a table that holds checkpoints.
        frame: Its usable rows counted in another convention; None takes the table's own.

    Returns:
        Smoothed training loss, or checkpoint rows; runs without two points are left out.
    """
    frame = table.frame if frame is None else frame
    if table.folder is None:
        return [curve for curve in _from_rows(frame) if curve.source == CHECKPOINTS]
    return _from_folders(table.folder, frame, "metrics.jsonl", _smoothed)


def envelope_curves(table: RunsTable, frame: pd.DataFrame | None = None) -> list[Curve]:
    """Read the curves whose envelope is wanted, all of one kind.

    The validation loss of a study where every run was evaluated often enough, else its smoothed
    training loss; the rows of a table, be they checkpoints or the ends of runs.

    Args:
        table: A study or a table.
        frame: Its usable rows counted in another convention; None takes the table's own.
    """
    frame = table.frame if frame is None else frame
    if table.folder is not None:
        curves = _from_folders(table.folder, frame, "evals.jsonl", _interpolated)
        if len(curves) < len(frame):
            curves = _from_folders(table.folder, frame, "metrics.jsonl", _smoothed)
        if curves:
            return curves
    return _from_rows(frame)


def _from_folders(
    folder: Path,
    frame: pd.DataFrame,
    name: str,
    reduce: Callable[[Floats, Floats], tuple[Floats, Floats, str] | None],
) -> list[Curve]:
    """Read one file of every run; those that cannot be read, or are too short, are left out."""
    curves = []
    for row in frame.to_dict("records"):
        try:
            rows = read_jsonl(folder / str(row["run_id"]) / name)
            share, loss = _points(rows, row)
        except (ValueError, OSError, RecursionError, OverflowError):
            continue
        reduced = reduce(share, loss)
        if reduced is None:
            continue
        share, loss, source = reduced
        curves.append(_curve(row, share * row["flops"], share * row["tokens"], loss, source))
    return curves


def _points(rows: list[dict[str, Any]], row: Mapping[Any, Any]) -> tuple[Floats, Floats]:
    """Return shares of the run's tokens, strictly ascending, and losses."""
    pairs = [
        (r.get("tokens"), r.get("loss"))
        for r in rows
        if r.get("split", "validation") == "validation"
    ]
    numbers = np.array(
        [pair for pair in pairs if all(_is_number(value) for value in pair)], dtype=np.float64
    ).reshape(-1, 2)
    numbers = numbers[(numbers > 0).all(axis=1) & np.isfinite(numbers).all(axis=1)]
    # A resumed run logs some steps again; the last of them is the one that counts.
    tokens, last = np.unique(numbers[::-1, 0], return_index=True)
    return tokens / float(row["tokens"]), numbers[::-1, 1][last]


def _is_number(value: Any) -> bool:  # noqa: ANN401
    return isinstance(value, int | float) and not isinstance(value, bool)


def _smoothed(share: Floats, loss: Floats) -> tuple[Floats, Floats, str] | None:
    if len(share) < 2:
        return None
    log_c = np.log(share)
    edges = np.linspace(log_c.min(), log_c.max(), BINS + 1)
    cell = np.clip(np.digitize(log_c, edges) - 1, 0, BINS - 1)
    count = np.bincount(cell, minlength=BINS)
    have = count > 0
    mean_c = np.bincount(cell, log_c, BINS)[have] / count[have]
    return np.exp(mean_c), np.bincount(cell, loss, BINS)[have] / count[have], TRAINING


def _interpolated(share: Floats, loss: Floats) -> tuple[Floats, Floats, str] | None:
    """Draw a monotone cubic through the evaluations: their spacing is wider than a valley."""
    if len(share) < MIN_EVALUATIONS:
        return None
    log_c = np.log(share)
    fine = np.linspace(log_c[0], log_c[-1], BINS + 1)
    return np.exp(fine), np.exp(PchipInterpolator(log_c, np.log(loss))(fine)), VALIDATION


def _from_rows(frame: pd.DataFrame) -> list[Curve]:
    """Group rows by run; a run of one row is a curve of one point."""
    code = clusters(frame)
    order = np.lexsort((frame["tokens"].to_numpy(float), code))
    starts = np.flatnonzero(np.diff(code[order], prepend=-1))
    flops, tokens, loss = (
        np.split(frame[name].to_numpy(float)[order], starts[1:])
        for name in ("flops", "tokens", "loss")
    )
    ends = frame.iloc[order[np.append(starts[1:], len(frame)) - 1]].to_dict("records")
    return [
        _curve(end, c, d, nats, CHECKPOINTS if len(c) > 1 else FINALS)
        for end, c, d, nats in zip(ends, flops, tokens, loss, strict=True)
    ]


def _curve(
    row: Mapping[Any, Any], flops: Floats, tokens: Floats, loss: Floats, source: str
) -> Curve:
    schedule = row.get("schedule")
    return Curve(
        run_id=str(row["run_id"]),
        n_params=float(row["n_params"]),
        flops=flops,
        loss=loss,
        final_flops=float(row["flops"]),
        final_loss=float(row["loss"]),
        tokens=tokens,
        source=source,
        schedule=schedule if isinstance(schedule, str) else "",
    )
