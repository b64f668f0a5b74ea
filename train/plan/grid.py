"""A study's grid: blocks of axes and plain comma sweeps, expanded to lists of overrides."""

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from train.errors import ConfigError
from train.storage.records import MOST_RUNS

Parser = OverridesParser
"""Hydra's parser of overrides."""

AXIS_KEY = re.compile(r"\+{0,2}[a-zA-Z_][a-zA-Z0-9_./@]*")
"""What may stand left of the equals sign: no option of the command, no deletion."""

PLAIN_WORD = re.compile(r"[a-zA-Z0-9_./:+-]+")


def expand_grid(
    arguments: Sequence[str],
    blocks: Sequence[Mapping[str, Any]],
    *,
    parser: Parser | None = None,
) -> list[list[str]]:
    """Return one list of overrides per run.

    Each block is the product of its axes; the study is the union of its blocks. A word on the
    command line, swept (`seed=0,1`) or not, replaces the axis of the same name in every block.

    Args:
        arguments: Hydra overrides, such as `study=quickstart` and `seed=0,1`.
        blocks: Axes by config key, each with a list of values.
        parser: Hydra's, with its config loader, which `glob()` needs.

    Raises:
        ConfigError: An axis is empty, no list or no config key, a sweep is not a list of choices,
            or the grid has more than MOST_RUNS points.
    """
    overrides = (parser or OverridesParser.create()).parse_overrides(list(arguments))
    words = {override.get_key_element(): _choices(override) for override in overrides}
    grid, points = [], 0
    for block in blocks or [{}]:
        axes = {key: _axis(key, values) for key, values in block.items()}
        axes.update(words)
        points += math.prod(map(len, axes.values()))
        if points > MOST_RUNS:  # before they are all held in memory
            raise ConfigError(f"the grid has {points} runs; at most {MOST_RUNS} can be planned")
        grid += [
            [f"{key}={value}" for key, value in zip(axes, point, strict=True)]
            for point in itertools.product(*axes.values())
        ]
    return list(map(list, dict.fromkeys(map(tuple, grid))))


def _choices(override: Override) -> list[str]:
    if override.is_delete():
        raise ConfigError(f"{override.input_line}: a study cannot delete keys; set them to null")
    if not override.is_sweep_override():
        return [override.get_value_element_as_str()]
    if not override.is_discrete_sweep():
        raise ConfigError(f"{override.input_line}: only lists of choices can be swept, such as a,b")
    return list(override.sweep_string_iterator())


def _axis(key: str, values: Any) -> list[str]:  # noqa: ANN401
    if not AXIS_KEY.fullmatch(key) or re.split(r"[./@]", key.lstrip("+"))[0] == "hydra":
        raise ConfigError(
            f"study.grid: axis {key!r} is no config key, such as model or optimizer.lr"
        )
    if not isinstance(values, list) or not values:
        raise ConfigError(
            f"study.grid: axis {key} is {values!r}; it must be a list of at least one value"
        )
    return [override_word(value) for value in values]


def override_word(value: Any) -> str:  # noqa: ANN401
    """Write a value so that Hydra's override grammar reads it back."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list):
        return "[" + ",".join(override_word(item) for item in value) + "]"
    text = str(value)
    if PLAIN_WORD.fullmatch(text):
        return text
    # the grammar takes a backslash for an escape before a quote only
    escaped = re.sub(r"\\+(?='|\Z)", lambda run: run[0] * 2, text).replace("'", r"\'")
    return f"'{escaped}'"
