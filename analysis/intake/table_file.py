"""A CSV or parquet file becomes a frame of rows, or an error that says what is wrong with it.

Nothing that a file holds is executed, and a file that would not fit in memory is not opened.
"""

import csv
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.errors import InputError, near_names
from train.storage.records import REQUIRED_COLUMNS

SUFFIXES = (".csv", ".parquet")

OTHER_SUFFIXES = {
    **dict.fromkeys((".gz", ".xz", ".zip", ".bz2", ".zst"), "unpack it first"),
    **dict.fromkeys((".xlsx", ".xls", ".ods"), "save the sheet as CSV"),
    **dict.fromkeys((".tsv", ".txt", ".dat"), "write it with commas, as .csv"),
    **dict.fromkeys((".json", ".jsonl"), "write one row a run, as .csv"),
}
"""What to do with the other files that people keep tables in."""

_PLAIN = (str, bool, int, float, Decimal)

MAX_BYTES = 300_000_000
"""Of a CSV, or of a parquet file's columns once they are unpacked."""

MAX_CELLS = 20_000_000
"""Rows x columns of a parquet file: repeated values take no room in the file but all of it here."""


def read_rows(path: Path) -> pd.DataFrame:
    """Read a table.

    Raises:
        InputError: The file is none, or cannot be read as one.
    """
    _check_path(path)
    try:
        frame = _read_csv(path) if path.suffix.lower() == ".csv" else _read_parquet(path)
    except pd.errors.EmptyDataError:
        raise InputError(
            f"{path} is empty; it needs the columns {', '.join(REQUIRED_COLUMNS)}"
        ) from None
    except UnicodeDecodeError:
        raise InputError(
            f"{path} cannot be read as csv: it is not UTF-8 text; save it as UTF-8"
        ) from None
    except (ValueError, OSError, OverflowError, csv.Error) as error:
        detail = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path} cannot be read as {path.suffix[1:].lower()}: {detail}") from None
    frame.columns = [str(name).strip() for name in frame.columns]
    return frame


def _check_path(path: Path) -> None:
    if path.is_dir():
        raise InputError(f"{path} is a folder; for a study's run folders use study={path.name}")
    if not path.exists():
        folder = path.parent
        there = [p.name for p in folder.iterdir()] if folder.is_dir() else []
        tables = [name for name in there if Path(name).suffix in SUFFIXES]
        if re.match(r"\w+:/", str(path)):
            raise InputError(f"{path} is an address; download it and give the file")
        raise InputError(f"no file {path}{near_names(path.name, tables)}")
    if not path.is_file():
        raise InputError(f"{path} is not a regular file; give a .csv or .parquet file")
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        named = f"'{suffix}' is not a kind of table that is read" if suffix else "it has no suffix"
        hint = OTHER_SUFFIXES.get(suffix, "give a .csv or .parquet file")
        raise InputError(f"{path}: {named}; {hint}")


def _read_csv(path: Path) -> pd.DataFrame:
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise InputError(
            f"{path} has {size:.2g} bytes, at most {MAX_BYTES:.0e} are read; keep one row a run "
            "and the columns that are needed, or write it as parquet"
        )
    _check_header(path)
    frame = pd.read_csv(path, encoding="utf-8-sig", low_memory=False, skipinitialspace=True)
    if not isinstance(frame.index, pd.RangeIndex):
        raise InputError(
            f"{path}: rows have {frame.index.nlevels} more values than the header has names; "
            "name every column, and leave out commas at the ends of lines"
        )
    return frame


def _check_header(path: Path) -> None:
    """Refuse what pandas would read as something else: other separators, a name that is twice."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        names = [name.strip() for name in next(csv.reader(file), [])]
    if len(names) == 1:
        _refuse_one_name(path, names[0])
    twice = (
        {name for name in names if name and names.count(name) > 1} if len(names) < 5000 else set()
    )
    if twice:
        raise InputError(f"{path}: column '{min(twice)}' is there twice; keep one")
    if names and all(_is_number(name) for name in names):
        raise InputError(
            f"{path}: the first line is {', '.join(names[:4])}; it must name the columns "
            f"{', '.join(REQUIRED_COLUMNS)}"
        )


def _refuse_one_name(path: Path, line: str) -> None:
    """Say what a first line without a comma may be."""
    rule = f"the first line must name the columns {', '.join(REQUIRED_COLUMNS)}"
    if line.startswith(("#", "//", "%")):
        raise InputError(f"{path}: the first line is a comment, '{line[:40]}'; {rule}")
    marks = ((";", "semicolons"), ("\t", "tabs"), ("|", "bars"), (" ", "spaces"))
    for mark, word in marks:
        if mark in line and any(name in line for name in REQUIRED_COLUMNS):
            raise InputError(
                f"{path}: columns are separated by {word}; write it with commas, and decimals "
                "with a point"
            )
    raise InputError(f"{path}: the first line is '{line[:40]}'; {rule}, with commas between")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _read_parquet(path: Path) -> pd.DataFrame:
    from pyarrow import parquet  # takes a quarter of a second, and most tables are CSV

    with parquet.ParquetFile(path) as file:
        about = file.metadata
        groups = range(about.num_row_groups)
        size = sum(about.row_group(k).total_byte_size for k in groups)
        if size > MAX_BYTES or about.num_rows * about.num_columns > MAX_CELLS:
            raise InputError(
                f"{path} holds {about.num_rows} rows of {about.num_columns} columns, {size:.2g} "
                f"bytes; at most {MAX_CELLS:.0e} values and {MAX_BYTES:.0e} bytes are read"
            )
        # What pandas wrote about itself is left out: a table is columns, whoever wrote it.
        frame: pd.DataFrame = file.read().to_pandas(ignore_metadata=True)
    for name in frame.columns:
        if pd.api.types.is_object_dtype(frame[name]):
            frame[name] = frame[name].map(_plain_value)
    return frame


def _plain_value(value: Any) -> Any:  # noqa: ANN401
    """Return numbers and words as they are, bytes and nested values as words."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value if isinstance(value, _PLAIN) or value is None else repr(value)
