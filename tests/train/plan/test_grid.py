"""Blocks of axes and comma sweeps, expanded to overrides that Hydra reads back."""

import re

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from train.errors import ConfigError
from train.plan.grid import expand_grid, override_word


def test_a_block_is_the_product_of_its_axes_in_their_order():
    block = {"model": ["d16", "d24"], "budget.flops": [1e11, 3e11]}
    assert expand_grid([], [block]) == [
        ["model=d16", "budget.flops=100000000000.0"],
        ["model=d16", "budget.flops=300000000000.0"],
        ["model=d24", "budget.flops=100000000000.0"],
        ["model=d24", "budget.flops=300000000000.0"],
    ]


def test_a_study_is_the_union_of_its_blocks():
    blocks = [{"seed": [0, 1]}, {"seed": [1, 2]}]
    assert expand_grid([], blocks) == [["seed=0"], ["seed=1"], ["seed=2"]]


def test_comma_sweeps_alone_are_a_grid():
    assert expand_grid(["model=a,b", "seed=0,1"], []) == [
        ["model=a", "seed=0"],
        ["model=a", "seed=1"],
        ["model=b", "seed=0"],
        ["model=b", "seed=1"],
    ]


def test_ranges_and_choices_are_lists_of_choices():
    assert expand_grid(["seed=range(0,3)"], []) == [["seed=0"], ["seed=1"], ["seed=2"]]
    assert expand_grid(["seed=choice(4,2)"], []) == [["seed=4"], ["seed=2"]]


def test_a_word_replaces_the_axis_of_its_name_and_joins_every_block():
    blocks = [{"model": ["a", "b"], "seed": [0]}, {"model": ["c"]}]
    assert expand_grid(["seed=5,6", "study=x"], blocks) == [
        ["model=a", "seed=5", "study=x"],
        ["model=a", "seed=6", "study=x"],
        ["model=b", "seed=5", "study=x"],
        ["model=b", "seed=6", "study=x"],
        ["model=c", "seed=5", "study=x"],
        ["model=c", "seed=6", "study=x"],
    ]


def test_nothing_asked_is_one_run_of_the_defaults():
    assert expand_grid([], []) == [[]]


@pytest.mark.parametrize(
    ("arguments", "blocks", "message"),
    [
        ([], [{"seed": []}], "study.grid: axis seed is []; it must be a list of at least one"),
        ([], [{"seed": 3}], "study.grid: axis seed is 3; it must be a list of at least one"),
        ([], [{"model": "d16"}], "study.grid: axis model is 'd16'; it must be a list"),
        (["~budget.tokens"], [], "~budget.tokens: a study cannot delete keys; set them to null"),
        (["seed=interval(0,1)"], [], "seed=interval(0,1): only lists of choices can be swept"),
    ],
)
def test_what_is_no_grid_is_refused(arguments, blocks, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        expand_grid(arguments, blocks)


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        False,
        0,
        -3,
        10**30,
        0.1,
        3e11,
        1e30,
        5e-324,
        float("inf"),
        "d64",
        "a/b.c-d_e+f",
        "two words",
        "it's",
        "back\\slash's",
        "C:\\texts",
        "ends in \\",
        "\\'",
        "comma,ed",
        "[x]",
        "",
        ["a.txt", "b c.txt"],
        [1, 2.5, None],
        [],
    ],
)
def test_hydra_reads_back_what_was_written(value):
    word = f"key={override_word(value)}"
    override = OverridesParser.create().parse_override(word)
    assert override.value() == value
    assert type(override.value()) is type(value) or isinstance(value, str)
