import json

import numpy as np
import pandas as pd
import pytest
from study_folders import isoflop_table

from analysis import fits_json
from analysis.config import parse_options
from analysis.errors import RefusedError
from analysis.fits import analyse, survey
from analysis.intake.table import RunsTable, screen
from analysis.scrutiny import parts


@pytest.fixture(scope="module")
def told():
    """fits.json of a study with three seeds a run, as a program reads it."""
    rng = np.random.default_rng(1)
    seeds = [isoflop_table().assign(seed=k) for k in range(3)]
    frame = pd.concat(seeds, ignore_index=True)
    frame["loss"] *= np.exp(0.004 * rng.standard_normal(len(frame)))
    usable, excluded = screen(frame, None)
    table = RunsTable(usable, tuple(excluded), "t", "t.csv", "0" * 64)

    def refuse(*args, **choices):
        raise RefusedError("left out of these tests")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "explore", refuse)
        done = analyse(
            survey(table, parse_options(["table=t.csv", "bootstrap=300"])), lambda n: None
        )
    return json.loads(json.dumps(fits_json.to_json(done), allow_nan=False))


def test_the_contract_s_keys_come_first_and_in_order(told):
    first = ["schema", "inputs", "conventions", "isoflop", "parametric", "envelope", "verdict"]
    assert list(told)[:7] == first


def test_replicas_are_measured_and_written(told):
    seeds = told["isoflop"]["seeds"]
    assert seeds["freedom"] == 70
    # 70 degrees of freedom put the sd within 8 % (one standard error)
    assert seeds["sd"] == pytest.approx(0.004, rel=0.25)
    assert seeds["by"] in ("", "loss", "size")


def test_exponents_of_parameters_and_tokens_sum_to_one_where_c_is_6nd(told):
    for approach in ("isoflop", "parametric"):
        assert told[approach]["a"] + told[approach]["b"] == pytest.approx(1.0, abs=1e-6)
        low, high = told[approach]["a_ci"]
        assert low < told[approach]["a"] < high


def test_a_part_that_was_refused_says_why_and_has_no_number(told):
    assert told["multiverse"] == {"refused": "left out of these tests"}
    assert list(told["repetition"]) == ["refused"]


def test_every_pair_of_answers_is_compared(told):
    answered = [name for name in ("isoflop", "parametric", "envelope") if "a" in told[name]]
    assert len(told["verdict"]["comparisons"]) == len(answered) * (len(answered) - 1) // 2
