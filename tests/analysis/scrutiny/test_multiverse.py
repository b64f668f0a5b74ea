import numpy as np
import pytest
from study_folders import TRUTH, isoflop_table

from analysis.errors import RefusedError
from analysis.scrutiny import multiverse
from analysis.scrutiny.multiverse import Universe, explore, find_effects

TRUE_A = TRUTH["beta"] / (TRUTH["alpha"] + TRUTH["beta"])


def named(table):
    return table.reset_index(drop=True).assign(run_id=[f"run {k}" for k in range(len(table))])


def test_runs_of_one_surface_give_one_exponent_by_every_choice():
    found = explore(named(isoflop_table(noise=0.0005, sizes=9)), interval=(0.50, 0.53))
    assert len(found.universes) == 90
    assert found.n_fitted == 81  # Kaplan's joint form does not describe these runs
    assert all("kaplan_e" in u.refused for u in found.universes if u.refused)
    assert found.low > TRUE_A - 0.02
    assert found.high < TRUE_A + 0.02
    assert found.outside == 0.0
    assert found.low <= found.quartiles[0] <= found.quartiles[1] <= found.quartiles[2] <= found.high
    assert "Over 81 defensible analyses" in found.sentence
    assert "0% lie outside the sampling interval [0.500, 0.530]" in found.sentence


def test_the_chinchilla_exponent_hangs_on_the_window_of_compute(chinchilla):
    found = explore(named(chinchilla), interval=(0.474, 0.552))
    assert found.low < 0.40
    assert found.high > 0.58
    assert found.outside > 0.5
    window = found.effects[0]
    assert window.choice == "window"
    assert window.explained > 0.8
    assert window.levels["without the highest third"] == pytest.approx(0.573, abs=5e-3)
    assert window.levels["without the lowest third"] == pytest.approx(0.401, abs=5e-3)
    default = next(u for u in found.universes if u.choices["approach"] == "surface")
    assert default.a == pytest.approx(0.51390, abs=5e-6)
    refused = [u for u in found.universes if u.choices["approach"] == "valleys"]
    assert refused
    assert all("no valleys" in u.refused and np.isnan(u.a) for u in refused)


def test_beyond_the_most_universes_choices_are_varied_one_at_a_time():
    found = explore(named(isoflop_table(noise=0.001)), max_universes=50)
    assert 10 < len(found.universes) <= 50
    assert found.notes == (
        "All combinations would be 90 fits of 35 runs: choices are varied one at a time.",
    )
    first = found.universes[0].choices
    assert first["cost"] == "huber 1e-3"
    for universe in found.universes:
        if universe.choices["approach"] == "surface":
            moved = sum(universe.choices[name] != first[name] for name in first)
            assert moved <= 1


def test_effects_are_shares_of_the_whole_variance():
    universes = [
        Universe({"one": x, "other": y}, a, "")
        for x, y, a in (("p", "r", 0.4), ("p", "s", 0.5), ("q", "r", 0.6), ("q", "s", 0.7))
    ]
    one, other = find_effects(universes)
    assert (one.choice, other.choice) == ("one", "other")
    # means .45 and .65 about .55 against .5 and .6: .04 and .01 of .05
    assert one.explained == pytest.approx(0.8)
    assert other.explained == pytest.approx(0.2)
    assert one.levels == {"p": pytest.approx(0.45), "q": pytest.approx(0.65)}
    assert one.span == pytest.approx(0.2)


def test_a_choice_that_was_not_varied_has_no_effect():
    same = [Universe({"one": "p"}, a, "") for a in (0.4, 0.5)]
    assert find_effects(same) == ()


def test_without_a_sampling_interval_nothing_is_outside_it():
    found = explore(named(isoflop_table(noise=0.001)), max_universes=50)
    assert found.interval is None
    assert np.isnan(found.outside)
    assert "sampling interval" not in found.sentence


def test_runs_that_allow_no_fit_at_all_are_refused_with_the_reason():
    table = isoflop_table()
    table["tokens"] = 20 * table["n_params"]
    table["flops"] = 6 * table["tokens"] * table["n_params"]
    with pytest.raises(RefusedError, match=r"no choice of method gives an exponent; .*D/N = 20"):
        explore(named(table), max_universes=50)


def test_on_many_runs_choices_are_varied_one_at_a_time(monkeypatch):
    monkeypatch.setattr(multiverse, "MAX_ROWS", 34)
    found = explore(named(isoflop_table(noise=0.001)))
    assert 10 < len(found.universes) < 50
    assert found.notes == (
        "On 1 of 1 sets of runs, which have more than 34, choices are varied one at a time.",
    )
