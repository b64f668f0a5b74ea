"""A typed config as a command line."""

import dataclasses
import functools
from enum import Enum

from omegaconf import DictConfig, OmegaConf

from train.config.compose import CONFIG_ROOT
from train.config.schema import Config


def as_overrides(config):
    defaults = dict(_leaves("", Config()))
    return [
        f"{key}={_word(value)}"
        for key, value in _leaves("", config)
        if key != "study.grid" and (value != defaults[key] or key in _keys_of_files())
    ]


@functools.cache
def _keys_of_files():
    """Keys that the default config files set, perhaps to another value than the schema."""
    keys = set()
    for choice in OmegaConf.load(CONFIG_ROOT / "train.yaml").defaults:
        if isinstance(choice, DictConfig):
            ((group, name),) = choice.items()
            path = CONFIG_ROOT / str(group) / f"{name}.yaml"
            if path.exists():
                tree = OmegaConf.to_container(OmegaConf.load(path))
                keys |= {f"{group}.{key}" for key in tree.get(group) or tree}
    return frozenset(keys)


def _leaves(prefix, node):
    for field in dataclasses.fields(node):
        value = getattr(node, field.name)
        if dataclasses.is_dataclass(value):
            yield from _leaves(f"{prefix}{field.name}.", value)
        else:
            yield prefix + field.name, value


def _word(value):
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
