"""Plain YAML passes; what would run code, fill the memory or confuse the loader is named."""

from pathlib import Path

import pytest

from train.config.compose import CONFIG_ROOT
from train.config.yaml_limits import DEEPEST, LARGEST_BYTES, MOST_NODES, check_yaml
from train.errors import ConfigError


def refusal(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as refused:
        check_yaml(path)
    assert str(refused.value).startswith(str(path))
    return str(refused.value)


def test_every_config_of_ours_passes() -> None:
    paths = list(CONFIG_ROOT.rglob("*.yaml"))
    assert len(paths) > 30
    for path in paths:
        check_yaml(path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a: &x [1, 2]\nb: *x\n",
        "a: !!str 3\nb: ! x\n",
        "base: &b {x: 1}\nmore: {<<: *b, y: 2}\n",
        "[" * DEEPEST + "]" * DEEPEST,
        "- x\n" * (MOST_NODES - 1),
    ],
)
def test_plain_yaml_passes(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.yaml").write_text(text, encoding="utf-8")
    check_yaml(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: !!python/name:os.system ''", ":1: the tag !!python/name:os.system is not read"),
        ("\na: !mine x", ":2: the tag !mine is not read; write plain values"),
        ("a: [1", ":1: not YAML ("),
        ("a: *x", ":1: the alias *x has no whole anchor before it"),
        ("a: &x [*x]", ":1: the alias *x has no whole anchor before it"),
        ("[" * (DEEPEST + 1) + "]" * (DEEPEST + 1), ": nested more than 20 levels deep"),
        ("- x\n" * MOST_NODES, f": its aliases expand to over {MOST_NODES} nodes"),
        ("x" * (LARGEST_BYTES + 1), f"{LARGEST_BYTES + 1} bytes, and a config file has at most"),
        ("a: \x01", ": not YAML ("),
    ],
)
def test_what_is_not_plain_is_named(tmp_path: Path, text: str, message: str) -> None:
    assert message in refusal(tmp_path / "a.yaml", text)


def test_aliases_are_followed_in_depth_too(tmp_path: Path) -> None:
    nested = "[" * 12 + "]" * 12
    text = f"a: &x {nested}\nb: {'[' * 12}*x{']' * 12}\n"
    assert "nested more than 20 levels" in refusal(tmp_path / "a.yaml", text)


def test_bytes_that_are_no_text_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ConfigError, match="not YAML"):
        check_yaml(tmp_path / "a.yaml")


def test_a_device_is_no_config_file(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").symlink_to("/dev/zero")
    with pytest.raises(ConfigError, match="not a regular file"):
        check_yaml(tmp_path / "a.yaml")


def test_a_file_that_changed_is_looked_through_again(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("a: 1\n", encoding="utf-8")
    check_yaml(path)
    assert "not YAML" in refusal(path, "a: [1, 2\n")
