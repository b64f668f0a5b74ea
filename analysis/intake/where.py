"""The row filter: `column op value and column op value`. Parsed here, never evaluated as code."""

import operator
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.errors import OptionError, near_names

_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
    "=": operator.eq,
}
_WORD = r"""'[^']*'|"[^"]*\""""
_CLAUSE = re.compile(
    rf"""\s*(?P<name>{_WORD}|[A-Za-z_][\w.]*)\s*(?P<symbol><=|>=|==|!=|<|>|=)\s*"""
    rf"""(?P<value>{_WORD}|[^<>=!\s'"](?:(?!\s+and\s)[^<>=!])*?)\s*(?P<end>\sand\s|$)""",
    re.IGNORECASE,
)
_TRUTH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_PLAIN = re.compile(r"[\w.+:/-]+")


def select_rows(frame: pd.DataFrame, where: str) -> NDArray[np.bool_]:
    """Return which rows the filter keeps, shape (rows,).

    Args:
        frame: Any columns.
        where: Comparisons joined by `and`. A value or a name that holds spaces, `and` or a symbol
            stands in quotes.

    Raises:
        OptionError: A clause cannot be read, names no column, or compares unlike things.
    """
    keep = np.ones(len(frame), dtype=bool)
    for name, symbol, value in _clauses(where):
        if name not in frame.columns:
            known = [str(column) for column in frame.columns[:200]]
            raise OptionError(f"where: no column '{name}'{near_names(name, known)}")
        keep &= _select(frame[name], name, symbol, value)
    return keep


def explain_none(frame: pd.DataFrame, where: str) -> str:
    """Say how many rows each comparison keeps by itself, for a filter that keeps none."""
    kept = [
        f"{name}{symbol}{value} {int(_select(frame[name], name, symbol, value).sum())}"
        for name, symbol, value in _clauses(where)
    ]
    return f"by themselves they keep: {', '.join(kept)}; " if len(kept) > 1 else ""


def clause(name: str, value: object) -> str:
    """Return the comparison that keeps one value, as select_rows reads it."""
    return f"{_quoted(str(name))}={_quoted(str(value))}"


def _quoted(word: str) -> str:
    if _PLAIN.fullmatch(word):
        return word
    return f'"{word}"' if "'" in word else f"'{word}'"


def _clauses(where: str) -> Iterator[tuple[str, str, str]]:
    at = 0
    while True:
        match = _CLAUSE.match(where, at)
        if match is None:
            raise OptionError(
                f"where: cannot read '{where[at:].strip()[:80]}'; write comparisons such as "
                "flops<1e21 joined by 'and', and quote values that hold spaces"
            )
        yield _bare(match["name"]), match["symbol"], _bare(match["value"])
        if not match["end"]:
            return
        at = match.end()


def _bare(word: str) -> str:
    quoted = len(word) > 1 and word[0] == word[-1] and word[0] in "'\""
    return word[1:-1] if quoted else word


def _select(column: pd.Series, name: str, symbol: str, word: str) -> NDArray[np.bool_]:
    if pd.api.types.is_bool_dtype(column):
        value: Any = _TRUTH.get(word.lower())
        if value is None or symbol not in ("=", "==", "!="):
            raise OptionError(
                f"where: column {name} is true or false; write {name}=true or {name}=false"
            )
        return np.asarray(_COMPARE[symbol](column.to_numpy(bool), value), dtype=bool)
    if pd.api.types.is_numeric_dtype(column):
        try:
            value = float(word)
        except ValueError:
            value = float("nan")
        if np.isnan(value):
            raise OptionError(
                f"where: column {name} holds numbers, '{word}' is not one; write {name}{symbol}1e21"
            )
        return np.asarray(_COMPARE[symbol](column.to_numpy(float), value), dtype=bool)
    if symbol not in ("=", "==", "!="):
        raise OptionError(f"where: column {name} holds words, which have no order; use = or !=")
    words = column.astype(object).where(column.notna(), "").map(str).to_numpy(object)
    same = np.asarray(words == word, dtype=bool)
    if not same.any():
        known = sorted(set(words.tolist()))[:200]
        raise OptionError(f"where: no row has {name} '{word}'{near_names(word, known)}")
    return same if symbol != "!=" else ~same
