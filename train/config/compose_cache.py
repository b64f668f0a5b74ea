"""The points of a grid composed by the thousand: Hydra once per choice of groups, values on copies.

Hydra reads and merges every file anew for each composition, a third of a second. Points of a grid
mostly differ in values, which Hydra itself sets last, on the merged tree; so the tree of each
choice of groups is kept, and the values are set on a copy of it.
"""

import copy
from collections.abc import Callable, Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

Compose = Callable[[list[str]], DictConfig]


def composed_once(compose: Compose) -> Compose:
    """Wrap Hydra's composition; the trees that come out are equal to those of `compose`.

    A dotted key that is neither added nor deleted is a value; groups have no dot in their names.
    Everything else, such as `model=d64` or `seed=1`, goes to `compose`.
    """
    parser = OverridesParser.create()
    trees: dict[tuple[str, ...], DictConfig] = {}

    def compose_point(words: list[str]) -> DictConfig:
        overrides = parser.parse_overrides(words)
        values = [override for override in overrides if _is_value(override)]
        choices = tuple(o.input_line or "" for o in overrides if not _is_value(o))
        if choices not in trees:
            trees[choices] = compose(list(choices))
        tree = copy.deepcopy(trees[choices])
        _set(tree, values)
        return tree

    return compose_point


def _is_value(override: Override) -> bool:
    key = override.key_or_group
    is_plain = not (override.is_add() or override.is_force_add() or override.is_delete())
    return is_plain and "." in key and "/" not in key and not key.startswith("hydra.")


def _set(tree: DictConfig, values: Sequence[Override]) -> None:
    for override in values:
        OmegaConf.update(tree, override.key_or_group, override.value(), merge=True)
