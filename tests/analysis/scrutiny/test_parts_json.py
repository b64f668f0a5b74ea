import json

import numpy as np
import pytest
from study_folders import isoflop_table

from analysis.refusal import Refusal
from analysis.repetition.fit import RepetitionFit
from analysis.scrutiny.by_convention import CountedExponent
from analysis.scrutiny.influence import find_influence
from analysis.scrutiny.local import local_exponent_of_surface
from analysis.scrutiny.parts import Scrutiny
from analysis.scrutiny.parts_json import TOP_RUNS, scrutiny_json

ONE_NUMBER = CountedExponent("kaplan", "parametric", 0.6, (0.5, 0.7), "")
NONE = CountedExponent("total", "isoflop", float("nan"), (float("nan"),) * 2, "2 budgets")


def parts(**given):
    """Every part refused, but for those given."""
    names = [name for name in Scrutiny.__annotations__ if name != "by_convention"]
    refused = {name: Refusal(f"no {name}") for name in names}
    scrutiny = Scrutiny(**{"by_convention": (ONE_NUMBER, NONE), **refused, **given})
    return scrutiny_json(scrutiny)


def test_a_refused_part_has_its_reason_and_no_number():
    found = json.loads(json.dumps(parts(), allow_nan=False))
    assert found.pop("by_convention") == [
        {"convention": "kaplan", "approach": "parametric", "a": 0.6, "a_ci": [0.5, 0.7]},
        {"convention": "total", "approach": "isoflop", "refused": "2 budgets"},
    ]
    assert found.pop("local") == {
        "surface": {"refused": "no local"}, "valleys": {"refused": "no local_valleys"},
    }  # fmt: skip
    assert found == {
        name: {"refused": f"no {name}"}
        for name in (
            "multiverse", "forms", "rollout", "counted", "influence", "learning_rate", "repetition",
        )
    }  # fmt: skip


def test_windows_are_written_with_their_range_and_the_drift_per_decade():
    table = isoflop_table(noise=0.001, sizes=9)
    columns = (table[name].to_numpy(float) for name in ("n_params", "tokens", "flops", "loss"))
    local = local_exponent_of_surface(*columns, resamples=100)
    found = parts(local=local)["local"]["surface"]
    assert [window["flops"] for window in found["windows"]] == [
        list(window.flops) for window in local.windows
    ]
    assert found["decades"] == pytest.approx(2.0)
    assert found["drift_ci"][0] < found["drift_per_decade"] < found["drift_ci"][1]
    assert found["stable"] is True
    json.dumps(found, allow_nan=False)


def test_of_the_influence_table_the_first_runs_are_written():
    table = isoflop_table(noise=0.001)
    columns = (table[name].to_numpy(float) for name in ("n_params", "tokens", "flops", "loss"))
    table_of_runs = find_influence(*columns, [f"run {k}" for k in range(len(table))])
    found = parts(influence=table_of_runs)["influence"]
    assert len(found["runs"]) == TOP_RUNS < len(table_of_runs.runs)
    assert found["runs"][0]["name"] == table_of_runs.runs[0].name
    assert found["a"] == table_of_runs.a


def test_repetition_says_how_many_runs_it_rests_on():
    fit = RepetitionFit(
        values={"E": 1.8, "R_D": np.inf, "R_N": 5.0}, objective=0.1, delta=1e-3,
        intervals={"R_D": (3.0, np.inf), "R_N": (1.0, 9.0)}, bootstrap={}, profiles={},
        reasons={"R_D": ("its bootstrap has no end above",), "R_N": ()},
        worth={4: (1.0, 0.8, 1.0)}, gradient=0.0, n_starts=12, starts_reached=3, n_runs=60,
        n_repeated=45, n_families=30, n_failed=0, max_epochs=64.0, notes=(),
    )  # fmt: skip
    found = parts(repetition=fit)["repetition"]
    assert (found["runs"], found["repeated_runs"], found["families"]) == (60, 45, 30)
    assert found["identified"] == {"R_D": False, "R_N": True}
    assert found["R_N_ci"] == [1.0, 9.0]
    assert found["worth_of_epochs"] == {"4": [1.0, 0.8, 1.0]}
    assert found["sentence"].startswith("R_D is not identified by these 45 repeated runs")
