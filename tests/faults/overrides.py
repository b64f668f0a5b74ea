"""A typed config as a command line, and copies of it with changes."""

import dataclasses
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any

from train.config import Config


def as_overrides(config: Config) -> list[str]:
    """Every setting of `config` as a word of the command line."""
    return [f"{key}={_word(value)}" for key, value in _leaves("", config) if key != "study.grid"]


def changed(config: Config, changes: Mapping[str, Any]) -> Config:
    """A copy of `config` with dotted keys replaced, such as {"machine.log_every": 5}."""
    for key, value in changes.items():
        config = _replaced(config, key.split("."), value)
    return config


def _replaced(node: Any, path: list[str], value: Any) -> Any:
    name, *rest = path
    new = _replaced(getattr(node, name), rest, value) if rest else value
    return dataclasses.replace(node, **{name: new})


def _leaves(prefix: str, node: Any) -> Iterator[tuple[str, Any]]:
    for field in dataclasses.fields(node):
        value = getattr(node, field.name)
        if dataclasses.is_dataclass(value):
            yield from _leaves(f"{prefix}{field.name}.", value)
        else:
            yield prefix + field.name, value


def _word(value: Any) -> str:
    """A value in the grammar of Hydra's overrides."""
    if value is None:
        return "null"
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, list):
        return "[" + ",".join(_word(item) for item in value) + "]"
    if isinstance(value, str):
        return "'" + value.replace("'", "\\'") + "'"
    return str(value).lower() if isinstance(value, bool) else repr(value)
