"""From Hydra's composed tree to the typed config: unknown keys, types, and readable errors.

Hydra accepts `+model.d_modle=32`, and its message for the typo recommends it. So the keys of the
composed tree are checked against the dataclasses here, and a message names the nearest key.
"""

import copy
import dataclasses
import re
import traceback
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hydra.conf import HydraConf
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import (
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from train.config.schema import Config
from train.errors import ConfigError, did_you_mean
from train.secrets import mask, refuse_secrets

Compose = Callable[[list[str]], DictConfig]
"""Hydra's composition: overrides to a tree."""

CONFIG_ROOT = Path(__file__).resolve().parents[2] / "configs"

SWEEP_ALONE = re.compile(r"Ambiguous value for argument '(.*)'|Sweep parameters '(.*)' requires")
"""Hydra's error for a comma sweep without -m."""

ALREADY_THERE = re.compile(r"(?s).* at '([^']*)'.*")
"""Hydra's error for + before an existing key."""

NO_LIST = re.compile(r"is not a ListConfig, list or tuple|merge DictConfig with ListConfig")
"""OmegaConf's error where a list was expected."""

IN_FILE = re.compile(r"In '(.*?)': ")
"""Config file in Hydra's error for a value that OmegaConf refused."""

FULL_ERROR_HINT = ", set env var HYDRA_FULL_ERROR=1 to see chained exception"
"""Hint that Hydra adds to errors; the command has set the variable already."""


def register_schema() -> None:
    """Store Config in Hydra's ConfigStore as `schema`, the first default of configs/train.yaml."""
    ConfigStore.instance().store(name="schema", node=Config)


def to_config(tree: DictConfig) -> Config:
    """Check a composed tree and convert it to dataclasses.

    Raises:
        ConfigError: An unknown key, a wrong type, a missing value, or a secret.
    """
    reject_unknown_keys(tree)
    try:
        config = OmegaConf.to_object(tree)
    except OmegaConfBaseException as error:
        raise explain(error) from None
    assert isinstance(config, Config)
    refuse_secrets(_values(dataclasses.asdict(config)))
    return config


def reject_unknown_keys(tree: DictConfig) -> None:
    """Raise ConfigError for the first key that is not in Config."""
    known = set(known_keys(Config))
    for key in _tree_keys(tree, Config):
        if key not in known:
            raise _unknown(key, known)


def known_keys(cls: type, prefix: str = "") -> Iterator[str]:
    """Dotted names of all fields, groups included."""
    for name, kind in typing.get_type_hints(cls).items():
        yield prefix + name
        if dataclasses.is_dataclass(kind):
            assert isinstance(kind, type)
            yield from known_keys(kind, f"{prefix}{name}.")


def explain(error: Exception) -> ConfigError:
    """Convert an error of Hydra or OmegaConf: the key, its value, and the nearest valid one."""
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    for link in chain:
        if isinstance(link, MissingConfigException) and link.missing_cfg_file:
            return _missing_file(link)
        if isinstance(link, OverrideParseException):
            return ConfigError(mask(_unreadable(link.override)))
        if str(link).startswith("Could not append to config"):
            return ConfigError(
                mask(ALREADY_THERE.sub(r"+\1: is a setting; write \1=...", str(link)))
            )
        if found := SWEEP_ALONE.match(str(link)):
            word = mask(found[1] or found[2])
            key, _, values = word.partition("=")
            return ConfigError(
                f"{word}: several values are several runs; put -m before them (python -m train -m "
                f"{word}), or write one list as {key}=[{values}]"
            )
    for link in chain:
        if isinstance(link, OmegaConfBaseException):
            in_file = IN_FILE.match(str(error))
            file = f"{in_file[1]}.yaml: " if in_file else ""
            return ConfigError(mask(file + _refused_value(link)))
    message = str(error).split("\nSee https", 1)[0].strip()
    # such as the ImportError of a callback's module
    reason = f" ({chain[1]})" if isinstance(error, InstantiationException) and chain[1:] else ""
    return ConfigError(mask(message.replace(FULL_ERROR_HINT, "") + reason))


def _refused_value(error: OmegaConfBaseException) -> str:
    """Message for a key or value that OmegaConf refused."""
    key = str(error.full_key or "")
    first_line = str(error.msg or error).split("\n", 1)[0]
    if re.search(r"not in '\w+'|is not in struct", first_line):
        if key.startswith("hydra."):
            return f"{key}: not a key of Hydra's; to add one, write +{key}=..."
        return str(_unknown(key, set(known_keys(Config))))
    if NO_LIST.search(first_line):
        if not key:
            return f"keys where a list belongs, or a list where keys belong ({first_line})"
        return f"{key}: a list belongs here; write {key}=[VALUE,...]"
    return f"{key}: {first_line}" if key else first_line


def _unreadable(override: str) -> str:
    """Message for an override that Hydra's grammar cannot parse."""
    key, equals, value = override.partition("=")
    if not equals:
        return f"{override}: not an override; write key=value, such as seed=1"
    if value.rstrip().endswith(","):
        return f"{override}: a value is missing after the last comma; write {override.rstrip(', ')}"
    return f"{override}: cannot be read; quote the value for the shell and Hydra, \"{key}='...'\""


def is_config_failure(error: BaseException) -> bool:
    """Whether an exception is how Hydra, OmegaConf or PyYAML refuses a user's input."""
    if isinstance(error, HydraException | OmegaConfBaseException | YAMLError):
        return True
    # errors of Hydra itself, for options (such as --resolve without --cfg) and plugins
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    in_hydra = frame.f_globals.get("__name__", "").startswith("hydra.")
    return in_hydra and isinstance(error, ValueError | RuntimeError)


def _unknown(key: str, known: set[str]) -> ConfigError:
    parent = key.rpartition(".")[0]
    while parent and parent not in known:
        parent = parent.rpartition(".")[0]
    siblings = {name for name in known if name.rpartition(".")[0] == parent}
    everywhere = did_you_mean(key, known)
    near = everywhere if "did you mean" in everywhere else did_you_mean(key, siblings)
    return ConfigError(f"{key}: unknown{near}")


def _missing_file(error: MissingConfigException) -> ConfigError:
    """Error for an option that its group does not have; names similar ones."""
    group, _, name = str(error.missing_cfg_file).rpartition("/")
    if not group:
        return ConfigError(str(error).split("\n", 1)[0])
    options = [option for option in error.options or () if not option.startswith("_")]
    return ConfigError(f"{group}={name}: there is no such config{did_you_mean(name, options)}")


def _tree_keys(node: Any, cls: Any, prefix: str = "") -> Iterator[str]:  # noqa: ANN401
    """Dotted keys of the tree; keys of a plain dict are not listed."""
    hints = typing.get_type_hints(cls)
    for key in node:
        yield f"{prefix}{key}"
        kind = hints.get(key)
        if dataclasses.is_dataclass(kind):
            yield from _tree_keys(node[key], kind, f"{prefix}{key}.")


def _values(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:  # noqa: ANN401
    """Dotted names and values of a plain tree; keys of dicts are values too."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield f"a key of {path}", key
            yield from _values(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _values(item, f"{path}.{number}")
    else:
        yield path, value


def composed_once(compose: Compose) -> Compose:
    """Cache Hydra's composition, which takes a third of a second, for the points of a grid.

    Points differ mostly in values, which Hydra sets last, on the merged tree. So each choice of
    groups is composed once, and values are set on copies of it. The result equals that of
    `compose`, without Hydra's own node. Only overrides of dotted keys that neither add nor delete
    are values, because names of groups have no dots.
    """
    parser = OverridesParser.create()
    composed: dict[tuple[str, ...], tuple[DictConfig, HydraConf | None]] = {}

    def compose_point(arguments: list[str]) -> DictConfig:
        overrides = parser.parse_overrides(arguments)
        keys = [override.key_or_group for override in overrides]
        if len(set(keys)) < len(keys):
            # their order decides, which only Hydra's own composition keeps
            return _without_hydra(compose(arguments))
        choices = tuple(o.input_line or "" for o in overrides if not _is_value(o))
        hydra = HydraConfig.instance()
        if choices not in composed:
            tree = compose(list(choices))
            if "hydra" in tree:
                hydra.set_config(tree)
            composed[choices] = _without_hydra(tree), hydra.cfg
        # interpolations such as ${hydra:runtime.choices.model} read hydra.cfg
        ours, hydra.cfg = composed[choices]
        point = copy.deepcopy(ours)
        for override in filter(_is_value, overrides):
            OmegaConf.update(point, override.key_or_group, override.value(), merge=True)
        return point

    return compose_point


def _without_hydra(tree: DictConfig) -> DictConfig:
    tree = tree.copy()
    with read_write(tree), open_dict(tree):
        tree.pop("hydra", None)
    return tree


def _is_value(override: Override) -> bool:
    key = override.key_or_group
    is_plain = not (override.is_add() or override.is_force_add() or override.is_delete())
    return is_plain and "." in key and "/" not in key and not key.startswith("hydra.")
