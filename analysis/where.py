"""The row filter: `column op value and column op value`. Parsed here, never evaluated as code."""

import operator
import re
from collections.abc import Callable
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
_CLAUSE = re.compile(r"^\s*([A-Za-z_]\w*)\s*(<=|>=|==|!=|<|>|=)\s*(.+?)\s*$")


def select_rows(frame: pd.DataFrame, where: str) -> NDArray[np.bool_]:
    """Return which rows the filter keeps, shape (rows,).

    Raises:
        OptionError: A clause cannot be read, names no column, or compares unlike things.
    """
    keep = np.ones(len(frame), dtype=bool)
    for clause in re.split(r"\s+and\s+", where.strip()):
        keep &= _select_clause(frame, clause)
    return keep


def _select_clause(frame: pd.DataFrame, clause: str) -> NDArray[np.bool_]:
    match = _CLAUSE.match(clause)
    if match is None:
        raise OptionError(
            f"where: cannot read '{clause}'; write comparisons such as flops<1e21 joined by 'and'"
        )
    name, symbol, text = match.groups()
    if name not in frame.columns:
        raise OptionError(f"where: no column '{name}'{near_names(name, map(str, frame.columns))}")
    column, word = frame[name], text.strip("'\"")
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
        try:
            value = float(word)
        except ValueError:
            raise OptionError(
                f"where: column {name} holds numbers, '{word}' is not one; write {name}{symbol}1e21"
            ) from None
        return np.asarray(_COMPARE[symbol](column.to_numpy(), value), dtype=bool)
    if symbol not in ("=", "==", "!="):
        raise OptionError(f"where: column {name} holds words, which have no order; use = or !=")
    return np.asarray(_COMPARE[symbol](column.astype(str).to_numpy(), word), dtype=bool)
