"""Checked reading of JSON: a number is a finite number, or the message says which key is not."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.bootstrap import Interval
from analysis.errors import InputError

Floats = NDArray[np.float64]


def mapping_at(content: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Return the object under a key, empty where there is none."""
    value = content.get(key) or {}
    if not isinstance(value, dict):
        raise InputError(f"'{key}' is {str(value)[:40]!r}, not an object")
    return value


def number_at(part: Mapping[str, Any], where: str, key: str) -> float:
    """Return the finite number under a key; `where` names the object in messages."""
    value = part.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        what = "missing" if key not in part else f"{value!r}, not a number"
        raise InputError(f"{where}.{key} is {what}")
    return float(value)


def interval_at(part: Mapping[str, Any], where: str, key: str) -> Interval | None:
    """Return [low, high] under a key, None where there is none."""
    value = part.get(key)
    if not value:
        return None
    if not isinstance(value, list) or len(value) != 2:
        raise InputError(f"{where}.{key} is {value!r}, not [low, high]")
    low, high = (number_at({key: end}, where, key) for end in value)
    if low > high:
        raise InputError(f"{where}.{key} is {value!r}: the low end comes first")
    return low, high


def range_at(part: Mapping[str, Any], where: str, key: str) -> Interval | None:
    """Return [low, high] of what was measured under a key, which exceeds 0."""
    found = interval_at(part, where, key)
    if found and found[0] <= 0:
        raise InputError(f"{where}.{key} is {list(found)!r}: both ends exceed 0")
    return found


def rows_of(
    draws: Mapping[str, Any], where: str, needed: tuple[str, ...]
) -> tuple[list[str], Floats]:
    """Return the names and the draws, shape (draws, names)."""
    listed = draws.get("names", [])
    if not isinstance(listed, list):
        raise InputError(f"draws.{where}.names is {listed!r}, not a list of names")
    names = [str(name) for name in listed]
    missing = [name for name in needed if name not in names]
    if missing:
        raise InputError(f"draws.{where}.names lacks {', '.join(missing)}")
    try:
        rows = np.array(draws.get("rows", []), dtype=np.float64).reshape(-1, len(names))
    except (TypeError, ValueError):
        raise InputError(f"draws.{where}.rows is not a list of {len(names)} numbers each") from None
    if not np.isfinite(rows).all():
        raise InputError(f"draws.{where}.rows holds {rows[~np.isfinite(rows)][0]:g}, not a number")
    return names, rows
