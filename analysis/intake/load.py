"""A CSV or parquet file of runs becomes a RunsTable. Study folders are read in study.py."""

import hashlib
from collections import Counter
from pathlib import Path

import pandas as pd

from analysis.errors import InputError
from analysis.intake.mixtures import refuse_mixtures
from analysis.intake.table import Excluded, RunsTable, note_checkpoints, screen
from analysis.intake.table_file import read_rows
from analysis.intake.units import check_units

SHOWN = 20
"""Unfinished runs that an error names."""


def load_table(
    path: Path, *, where: str | None, allow_incomplete: bool, flops_6nd: bool = False
) -> RunsTable:
    """Read a table of runs.

    Args:
        path: CSV or parquet with REQUIRED_COLUMNS and any others.
        where: Row filter, or None.
        allow_incomplete: Whether unfinished rows (by the column `state`) may be left out.
        flops_6nd: Whether a table without the column flops is given 6 n_params tokens.

    Raises:
        InputError: The file, its columns or its units are not a runs table.
        OptionError: The filter cannot be read.
    """
    frame = read_rows(path)
    notes = []
    try:
        if flops_6nd and "flops" not in frame and {"n_params", "tokens"} <= set(frame.columns):
            frame["flops"] = _six_nd(frame)
            notes.append("The table has no flops: C is 6 n_params tokens.")
        usable, excluded = screen(frame, where)
        unfinished = [item for item in excluded if item.reason == "incomplete"]
        refuse_unfinished(unfinished, len(frame), allow_incomplete)
        if len(usable) < 2:
            counted = Counter(item.reason for item in excluded)
            reasons = ", ".join(f"{n} {word}" for word, n in counted.items()) or "nothing excluded"
            listed = "; ".join(_named(item) for item in excluded[:SHOWN] if item.detail != where)
            raise InputError(
                f"{len(usable)} usable of {len(frame)} rows ({reasons}); a fit needs many runs"
                + (f"; {listed}" if listed else "")
            )
        notes += [*check_units(usable), *refuse_mixtures(usable, where), *note_checkpoints(usable)]
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return RunsTable(
        frame=usable,
        excluded=tuple(excluded),
        name=path.stem,
        source=str(path),
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        notes=tuple(notes),
        stamp=stamp_for(len(unfinished), len(frame)),
    )


def _six_nd(frame: pd.DataFrame) -> pd.Series:
    n, d = (pd.to_numeric(frame[name], errors="coerce") for name in ("n_params", "tokens"))
    return 6.0 * n * d


def refuse_unfinished(unfinished: list[Excluded], planned: int, allow_incomplete: bool) -> None:
    """Refuse to fit a study that is not finished.

    Raises:
        InputError: Runs are unfinished and that is not allowed.
    """
    if not unfinished or allow_incomplete:
        return
    by_reason: dict[str, list[str]] = {}
    for item in unfinished[:SHOWN]:
        by_reason.setdefault(item.detail or item.reason, []).append(item.run_id)
    listed = "; ".join(f"({', '.join(ids)}): {why}" for why, ids in by_reason.items())
    more = f"; and {len(unfinished) - SHOWN} more" if unfinished[SHOWN:] else ""
    raise InputError(
        f"{len(unfinished)} of {planned} runs are missing or incomplete {listed}{more}; run the "
        "same train command again to finish them, or give allow_incomplete=true to fit without them"
    )


def _named(item: Excluded) -> str:
    return f"{item.run_id}: {item.detail}" if item.detail else f"{item.run_id}: {item.reason}"


def stamp_for(unfinished: int, planned: int) -> str:
    """Return what figures must say about unfinished runs."""
    return f"INCOMPLETE: {unfinished} of {planned} runs not finished" if unfinished else ""
