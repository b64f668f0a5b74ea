"""Hydra's own node, checked between composing and acting on it: a foreign config runs no code.

What a study's file may put under `hydra:` is instantiated before our job is called: callbacks
(`_target_`), factories and files of logging, what is nested in a launcher's or sweeper's node,
variables of the environment. Hydra's list of forbidden targets stops os.system, and lets
urllib.request.urlretrieve, pathlib.Path.write_text and os.mkdir pass (tried with hydra-core 1.3.8).
So its node must be ours: our launchers and sweepers, no callbacks, logging as configs/train.yaml
has it. Hydra has no hook at that place, so the two functions that compose a tree and read a file
are wrapped while the command runs.
"""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hydra._internal.hydra import Hydra
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.core.utils import configure_log
from omegaconf import DictConfig, OmegaConf

from train.config.compose import refuse_wrong_kinds
from train.config.yaml_limits import check_yaml
from train.errors import ConfigError

OURS = "hydra_plugins.windtunnel."
"""Module of our launchers and sweepers; one that is stored there is allowed by that."""

QUIET = {"version": 1, "root": None, "disable_existing_loggers": False}
"""hydra/job_logging=none."""

FIXED: dict[str, tuple[Any, ...]] = {
    "callbacks": ({},),
    "hydra_logging": (QUIET,),
    "job_logging": (QUIET,),
    "output_subdir": (None,),
    "run.dir": (".",),
    "sweep.dir": (".",),
    "sweep.subdir": ("${hydra.job.num}",),
    "job.chdir": (None, False),
    "job.env_set": ({},),
    "job.env_copy": ([],),
}
"""Keys that decide what runs, where, and with which environment, with their only values."""

MOST_INTERPOLATIONS = 20
"""Of a config: each may double what another has doubled, and none of ours has any."""


def check_hydra_node(node: DictConfig) -> None:
    """Refuse a `hydra` node that is not what our configs make of it.

    Raises:
        ConfigError: Names the key.
    """
    raw = OmegaConf.to_container(node, resolve=False)
    assert isinstance(raw, dict)
    for key, allowed in FIXED.items():
        value: Any = raw
        for part in key.split("."):
            value = value.get(part)
        if value not in allowed:
            raise ConfigError(
                f"hydra.{key}={_short(value)}: what Hydra itself does is not a config's to choose; "
                f"leave it {_short(allowed[0])}"
            )
    for kind in ("launcher", "sweeper"):
        _check_plugin(kind, raw.get(kind))


def _check_plugin(kind: str, node: Any) -> None:  # noqa: ANN401
    """One of ours, and nothing in it that Hydra would instantiate."""
    targets = _stored_targets(kind)
    target = node.get("_target_") if isinstance(node, dict) else None
    if target not in targets.values():
        raise ConfigError(
            f"hydra.{kind}._target_={_short(target)}: not one of ours; use "
            f"hydra/{kind}={' or '.join(sorted(targets))}"
        )
    for path, value in _leaves(node, f"hydra.{kind}"):
        if any(part.startswith("_") for part in path.split(".")[2:]) and (
            path != f"hydra.{kind}._target_"
        ):
            raise ConfigError(f"{path}: nothing is instantiated in a {kind}; remove it")
        if isinstance(value, str) and "${" in value:
            raise ConfigError(f"{path}={_short(value)}: must be a plain value")


def _stored_targets(kind: str) -> dict[str, str]:
    """Names of our launchers or sweepers, and their classes."""
    store = ConfigStore.instance()
    found = {}
    for name in store.list(f"hydra/{kind}"):
        node = store.load(f"hydra/{kind}/{name}").node
        target = str(OmegaConf.select(node, "_target_", default=""))
        if target.startswith(OURS):
            found[name.removesuffix(".yaml")] = target
    return found


def check_interpolations(tree: DictConfig) -> None:
    """Refuse more interpolations than a person writes; the tree is not resolved yet.

    Raises:
        ConfigError: Says how many there are.
    """
    ours = {key: value for key, value in _raw(tree).items() if key != "hydra"}
    count = sum(value.count("${") for _, value in _leaves(ours, "") if isinstance(value, str))
    if count > MOST_INTERPOLATIONS:
        raise ConfigError(
            f"the config has {count} interpolations (${{...}}), more than {MOST_INTERPOLATIONS}; "
            f"write values instead"
        )


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Check every file that Hydra reads and every tree that it composes, before it acts on them."""
    Plugins.instance()  # registers the sources, of which `file` is one
    source: Any = SourcesRegistry.instance().resolve("file")
    compose, load = Hydra.compose_config, source.load_config

    def checked_compose(
        self: Hydra,
        *,
        with_log_configuration: bool = False,
        **options: Any,  # noqa: ANN401
    ) -> DictConfig:
        tree = compose(self, **options)
        check_hydra_node(tree.hydra)
        check_interpolations(tree)
        if with_log_configuration:
            configure_log(tree.hydra.hydra_logging, tree.hydra.verbose)
        return tree

    def checked_load(self: Any, config_path: str) -> Any:  # noqa: ANN401
        path = Path(self.path) / self._normalize_file_name(config_path)
        if path.exists():
            check_yaml(path)
        try:
            loaded = load(self, config_path)
        except (ValueError, RecursionError) as error:  # such as an integer of 5,000 digits
            raise ConfigError(f"{path}: cannot be read ({str(error)[:200]})") from None
        if not isinstance(loaded.config, DictConfig):
            raise ConfigError(f"{path}: a list; a config file holds keys and their values")
        package = _package(loaded.header, config_path)
        refuse_wrong_kinds(_raw(loaded.config), package, str(path))
        return loaded

    Hydra.compose_config = checked_compose  # type: ignore[method-assign,assignment]
    source.load_config = checked_load
    try:
        yield
    finally:
        Hydra.compose_config = compose  # type: ignore[method-assign]
        source.load_config = load


def refuse_hydra_options(words: list[str]) -> None:
    """Refuse Hydra's own options that run what a file says.

    Raises:
        ConfigError: --experimental-rerun, in any of its abbreviations.
    """
    for word in words:
        option = word.partition("=")[0]
        if len(option) > 2 and "--experimental-rerun".startswith(option):
            raise ConfigError(
                f"{option}: loads a pickle, which can run any code; start the job by its overrides"
            )


def _package(header: Mapping[str, str | None], config_path: str) -> str:
    """Prefix of a file's keys in the tree, with its dot."""
    package = header.get("package")
    group = config_path.rpartition("/")[0].replace("/", ".")
    package = group if package in (None, "_group_") else package
    return "" if package in ("_global_", "") else f"{package}."


def _raw(node: Any) -> dict[Any, Any]:  # noqa: ANN401
    plain = OmegaConf.to_container(node, resolve=False)
    return plain if isinstance(plain, dict) else {}


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:  # noqa: ANN401
    """Dotted paths and values of everything that is no list or mapping; empty ones too."""
    items: Any = ()
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    if not items:
        yield path, value
    for key, item in items:
        yield from _leaves(item, f"{path}.{key}" if path else str(key))


def _short(value: Any) -> str:  # noqa: ANN401
    text = "null" if value is None else str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
