"""Hydra's own node: ours passes, every other one is named by its key, and nothing stays wrapped."""

import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.hydra import Hydra
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from omegaconf import DictConfig, OmegaConf, open_dict

from train.config.compose import CONFIG_ROOT, register_schema
from train.config.hydra_node import (
    FIXED,
    check_hydra_node,
    check_interpolations,
    guarded,
    refuse_hydra_options,
)
from train.errors import ConfigError


@pytest.fixture
def tree() -> Iterator[DictConfig]:
    """Our config with Hydra's node, as python -m train has it."""
    register_schema()
    plugins = str(CONFIG_ROOT.parent / "train" / "plugins")
    sys.path.insert(0, plugins)
    Plugins.instance()
    with initialize_config_dir(str(CONFIG_ROOT), version_base="1.3"):
        yield compose("train", return_hydra_config=True)
    GlobalHydra.instance().clear()
    sys.path.remove(plugins)


def test_our_own_node_passes(tree: DictConfig) -> None:
    check_hydra_node(tree.hydra)
    check_interpolations(tree)


@pytest.mark.parametrize("key", FIXED)
def test_each_fixed_key_is_refused_by_name_when_it_differs(tree: DictConfig, key: str) -> None:
    with open_dict(tree):
        value: Any = {"x": "y"} if isinstance(FIXED[key][0], dict) else "other"
        if key == "job.env_copy":
            value = ["HOME"]
        if key == "job.chdir":
            value = True
        OmegaConf.update(tree.hydra, key, value, merge=False, force_add=True)
    with pytest.raises(ConfigError, match=rf"^hydra\.{key}=.*is not a config's to choose; leave"):
        check_hydra_node(tree.hydra)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("launcher", None, r"hydra\.launcher\._target_=null: not one of ours"),
        ("launcher._target_", "os.mkdir", "not one of ours; use hydra/launcher=local"),
        ("sweeper._target_", "hydra_plugins.windtunnel.x.Y", "use hydra/sweeper=study"),
        ("launcher._partial_", True, r"hydra\.launcher\._partial_: nothing is instantiated"),
        ("launcher.x", {"_target_": "os.mkdir"}, r"hydra\.launcher\.x\._target_: nothing is"),
        ("launcher.x", [{"_target_": "os.mkdir"}], r"hydra\.launcher\.x\.0\._target_: nothing"),
        ("launcher.x", "${study}", r"hydra\.launcher\.x=\$\{study\}: must be a plain value"),
    ],
)
def test_a_plugin_is_ours_and_instantiates_nothing_else(
    tree: DictConfig, key: str, value: Any, message: str
) -> None:
    OmegaConf.set_struct(tree, False)
    plain = OmegaConf.create(OmegaConf.to_container(tree.hydra, resolve=False))
    OmegaConf.update(plain, key, value, merge=False, force_add=True)
    with pytest.raises(ConfigError, match=message):
        check_hydra_node(plain)


def test_interpolations_are_counted_before_they_are_resolved() -> None:
    few = {"files": ["${a}"] * 20, "hydra": {"x": ["${b}"] * 99}}
    check_interpolations(OmegaConf.create(few))
    many = {"files": ["${a}${a}${a}"] * 7}
    with pytest.raises(ConfigError, match=r"21 interpolations .* more than 20"):
        check_interpolations(OmegaConf.create(many))


def test_the_wrapping_ends_with_the_command() -> None:
    Plugins.instance()
    source: Any = SourcesRegistry.instance().resolve("file")
    before = Hydra.compose_config, source.load_config
    with guarded():
        assert (Hydra.compose_config, source.load_config) != before
    assert (Hydra.compose_config, source.load_config) == before
    with pytest.raises(KeyError), guarded():
        raise KeyError
    assert (Hydra.compose_config, source.load_config) == before


@pytest.mark.parametrize("word", ["--experimental-rerun", "--experimental-rerun=x", "--ex", "--e"])
def test_the_option_that_loads_a_pickle_is_refused_however_it_is_cut(word: str) -> None:
    with pytest.raises(ConfigError, match="loads a pickle"):
        refuse_hydra_options([word])


def test_other_options_are_hydra_s() -> None:
    refuse_hydra_options(["-m", "--config-dir", "x", "--cfg", "job", "seed=1", "--", "-"])
