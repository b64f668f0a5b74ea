"""Between Hydra and the typed config: the schema, unknown keys, and errors in the user's terms.

Hydra accepts `+model.d_modle=32` and its own message for the typo recommends it, so the composed
tree is compared with the dataclasses here, and every refusal names the nearest key.
"""

import dataclasses
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from train.config import Config
from train.errors import ConfigError, did_you_mean

CONFIG_ROOT = Path(__file__).resolve().parent.parent / "configs"


def register_schema() -> None:
    """Store the typed schema under the name that configs/train.yaml starts from."""
    ConfigStore.instance().store(name="schema", node=Config)


def to_config(tree: DictConfig) -> Config:
    """Check a composed tree and turn it into plain dataclasses.

    Raises:
        ConfigError: An unknown key, a wrong type, or a missing value.
    """
    reject_unknown_keys(tree)
    try:
        config = OmegaConf.to_object(tree)
    except OmegaConfBaseException as error:
        raise explain(error) from None
    assert isinstance(config, Config)
    return config


def reject_unknown_keys(tree: DictConfig) -> None:
    """Raise a ConfigError for the first key of `tree` that Config does not have."""
    known = set(known_keys(Config))
    for key in _tree_keys(tree, Config):
        if key not in known:
            raise _unknown(key, known)


def known_keys(cls: type, prefix: str = "") -> Iterator[str]:
    """Dotted names of every field, groups included."""
    for name, kind in typing.get_type_hints(cls).items():
        yield prefix + name
        if dataclasses.is_dataclass(kind):
            assert isinstance(kind, type)
            yield from known_keys(kind, f"{prefix}{name}.")


def explain(error: Exception) -> ConfigError:
    """Say what Hydra or OmegaConf refused: the key, its value, and the nearest right one."""
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    for link in chain:
        if isinstance(link, MissingConfigException) and link.missing_cfg_file:
            return _missing_file(link)
    for link in chain:
        if isinstance(link, OmegaConfBaseException):
            key = link.full_key or ""
            first_line = str(link.msg or link).split("\n", 1)[0]
            if re.search(r"not in '\w+'|is not in struct", first_line):
                return _unknown(key, set(known_keys(Config)))
            return ConfigError(f"{key}: {first_line}" if key else first_line)
    return ConfigError(str(error).split("\nSee https", 1)[0].strip())


def is_config_failure(error: BaseException) -> bool:
    """Whether an exception is Hydra's or OmegaConf's way of refusing a user's input."""
    return isinstance(error, HydraException | OmegaConfBaseException)


def _unknown(key: str, known: set[str]) -> ConfigError:
    parent = key.rpartition(".")[0]
    while parent and parent not in known:
        parent = parent.rpartition(".")[0]
    siblings = {name for name in known if name.rpartition(".")[0] == parent}
    everywhere = did_you_mean(key, known)
    near = everywhere if "did you mean" in everywhere else did_you_mean(key, siblings)
    return ConfigError(f"{key}: unknown{near}")


def _missing_file(error: MissingConfigException) -> ConfigError:
    """A group has no such option: name the near ones."""
    group, _, name = str(error.missing_cfg_file).rpartition("/")
    if not group:
        return ConfigError(str(error).split("\n", 1)[0])
    options = [option for option in error.options or () if not option.startswith("_")]
    return ConfigError(f"{group}={name}: there is no such config{did_you_mean(name, options)}")


def _tree_keys(node: Any, cls: Any, prefix: str = "") -> Iterator[str]:  # noqa: ANN401
    """Dotted keys that stand in the tree, below dataclass nodes only."""
    hints = typing.get_type_hints(cls)
    for key in node:
        yield f"{prefix}{key}"
        kind = hints.get(key)
        if dataclasses.is_dataclass(kind):
            yield from _tree_keys(node[key], kind, f"{prefix}{key}.")
