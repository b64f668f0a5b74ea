"""run_id: the same science is the same name everywhere, and another science another."""

import dataclasses
import os
import re
import subprocess
import sys
from enum import Enum
from pathlib import Path

import pytest

from train.config.experiment import (
    BudgetConfig,
    DataConfig,
    LearningRateRule,
    ModelConfig,
    OptimizerConfig,
)
from train.config.runtime import (
    Device,
    MachineConfig,
    PathsConfig,
    StudyConfig,
    TrackerConfig,
    TrackerKind,
)
from train.config.schema import SCIENCE, Config
from train.plan.identity import run_id, science, science_hash, short_count
from train.plan.planning import plan_run
from train.storage.records import RUN_ID, canonical_json

REPO = Path(__file__).resolve().parents[2]


def golden_config():
    return Config(
        model=ModelConfig(d_model=64),
        data=DataConfig(),
        optimizer=OptimizerConfig(
            lr=0.003, batch_tokens=16_384, lr_rule=LearningRateRule(coefficient=0.0047, maximum=1.0)
        ),
        budget=BudgetConfig(tokens=1000 * 16_384),
        seed=7,
    )


GOLDEN = "d64l2-16.4m-lr3.00e-03-s7-186062e4"
"""Made by plan_run(golden_config()).run_id. It changes with any field, default or NUMERICS_VERSION
of the science: then every old run has another name. Update it only together with a CHANGELOG line
under "Numerics"."""


def test_the_golden_config_keeps_its_name():
    assert plan_run(golden_config()).run_id == GOLDEN


def test_the_name_says_shape_tokens_rate_and_seed(make_config):
    name = plan_run(make_config(seed=3)).run_id
    assert re.fullmatch(r"d32l2-10\.2k-lr1\.00e-02-s3-[0-9a-f]{8}", name)


@pytest.mark.parametrize("tokens", [1, 999, 1e5, 1e12, 1e16, 1e30])
@pytest.mark.parametrize("lr", [1e-30, 0.003, 1.0, 1e30])
def test_names_use_one_plain_alphabet(tokens, lr):
    name = run_id(Config(), rung="d64l2", tokens=int(tokens), lr=lr)
    assert RUN_ID.fullmatch(name)


def test_plumbing_changes_no_name(make_config):
    plain = science_hash(make_config())
    plumbing = {
        "study": StudyConfig(name="other", question="why", extend=True),
        "machine": MachineConfig(device=Device.cpu, threads=4, micro_batch_seqs=2, log_every=1),
        "tracker": TrackerConfig(kind=TrackerKind.wandb, project="elsewhere"),
        "paths": PathsConfig(runs="/elsewhere", data="/elsewhere"),
        "together": ["d32l2-20.5k-lr1.00e-02-s0-0123abcd"],
        "dry_run": True,
        "restart": True,
    }
    assert {*plumbing, *SCIENCE} == {field.name for field in dataclasses.fields(Config)}
    assert science_hash(make_config(**plumbing)) == plain


def leaves(node, prefix=""):
    for field in dataclasses.fields(node):
        value = getattr(node, field.name)
        if dataclasses.is_dataclass(value):
            yield from leaves(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, value


def another(value):
    """A value of the same kind that differs."""
    if value is None:
        return 5
    if isinstance(value, bool):
        return not value
    if isinstance(value, Enum):
        return next(member for member in type(value) if member is not value)
    if isinstance(value, int | float):
        return value + 1
    return value + (["x"] if isinstance(value, list) else "x")


def replaced(node, path, value):
    inner = value if len(path) == 1 else replaced(getattr(node, path[0]), path[1:], value)
    return dataclasses.replace(node, **{path[0]: inner})


FIELDS = [key for key, _ in leaves(Config()) if key.split(".")[0] in SCIENCE]


@pytest.mark.parametrize("key", FIELDS)
def test_every_science_field_changes_the_name(key):
    value = dict(leaves(Config()))[key]
    changed = replaced(Config(), key.split("."), another(value))
    assert science_hash(changed) != science_hash(Config())


def test_key_order_changes_no_hash():
    there = {"a": {"x": 1, "y": [1, 2]}, "b": None}
    back = {"b": None, "a": {"y": [1, 2], "x": 1}}
    assert canonical_json(there) == canonical_json(back) == '{"a":{"x":1,"y":[1,2]},"b":null}'


def test_a_whole_float_is_its_integer():
    assert canonical_json([1.0, 3e11, 0.1, True]) == "[1,300000000000,0.1,true]"


def test_a_budget_written_as_an_integer_or_a_float_is_one_run():
    assert science_hash(Config(budget=BudgetConfig(flops=10**12))) == science_hash(
        Config(budget=BudgetConfig(flops=1e12))
    )


def test_nothing_that_json_cannot_say_is_hashed():
    with pytest.raises(ValueError, match="Out of range float"):
        canonical_json({"lr": float("nan")})


def test_science_is_plain_values():
    told = science(Config())
    assert list(told) == list(SCIENCE)
    assert told["schedule"]["shape"] == "cosine"
    assert told["data"]["synthetic"]["seed"] == 0


@pytest.mark.parametrize("hash_seed", ["0", "4242"])
def test_the_name_does_not_depend_on_python_s_hash_seed(hash_seed):
    code = "from test_identity import *; print(plan_run(golden_config()).run_id)"
    paths = os.pathsep.join([str(REPO), str(Path(__file__).parent)])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == GOLDEN


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (7, "7"),
        (999, "999"),
        (999.6, "1k"),
        (10_240, "10.2k"),
        (999_400, "999k"),
        (999_600, "1m"),
        (16_800_000, "16.8m"),
        (5.12e9, "5.12b"),
        (2e12, "2t"),
    ],
)
def test_counts_are_three_digits_and_a_unit(count, text):
    assert short_count(count) == text
