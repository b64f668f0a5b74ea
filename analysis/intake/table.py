"""The runs table: what it must hold, and which rows are unusable and why.

A row is used or excluded, never both, never dropped in silence. What is wrong with a single row
excludes it by name; what is wrong with the table as a whole is an error, so that no number comes
from bad input. Several rows may share a run_id: they are checkpoints of one run, and a run is what
every resampling draws.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.errors import InputError
from analysis.intake.columns import as_numbers, check_columns, with_batch_tokens
from analysis.intake.states import read_states
from analysis.intake.units import LOSS
from analysis.intake.where import explain_none, select_rows
from train.storage.records import REQUIRED_COLUMNS, RUNS_TABLE_COLUMNS

SAME_SIZE = 0.01
"""Relative; rows of one run may differ by this in n_params and still be of one run."""

SHARED_NAMES = 0.1
"""Share of rows that may be of another size than their run before the names are refused."""


@dataclass(frozen=True)
class Excluded:
    """A row that no fit saw."""

    run_id: str
    reason: str
    """One word of a closed set."""
    detail: str = ""


@dataclass(frozen=True)
class RunsTable:
    """Usable runs, the others by name, and where they came from."""

    frame: pd.DataFrame
    excluded: tuple[Excluded, ...]
    name: str
    """The study, or the table's stem."""
    source: str
    """The file or folder that was read."""
    sha256: str
    """Of the table's bytes, or of the study's manifest and results."""
    folder: Path | None = None
    """The study's folder; None for a table."""
    notes: tuple[str, ...] = ()
    stamp: str = ""
    """What every figure must say, such as that runs are missing."""

    @property
    def n_rows(self) -> int:
        """Rows asked for, used or not."""
        return len(self.frame) + len(self.excluded)


def screen(frame: pd.DataFrame, where: str | None) -> tuple[pd.DataFrame, list[Excluded]]:
    """Split rows into usable ones and exclusions.

    Args:
        frame: Any columns, REQUIRED_COLUMNS among them. `run_id` is made from the row's number
            where it is missing.
        where: Row filter, or None.

    Returns:
        The usable rows, with batch_tokens where they can be told, and the rest with the first
        reason that applies.

    Raises:
        InputError: Columns are missing or hold no numbers, one run_id names several sizes, or no
            row is left.
        OptionError: The filter cannot be read.
    """
    check_columns(frame)
    shown = frame[list(REQUIRED_COLUMNS)].to_numpy(object)
    frame, text = as_numbers(frame.reset_index(drop=True))
    frame["run_id"] = _run_ids(frame)
    reason = np.full(len(frame), "", dtype=object)
    detail = np.full(len(frame), "", dtype=object)

    def mark(rows: NDArray[np.bool_], word: str, why: list[str] | str = "") -> None:
        free = rows & (reason == "")
        reason[free] = word
        detail[free] = why if isinstance(why, str) else np.array(why, dtype=object)[free]

    if where:
        mark(~select_rows(frame, where), "filtered", where)
        if (reason != "").all():
            told = explain_none(frame, where)
            raise InputError(f"where='{where}' keeps none of {len(frame)} rows; {told}widen it")
    if "state" in frame:
        frame["state"] = read_states(frame["state"])
        for state in ("diverged", "failed"):
            mark((frame["state"] == state).to_numpy(), state)
        unfinished = frame["state"].isin(["planned", "running", "preempted"]).to_numpy()
        mark(unfinished, "incomplete", [f"state is {state}" for state in frame["state"]])
    values = frame[list(REQUIRED_COLUMNS)].to_numpy(float)
    faults = _faults(values, shown)
    mark(np.any(list(text.values()), axis=0), "nonnumeric", faults)
    mark(np.asarray(~np.isfinite(values).all(axis=1)), "nonfinite", faults)
    mark(np.asarray(np.any(values <= 0, axis=1)), "nonpositive", faults)
    mark(*_above_a_guess(values[:, REQUIRED_COLUMNS.index("loss")], reason == ""))
    mark(_repeated(frame, reason == ""), "duplicate", "the same run and tokens as an earlier row")
    mark(*_of_another_size(frame, reason == ""))
    ids = frame["run_id"].to_numpy(object)
    excluded = [
        Excluded(ids[k], reason[k], detail[k]) for k in np.flatnonzero(reason != "").tolist()
    ]
    return with_batch_tokens(frame[reason == ""].reset_index(drop=True)), excluded


