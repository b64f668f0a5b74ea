"""A CSV or parquet file of runs becomes a RunsTable. Study folders are read in study.py."""

import hashlib
from pathlib import Path

import pandas as pd

from analysis.errors import InputError, near_names
from analysis.table import RunsTable, check_units, refuse_mixtures, screen
from train.records import REQUIRED_COLUMNS

_SUFFIXES = (".csv", ".parquet")


def load_table(path: Path, *, where: str | None, allow_incomplete: bool) -> RunsTable:
    """Read a table of runs.

    Args:
        path: CSV or parquet with REQUIRED_COLUMNS and any others.
        where: Row filter, or None.
        allow_incomplete: Whether unfinished rows (by the column `state`) may be left out.

    Raises:
        InputError: The file, its columns or its units are not a runs table.
        OptionError: The filter cannot be read.
    """
    frame = _read(path)
    try:
        usable, excluded = screen(frame, where)
        refuse_unfinished(
            [item.run_id for item in excluded if item.reason == "incomplete"],
            len(frame),
            allow_incomplete,
        )
        if len(usable) < 2:
            reasons = ", ".join(sorted({item.reason for item in excluded})) or "nothing excluded"
            raise InputError(
                f"{len(usable)} usable of {len(frame)} rows ({reasons}); a fit needs many runs"
            )
        notes = [*check_units(usable), *refuse_mixtures(usable)]
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    unfinished = sum(item.reason == "incomplete" for item in excluded)
    return RunsTable(
        frame=usable,
        excluded=tuple(excluded),
        name=path.stem,
        source=str(path),
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        notes=tuple(notes),
        stamp=stamp_for(unfinished, len(frame)),
    )


def refuse_unfinished(run_ids: list[str], planned: int, allow_incomplete: bool) -> None:
    """Refuse to fit a study that is not finished.

    Raises:
        InputError: Runs are unfinished and that is not allowed.
    """
    if not run_ids or allow_incomplete:
        return
    listed = ", ".join(run_ids[:5]) + (", ..." if len(run_ids) > 5 else "")
    raise InputError(
        f"{len(run_ids)} of {planned} runs are missing or incomplete ({listed}); run the same "
        "train command again to finish them, or give allow_incomplete=true to fit without them"
    )


def stamp_for(unfinished: int, planned: int) -> str:
    """Return what figures must say about unfinished runs."""
    return f"INCOMPLETE: {unfinished} of {planned} runs not finished" if unfinished else ""


def _read(path: Path) -> pd.DataFrame:
    if path.is_dir():
        raise InputError(f"{path} is a folder; for a study's run folders use study={path.name}")
    if not path.exists():
        folder = path.parent
        there = [p.name for p in folder.iterdir()] if folder.is_dir() else []
        tables = [name for name in there if Path(name).suffix in _SUFFIXES]
        raise InputError(f"no file {path}{near_names(path.name, tables)}")
    if path.suffix.lower() not in _SUFFIXES:
        raise InputError(f"{path}: '{path.suffix}' is not a table; give a .csv or .parquet file")
    try:
        frame: pd.DataFrame = (
            pd.read_csv(path) if path.suffix.lower() == ".csv" else pd.read_parquet(path)
        )
    except pd.errors.EmptyDataError:
        raise InputError(
            f"{path} is empty; it needs the columns {', '.join(REQUIRED_COLUMNS)}"
        ) from None
    except (ValueError, OSError, pd.errors.ParserError) as error:
        detail = str(error).strip().splitlines()[0]
        raise InputError(f"{path} cannot be read as {path.suffix[1:]}: {detail}") from None
    frame.columns = [str(name).strip() for name in frame.columns]
    return frame
