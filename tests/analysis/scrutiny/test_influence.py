import time

import numpy as np
import pytest
from study_folders import isoflop_table

from analysis.config import Loss
from analysis.errors import RefusedError
from analysis.parametric.fit import fit_surface
from analysis.parametric.frontier import CostLaw
from analysis.scrutiny import influence
from analysis.scrutiny.influence import find_influence

COLUMNS = ("n_params", "tokens", "flops", "loss")


def influence_of(table, **choices):
    names = [f"run {k}" for k in range(len(table))]
    columns = (table[name].to_numpy(float) for name in COLUMNS)
    return find_influence(*columns, names, **choices)


def refit_without(table, rows, loss=Loss.huber):
    keep = np.ones(len(table), dtype=bool)
    keep[rows] = False
    columns = (table[name].to_numpy(float)[keep] for name in ("n_params", "tokens", "loss"))
    return fit_surface(*columns, loss=loss).values


@pytest.mark.parametrize("loss", [Loss.huber, Loss.mse])
def test_each_row_is_the_certified_fit_of_the_rest(loss):
    table = isoflop_table(noise=0.002, seed=2)
    found = influence_of(table, loss=loss)
    assert len(found.runs) == 35
    for item in found.runs[::6]:
        rest = refit_without(table, [int(item.name.split()[1])], loss)
        assert item.a == pytest.approx(rest["a"], rel=1e-8)
        assert item.floor == pytest.approx(rest["E"], rel=1e-8)
        assert item.delta_a == pytest.approx(rest["a"] - found.a, abs=1e-8)


def test_rows_are_sorted_by_how_far_a_moves():
    moved = [abs(item.delta_a) for item in influence_of(isoflop_table(noise=0.002)).runs]
    assert moved == sorted(moved, reverse=True)
    assert moved[0] > 0


def test_a_run_that_went_wrong_is_named_first_and_flagged():
    table = isoflop_table(noise=0.001, sizes=9, seed=5)
    table.loc[0, "loss"] *= 1.03
    found = influence_of(table, loss=Loss.mse)
    assert found.runs[0].name == "run 0"
    assert found.runs[0].flagged
    assert "run 0" in found.sentence
    assert "runs to look at: " in found.sentence


def test_sound_runs_are_seldom_flagged():
    flagged = [
        sum(item.flagged for item in influence_of(isoflop_table(noise=0.002, seed=seed)).runs)
        for seed in range(10)
    ]
    assert sum(flagged) <= 0.02 * 350


def test_leaving_out_a_budget_or_a_size_is_the_fit_of_the_rest():
    sizes = np.geomspace(2e7, 2e9, 7)
    frame = isoflop_table(noise=0.002)
    flops = frame["flops"].to_numpy()
    frame["n_params"] = np.tile(sizes, 5)
    frame["tokens"] = flops / 6 / frame["n_params"]
    noise = np.exp(0.002 * np.random.default_rng(0).standard_normal(35))
    by_n, by_d = 480 / frame["n_params"] ** 0.35, 2100 / frame["tokens"] ** 0.37
    frame["loss"] = (1.8 + by_n + by_d) * noise
    found = influence_of(frame)
    assert {item.name for item in found.budgets} == {
        "C = 1e+18", "C = 3e+18", "C = 1e+19", "C = 3e+19", "C = 1e+20"
    }  # fmt: skip
    assert [item.rows for item in found.budgets] == [7] * 5
    assert [item.rows for item in found.sizes] == [5] * 7
    budget = next(item for item in found.budgets if item.name == "C = 1e+20")
    rest = refit_without(frame, flops == flops.max())
    assert budget.a == pytest.approx(rest["a"], rel=1e-8)


def test_a_group_without_which_nothing_is_left_has_no_number():
    table = isoflop_table(budgets=(1e18, 1e20), sizes=5, noise=0.001)
    found = influence_of(table)
    assert len(found.budgets) == 2
    assert all(np.isnan(item.a) and item.flagged for item in found.budgets)


def test_checkpoints_of_one_run_are_left_out_together():
    table = isoflop_table(noise=0.002)
    found = influence_of(table, clusters=np.arange(35) // 5)
    assert len(found.runs) == 7
    assert {item.rows for item in found.runs} == {5}
    first = next(item for item in found.runs if item.name == "run 0")
    assert first.a == pytest.approx(refit_without(table, np.arange(5))["a"], rel=1e-8)


def test_of_many_runs_those_of_most_first_order_influence_are_refitted(monkeypatch):
    table = isoflop_table(noise=0.002, sizes=11, seed=1)
    every = influence_of(table)
    monkeypatch.setattr(influence, "MAX_EXACT", 20)
    some = influence_of(table)
    assert len(some.runs) == 20
    assert some.runs[0] == every.runs[0]
    assert some.standard_error == pytest.approx(every.standard_error, rel=0.25)
    assert some.notes == ("35 runs of least first-order influence were not left out in turn.",)


def test_runs_of_continuous_compute_have_no_budgets(chinchilla):
    start = time.perf_counter()
    found = influence_of(chinchilla)
    assert time.perf_counter() - start < 5  # .2 s when nothing else runs
    assert found.budgets == ()
    assert len(found.runs) == 240
    assert found.standard_error == pytest.approx(0.02, abs=0.006)
    assert not any(item.flagged for item in found.runs)
    assert "no single run carries the answer" in found.sentence


def test_one_dropped_point_of_chinchilla_carries_the_answer_of_all_245(published):
    found = influence_of(published("chinchilla_epoch.csv").sort_values("loss"))
    assert found.runs[0].name == "run 244"
    assert found.runs[0].delta_a == pytest.approx(-0.0205, abs=5e-4)
    assert [item.name for item in found.runs if item.flagged] == ["run 244"]


def test_runs_that_identify_no_surface_are_refused():
    table = isoflop_table()
    table["tokens"] = 20 * table["n_params"]
    with pytest.raises(RefusedError, match="D/N = 20"):
        influence_of(table)


def test_moves_that_no_one_would_see_are_not_flagged():
    found = influence_of(isoflop_table(), standard_error=1e-9)
    assert not any(item.flagged for item in (*found.runs, *found.budgets, *found.sizes))
    assert found.rule == "a moves by more than 0.0005"
    assert "no single run carries the answer" in found.sentence


def test_exponents_are_read_at_the_cost_of_a_run():
    table, cost = isoflop_table(noise=0.002), CostLaw(40.0, 0.9)
    found, plain = influence_of(table, cost=cost), influence_of(table)
    values = refit_without(table, [int(found.runs[0].name.split()[1])])
    expected = values["beta"] / (values["alpha"] + 0.9 * values["beta"])
    assert found.runs[0].a == pytest.approx(expected, rel=1e-8)
    assert found.a == pytest.approx(plain.a / (1 - 0.1 * plain.a))
    assert found.budgets[0].a > max(item.a for item in plain.budgets)
