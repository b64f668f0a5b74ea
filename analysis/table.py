"""The runs table: what it must hold, and which rows are unusable and why.

A row is used or excluded, never both, never dropped in silence. What is wrong with a single row
excludes it by name; what is wrong with the table as a whole is an error, so that no number comes
from bad input.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.errors import InputError, near_names
from analysis.where import select_rows
from train.records import REQUIRED_COLUMNS, RUNS_TABLE_COLUMNS

TEXT_COLUMNS = ("run_id", "study", "rung", "schedule", "state", "device")

TOKENS_PER_PARAM = (1e-2, 1e5)
"""Median D/N outside this is a mistake of units."""

RATIO_MEDIAN = (0.03, 30.0)
"""Median of 6ND / flops outside this is a mistake of units: conventions differ by less
(12 at d_model 16 with 4096 tokens, between Kaplan's counting and all matrices)."""

RATIO_ROW = (0.02, 50.0)
"""6ND / flops of any one row."""

LOSS = (0.05, 15.0)
"""Nats per token of a language model; a median outside is noted, not refused."""


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
        The usable rows, and the rest with the first reason that applies.

    Raises:
        InputError: Columns are missing or hold no numbers, or no row is left.
        OptionError: The filter cannot be read.
    """
    frame = _with_columns(frame)
    reason = np.full(len(frame), "", dtype=object)
    detail = np.full(len(frame), "", dtype=object)

    def mark(rows: NDArray[np.bool_], word: str, why: list[str] | str = "") -> None:
        free = rows & (reason == "")
        reason[free] = word
        detail[free] = why if isinstance(why, str) else np.array(why, dtype=object)[free]

    if where:
        mark(~select_rows(frame, where), "filtered", where)
        if (reason != "").all():
            raise InputError(f"where='{where}' keeps none of {len(frame)} rows; widen it")
    if "state" in frame:
        for state in ("diverged", "failed"):
            mark((frame["state"] == state).to_numpy(), state)
        unfinished = frame["state"].isin(["planned", "running", "preempted"]).to_numpy()
        mark(unfinished, "incomplete", [f"state is {state}" for state in frame["state"]])
    values = frame[list(REQUIRED_COLUMNS)].to_numpy(float)
    shown = [_first_bad(row) for row in values]
    mark(np.asarray(~np.isfinite(values).all(axis=1)), "nonfinite", shown)
    mark(np.asarray(np.any(values <= 0, axis=1)), "nonpositive", shown)
    mark(_repeated(frame, reason == ""), "duplicate", "the same run as an earlier row")
    names = frame["run_id"].astype(str)
    excluded = [
        Excluded(names.iloc[k], str(reason[k]), str(detail[k]))
        for k in np.flatnonzero(reason != "")
    ]
    return frame[reason == ""].reset_index(drop=True), excluded


def _with_columns(frame: pd.DataFrame) -> pd.DataFrame:
    """Check that the required columns are there and make their values numbers."""
    missing = [name for name in REQUIRED_COLUMNS if name not in frame.columns]
    if missing:
        have = [str(name) for name in frame.columns if name not in REQUIRED_COLUMNS]
        told = "; ".join(f"'{name}' is missing{near_names(name, have)}" for name in missing)
        raise InputError(f"a runs table needs the columns {', '.join(REQUIRED_COLUMNS)}: {told}")
    if len(frame) == 0:
        raise InputError("the table has 0 rows; a fit needs runs")
    frame = frame.copy()
    for name in set(RUNS_TABLE_COLUMNS) - set(TEXT_COLUMNS):
        if name not in frame:
            continue
        numbers = pd.to_numeric(frame[name], errors="coerce").astype(float)
        if name in REQUIRED_COLUMNS and numbers.isna().all():
            raise InputError(
                f"column '{name}' holds no numbers, its first value is '{frame[name].iloc[0]}'"
            )
        frame[name] = numbers
    if "run_id" not in frame:
        frame["run_id"] = [f"row {k}" for k in range(1, len(frame) + 1)]
    return frame


def _first_bad(row: NDArray[np.float64]) -> str:
    for name, value in zip(REQUIRED_COLUMNS, row, strict=True):
        if not (np.isfinite(value) and value > 0):
            return f"{name} = {value:g}"
    return ""


def _repeated(frame: pd.DataFrame, alive: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Mark later copies of a run: the same run_id, or the same numbers in every column."""
    made_up = frame["run_id"].astype(str).str.startswith("row ").all()
    rest = [name for name in frame.columns if name != "run_id"]
    same = frame[alive].astype({name: str for name in rest if frame[name].dtype == object})
    copies = same.duplicated(subset=rest)
    if not made_up:
        copies |= same["run_id"].duplicated()
    out = np.zeros(len(frame), dtype=bool)
    out[np.flatnonzero(alive)] = copies.to_numpy()
    return out


def clusters(frame: pd.DataFrame) -> NDArray[np.int64]:
    """Number the runs from 0 in order of appearance, shape (rows,): what resampling draws."""
    return np.asarray(pd.factorize(frame["run_id"])[0], dtype=np.int64)


def check_units(frame: pd.DataFrame) -> list[str]:
    """Check N, D and C against each other.

    Returns:
        Notes about what is odd but possible.

    Raises:
        InputError: The numbers cannot be parameters, tokens and training FLOPs of the same runs.
    """
    n, d, c = (frame[name].to_numpy(float) for name in ("n_params", "tokens", "flops"))
    per_param = float(np.median(d / n))
    if not TOKENS_PER_PARAM[0] <= per_param <= TOKENS_PER_PARAM[1]:
        raise InputError(
            f"the median of tokens / n_params is {per_param:.3g}, outside {TOKENS_PER_PARAM[0]:g}.."
            f"{TOKENS_PER_PARAM[1]:g}; give n_params and tokens as counts, not in millions"
        )
    ratio = 6.0 * n * d / c
    what = "6 n_params tokens / flops"
    low, high = RATIO_MEDIAN
    middle = float(np.median(ratio))
    if not RATIO_MEDIAN[0] <= middle <= RATIO_MEDIAN[1]:
        raise InputError(
            f"the median of {what} is {middle:.3g}, outside {low:g}..{high:g}; a unit is off by "
            f"about {_nearest_power(middle)}: give counts and FLOPs (not PFLOPs, not thousands)"
        )
    worst = int(np.argmax(np.abs(np.log(ratio))))
    if not RATIO_ROW[0] <= ratio[worst] <= RATIO_ROW[1]:
        raise InputError(
            f"{frame['run_id'].iloc[worst]}: {what} is {ratio[worst]:.3g}, outside "
            f"{RATIO_ROW[0]:g}..{RATIO_ROW[1]:g}, and the median is {middle:.3g}; correct the row "
            "or filter it out with where="
        )
    notes = []
    if not 0.5 <= middle <= 2.0:
        notes.append(
            f"{what} is {middle:.3g} in the median: check that flops counts "
            "forward and backward passes, and which parameters n_params counts."
        )
    loss = float(frame["loss"].median())
    if not LOSS[0] <= loss <= LOSS[1]:
        notes.append(f"The median loss is {loss:.3g}: it is read as nats per token.")
    return notes


def _nearest_power(ratio: float) -> str:
    power = round(float(np.log10(ratio)))
    return f"1e{power:+d}"


ONE_VALUE = ("study", "experiment", "dataset", "data", "tokenizer", "convention", "param_count")
"""Columns that must not vary within a fit: they change what N, D or L mean."""

MAY_VARY = ("run_id", "rung", "state", "device", "reason", "name")
"""Text columns that say nothing about whether rows belong together."""


def refuse_mixtures(frame: pd.DataFrame) -> list[str]:
    """Check that the rows are one experiment.

    Returns:
        Notes about text columns that vary and may matter.

    Raises:
        InputError: A column of ONE_VALUE varies.
    """
    notes = []
    for name in frame.columns:
        if name in MAY_VARY:
            continue
        if pd.api.types.is_numeric_dtype(frame[name]):
            continue
        kinds = frame[name].dropna().astype(str).unique()
        if name in ONE_VALUE and len(kinds) > 1:
            raise InputError(
                f"column {name} takes {len(kinds)} values ({', '.join(sorted(kinds)[:3])}): a fit "
                f'needs one; choose with where="{name}={kinds[0]}"'
            )
        if 1 < len(kinds) <= max(2, len(frame) // 4):
            notes.append(
                f"Column {name} takes {len(kinds)} values ({', '.join(sorted(kinds)[:3])}"
                f"{', ...' if len(kinds) > 3 else ''}): runs that differ in more than N, D and "
                f'learning rate do not belong in one fit; choose with where="{name}={kinds[0]}".'
            )
    return notes


def in_table_order(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the runs table: RUNS_TABLE_COLUMNS first, missing ones empty, then what else came."""
    extra = [name for name in frame.columns if name not in RUNS_TABLE_COLUMNS]
    return frame.reindex(columns=[*RUNS_TABLE_COLUMNS, *extra])