def _run_ids(frame: pd.DataFrame) -> NDArray[np.object_]:
    """Return names as text; a row without one is called by its number."""
    made_up = np.array([f"row {k}" for k in range(1, len(frame) + 1)], dtype=object)
    if "run_id" not in frame:
        return made_up
    given = frame["run_id"]
    names = given.astype(str).to_numpy(object)
    return np.asarray(np.where(given.isna() | (names == ""), made_up, names), dtype=object)


def _faults(values: NDArray[np.float64], shown: NDArray[np.object_]) -> list[str]:
    """Return the first bad value of each row as it was written, '' where there is none."""
    good = np.isfinite(values) & (values > 0)
    faults = [""] * len(values)
    for row in np.flatnonzero(~good.all(axis=1)).tolist():
        column = int(np.argmin(good[row]))
        value, number = shown[row, column], values[row, column]
        written = isinstance(value, str) and not np.isfinite(number)
        said = f"'{value[:40]}'" if written else f"{number:g}"
        faults[row] = f"{REQUIRED_COLUMNS[column]} = {said}"
    return faults


def _above_a_guess(
    losses: NDArray[np.float64], alive: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], str, list[str]]:
    """Mark losses above that of guessing, where most are below: those runs went wrong.

    Where most are above, the unit is another; units.py judges that.
    """
    above = alive & (losses > LOSS[1])
    if above.sum() > 0.5 * alive.sum():
        above[:] = False
    why = f"above {LOSS[1]:g} nats per token, more than a guess among all tokens costs"
    return above, "diverged", [f"loss = {loss:g}, {why}" if loss else "" for loss in losses]


def _repeated(frame: pd.DataFrame, alive: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Mark later copies: the same run at the same tokens, or the same values in every column."""
    rest = [name for name in frame.columns if name != "run_id"]
    same = frame[alive].astype({name: str for name in rest if frame[name].dtype == object})
    copies = same.duplicated(subset=rest) | same.duplicated(subset=["run_id", "tokens"])
    out = np.zeros(len(frame), dtype=bool)
    out[np.flatnonzero(alive)] = copies.to_numpy()
    return out


def _of_another_size(
    frame: pd.DataFrame, alive: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], str, list[str]]:
    """Mark rows that share a run_id and cannot be checkpoints of that run: their size differs.

    Raises:
        InputError: So many do that run_id does not name runs.
    """
    names, sizes = frame["run_id"], frame["n_params"]
    first = sizes[alive].groupby(names[alive], sort=False).transform("first").reindex(frame.index)
    other = ((sizes / first - 1).abs() > SAME_SIZE).to_numpy() & alive
    if other.sum() > SHARED_NAMES * alive.sum():
        k = int(np.argmax(other))
        raise InputError(
            f"run_id '{names.iloc[k]}' names runs of n_params {first.iloc[k]:g} and "
            f"{sizes.iloc[k]:g}; rows of one run_id are checkpoints of one run, so give every run "
            "its own, or leave the column out"
        )
    why = [
        f"n_params = {size:g}, an earlier row of the run has {of_first:g}" if marked else ""
        for size, of_first, marked in zip(sizes, first, other, strict=True)
    ]
    return other, "duplicate", why


def clusters(frame: pd.DataFrame) -> NDArray[np.int64]:
    """Number the runs from 0 in order of appearance, shape (rows,): what resampling draws."""
    return np.asarray(pd.factorize(frame["run_id"])[0], dtype=np.int64)


def note_checkpoints(frame: pd.DataFrame) -> list[str]:
    """Say so when rows are checkpoints of runs."""
    runs = frame["run_id"].nunique()
    if runs == len(frame):
        return []
    return [
        f"The {len(frame)} rows are checkpoints of {runs} runs: whole runs are resampled. Unless "
        "the learning rate was held, a loss before the end of a run is above that of a run which "
        "ends there; that is one of the errors in Kaplan et al.'s exponent."
    ]


def in_table_order(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the runs table: RUNS_TABLE_COLUMNS first, missing ones empty, then what else came."""
    extra = [name for name in frame.columns if name not in RUNS_TABLE_COLUMNS]
    return frame.reindex(columns=[*RUNS_TABLE_COLUMNS, *extra])
