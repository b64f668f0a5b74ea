"""A config file is looked through before it is loaded: small, plain, and not a bomb.

Aliases that expand to billions of nodes, deep nesting and Python tags are refused by name, within
milliseconds; the loader that follows would take the memory of the machine, or say it in its words.
"""

import functools
import stat
from collections.abc import Iterator
from pathlib import Path

import yaml

from train.errors import ConfigError

LARGEST_BYTES = 200_000
"""Of one file; ours have 1 or 2 thousand, and the loader reads about 100 thousand a second."""

DEEPEST = 20
"""Levels of lists and mappings, aliases followed."""

MOST_NODES = 5_000
"""Scalars, lists and mappings of one file, aliases expanded; Hydra takes milliseconds for each."""

PLAIN_TAGS = frozenset(
    f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null", "seq", "map")
)


def check_yaml(path: Path) -> None:
    """Refuse a config file that is no plain YAML of reasonable size.

    Raises:
        ConfigError: Names the file, the line and the rule.
    """
    facts = path.stat()
    if not stat.S_ISREG(facts.st_mode):
        raise ConfigError(f"{path}: not a regular file")
    if facts.st_size > LARGEST_BYTES:
        raise ConfigError(
            f"{path}: {facts.st_size} bytes, and a config file has at most {LARGEST_BYTES}"
        )
    _check_text(path, facts.st_size, facts.st_mtime_ns)


@functools.lru_cache(maxsize=4096)
def _check_text(path: Path, size: int, mtime_ns: int) -> None:
    """Once for each content: Hydra reads its files several times."""
    try:
        _check_events(path, yaml.parse(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{path}:{line}: not YAML ({error.problem})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        first_line = str(error).partition("\n")[0]
        raise ConfigError(f"{path}: not YAML ({first_line})") from None
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply (at most {DEEPEST} levels)") from None


def _check_events(path: Path, events: Iterator[yaml.Event]) -> None:
    """Walk the events once, and reckon what aliases would expand to."""
    sizes: dict[str, tuple[int, int]] = {}  # nodes and levels below each anchor
    open_nodes: list[tuple[str | None, int, int]] = []  # anchor, nodes, levels so far

    def add(nodes: int, levels: int, anchor: str | None) -> None:
        if anchor is not None:
            sizes[anchor] = (nodes, levels)
        if open_nodes:
            name, before, deepest = open_nodes.pop()
            nodes += before
            open_nodes.append((name, nodes, max(deepest, levels)))
        if nodes > MOST_NODES:
            raise ConfigError(f"{path}: its aliases expand to over {MOST_NODES} nodes")
        if len(open_nodes) + levels > DEEPEST:
            raise ConfigError(f"{path}: nested more than {DEEPEST} levels deep")

    for event in events:
        tag = getattr(event, "tag", None)
        if tag is not None and tag != "!" and tag not in PLAIN_TAGS:
            name = tag.replace("tag:yaml.org,2002:", "!!")
            raise ConfigError(
                f"{path}:{event.start_mark.line + 1}: the tag {name} is not read; write plain "
                f"values"
            )
        if isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append((event.anchor, 1, 0))
            add(0, 0, None)
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, nodes, levels = open_nodes.pop()
            add(nodes, levels + 1, anchor)
        elif isinstance(event, yaml.ScalarEvent):
            add(1, 0, event.anchor)
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise ConfigError(
                    f"{path}:{event.start_mark.line + 1}: the alias *{event.anchor} has no whole "
                    f"anchor before it"
                )
            add(*sizes[event.anchor], None)
