"""Between Hydra and the typed config: the schema, unknown keys, and errors in the user's terms.

Hydra accepts `+model.d_modle=32` and its own message for the typo recommends it, so the composed
tree is compared with the dataclasses here, and every refusal names the nearest key.
"""

import dataclasses
import re
import typing
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from train.config.schema import Config
from train.errors import ConfigError, did_you_mean
from train.secrets import mask, refuse_secrets

CONFIG_ROOT = Path(__file__).resolve().parents[2] / "configs"


DEEPEST = 20
"""Levels of a config, those of a study's grid included."""

SWEEP_ALONE = re.compile(r"Ambiguous value for argument '(.*)'|Sweep parameters '(.*)' requires")
"""How Hydra says that a comma sweep needs -m."""


GRID_BLOCK = re.compile(r"study\.grid(\.\d+)?")
"""Where a grid must have a list and a mapping."""

ALREADY_THERE = re.compile(r"(?s).* at '([^']*)'.*")
"""How Hydra says that + is for new keys, which we have none of."""

NO_LIST = re.compile(r"is not a ListConfig, list or tuple|merge DictConfig with ListConfig")
"""How OmegaConf says that a list was expected."""


def register_schema() -> None:
    """Store the typed schema under the name that configs/train.yaml starts from."""
    ConfigStore.instance().store(name="schema", node=Config)


def to_config(tree: DictConfig) -> Config:
    """Check a composed tree and turn it into plain dataclasses.

    Raises:
        ConfigError: An unknown key, a wrong type, a missing value, or a secret.
    """
    reject_unknown_keys(tree)
    try:
        config = OmegaConf.to_object(tree)
    except OmegaConfBaseException as error:
        raise explain(error) from None
    except RecursionError:
        raise ConfigError("the config is nested too deeply") from None
    assert isinstance(config, Config)
    refuse_secrets(values_of(dataclasses.asdict(config)))
    return config


def values_of(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:  # noqa: ANN401
    """Dotted names and values of everything in a plain tree; keys of a grid are values as well.

    Raises:
        ConfigError: It is nested more than DEEPEST levels.
    """
    if path.count(".") > DEEPEST:
        raise ConfigError(f"{path.split('.')[0]}: nested more than {DEEPEST} levels deep")
    if isinstance(value, dict):
        for key, item in value.items():
            name = f"{path}.{key}" if path else str(key)
            yield f"a key of {path}" if path else "a key", key
            yield from values_of(item, name)
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from values_of(item, f"{path}.{number}")
    else:
        yield path, value


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
            key = link.full_key or ""
            first_line = str(link.msg or link).split("\n", 1)[0]
            if re.search(r"not in '\w+'|is not in struct", first_line):
                return _unknown(key, set(known_keys(Config)))
            if NO_LIST.search(first_line):
                return ConfigError(f"{key}: a list belongs here; write {key}=[VALUE,...]")
            return ConfigError(mask(f"{key}: {first_line}" if key else first_line))
    return ConfigError(mask(str(error).split("\nSee https", 1)[0].strip()))


def refuse_text_words(words: Iterable[str]) -> None:
    """Refuse overrides without a key, deletions, and text where a number or true/false belongs.

    Raises:
        ConfigError: Names the key, the value and what to write.
    """
    parser = OverridesParser.create()
    for word in words:
        try:
            override = parser.parse_override(word)
        except HydraException:
            continue  # Hydra refuses it, and explain() says it in our words
        key = override.get_key_element().lstrip("+~")
        if not key:
            raise ConfigError(f"{word}: no key; write key=value, such as seed=1")
        if override.is_delete():
            raise ConfigError(f"{word}: settings cannot be deleted; set {key} to another value")
        if override.is_sweep_override() and not override.is_discrete_sweep():
            continue
        is_sweep = override.is_sweep_override()
        values = list(override.sweep_iterator()) if is_sweep else [override.value()]
        for value in values:
            _refuse_text(key, getattr(value, "text", value), "")  # a quoted one of a sweep


def refuse_wrong_kinds(values: Mapping[str, Any], package: str, where: str) -> None:
    """The same for a file's values, whose keys stand below `package`, and its groups and blocks.

    Raises:
        ConfigError: Names the file, the key, the value and what to write.
    """
    groups = {key.rpartition(".")[0] for key in _kinds()}
    for key, value in values_of(dict(values)):
        if f"{package}{key}" in groups and value is not None and value != {}:
            raise ConfigError(f"{where}: {package}{key}={value}: must hold keys and their values")
        if GRID_BLOCK.fullmatch(f"{package}{key}"):
            raise ConfigError(
                f"{where}: study.grid holds {value!r}; each block maps keys to lists of values"
            )
        _refuse_text(f"{package}{key}", value, f"{where}: ")


def _refuse_text(key: str, value: Any, where: str) -> None:  # noqa: ANN401
    """OmegaConf would take "32" for 32, "yes" for true, and 1 for true."""
    kind = _kinds().get(key)
    is_text = isinstance(value, str) and "${" not in value and value != "???"
    if kind is bool and not isinstance(value, bool) and (is_text or isinstance(value, int)):
        raise ConfigError(f"{where}{key}={value}: must be true or false")
    if kind in (int, float) and is_text:
        assert kind is not None
        try:
            kind(value)
        except ValueError:
            return  # OmegaConf says that it is no number
        raise ConfigError(f"{where}{key}='{value}': is text; write {value} without quotes")


def _kinds(cls: type = Config, prefix: str = "") -> dict[str, type]:
    """The plain type of every field, by dotted name; Optional is left away."""
    kinds: dict[str, type] = {}
    for name, kind in typing.get_type_hints(cls).items():
        if dataclasses.is_dataclass(kind):
            assert isinstance(kind, type)
            kinds.update(_kinds(kind, f"{prefix}{name}."))
            continue
        plain = [part for part in typing.get_args(kind) or (kind,) if part is not type(None)]
        kinds[prefix + name] = plain[0]
    return kinds


def _unreadable(override: str) -> str:
    """Say what is wrong with a word that Hydra's grammar does not read."""
    key, equals, value = override.partition("=")
    if not equals:
        return f"{override}: not an override; write key=value, such as seed=1"
    if value.rstrip().endswith(","):
        return f"{override}: a value is missing after the last comma; write {override.rstrip(', ')}"
    return f"{override}: cannot be read; quote the value for the shell and Hydra, \"{key}='...'\""


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
