from typing import Any

import numpy as np
import pandas as pd
import pytest
from study_folders import TRUTH, isoflop_table, optimal_n

from analysis.budgets import make_cells
from analysis.config import Method
from analysis.errors import RefusedError
from analysis.isoflop import find_valleys, fit_isoflop

PORIAN_KEYS = ["file", "dataset", "hparams", "warmup", "decay", "param_count", "val"]

A = TRUTH["beta"] / (TRUTH["alpha"] + TRUTH["beta"])


def fit(table: Any, method: Any = Method.cubic, resamples: Any = 1000, seed: Any = 0) -> Any:
    cells = make_cells(table)
    return fit_isoflop(find_valleys(cells, method, resamples, seed), cells, seed)


@pytest.mark.parametrize(
    ("method", "tolerance"), [(Method.cubic, 1e-4), (Method.parabola, 1e-3), (Method.akima, 1e-3)]
)
def test_noise_free_runs_return_the_exponents_of_their_surface(method: Any, tolerance: Any) -> None:
    result = fit(isoflop_table(), method)
    assert result.n_law.fit.exponent == pytest.approx(A, abs=tolerance)
    assert result.d_law.fit.exponent == pytest.approx(1 - A, abs=tolerance)
    for valley in result.valleys:
        assert valley.bracketed
        assert valley.n_opt == pytest.approx(float(optimal_n(np.array(valley.flops))), rel=0.02)
        assert 6 * valley.n_opt * valley.d_opt == pytest.approx(valley.flops, rel=1e-6)


def test_noisy_runs_contain_the_truth_in_their_interval() -> None:
    result = fit(isoflop_table(noise=0.003, seed=2), resamples=4000)
    low, high = result.n_law.interval
    assert low < A < high
    assert high - low < 0.15
    assert result.noise == pytest.approx(0.003, rel=0.6)


def test_the_order_of_runs_does_not_matter() -> None:
    table = isoflop_table(noise=0.003)
    shuffled = fit(table.sample(frac=1, random_state=5))
    assert shuffled.n_law.fit.exponent == pytest.approx(fit(table).n_law.fit.exponent, rel=1e-9)


def test_other_units_of_n_do_not_move_the_exponent() -> None:
    table = isoflop_table(noise=0.003)
    scaled = fit(table.assign(n_params=table["n_params"] / 1e6))
    assert scaled.n_law.fit.exponent == pytest.approx(fit(table).n_law.fit.exponent, rel=1e-9)


@pytest.mark.parametrize("group", range(15))
def test_porian_tables_return_their_published_exponents(published: Any, group: Any) -> None:
    truth = published("porian_exponents.csv").iloc[group]
    table = published("porian_isoflop.csv")
    rows = table[(table[PORIAN_KEYS] == truth[PORIAN_KEYS]).all(axis=1)]
    result = fit(rows)
    # The published values interpolate with splines and weight valleys by their noise; a parabola
    # through all points is off by up to .37 here.
    assert result.n_law.fit.exponent == pytest.approx(truth["weighted"], abs=0.026)
    low, high = result.n_law.interval
    # Their interval and ours overlap.
    assert low < truth["ci_hi"]
    assert high > truth["ci_lo"]


def test_chinchilla_points_are_refused_because_no_compute_is_shared(chinchilla: Any) -> None:
    with pytest.raises(RefusedError, match=r"of 234 .* share their C"):
        fit(chinchilla)


def test_a_valley_on_the_edge_is_not_used_and_says_which_sizes_to_add() -> None:
    table = isoflop_table()
    smallest = table["flops"].min()
    truth = float(optimal_n(np.array(smallest)))
    cut = table[(table["flops"] > smallest) | (table["n_params"] > 1.1 * truth)]
    more = isoflop_table(budgets=(smallest,), sizes=9)
    cut = pd.concat([cut[cut["flops"] > smallest], more[more["n_params"] > 1.1 * truth]])
    result = fit(cut)
    first = result.valleys[0]
    assert not first.bracketed
    assert "smallest size" in first.why
    assert "add smaller sizes" in first.why
    assert any("is not used" in note for note in result.notes)
    assert result.n_law.fit.exponent == pytest.approx(A, abs=2e-4)


def test_two_bracketed_valleys_are_refused() -> None:
    with pytest.raises(RefusedError, match=r"2 bracketed valleys, at least 3 .* add budgets"):
        fit(isoflop_table(budgets=(1e18, 1e19)))


def test_three_sizes_a_budget_are_refused() -> None:
    with pytest.raises(RefusedError, match="only 0 of 15"):
        fit(isoflop_table(sizes=3))


def test_a_size_whose_best_learning_rate_is_on_the_edge_is_left_out_and_named() -> None:
    table = isoflop_table().assign(lr=1.0)
    victim = table.iloc[[3]]
    worse = [victim.assign(lr=lr, loss=victim["loss"] * 1.01 * lr) for lr in (2.0, 4.0)]
    result = fit(pd.concat([table, *worse]))
    assert len(result.valleys[0].n_params) == 6
    assert any("best learning rate is the lowest tried" in note for note in result.notes)


def test_replicas_over_seeds_set_the_noise_when_they_show_more() -> None:
    table = isoflop_table(noise=0.0)
    seeds = [table.assign(seed=k, loss=table["loss"] * np.exp(0.01 * (k - 1))) for k in range(3)]
    result = fit(pd.concat(seeds))
    assert result.noise_source == "replicas over seeds"
    assert result.noise == pytest.approx(0.01 / np.sqrt(3), rel=0.01)


def test_valleys_that_scatter_more_than_noise_explains_widen_the_interval() -> None:
    table = isoflop_table()
    shift = {flops: 1.2 if k % 2 else 1 / 1.2 for k, flops in enumerate(table["flops"].unique())}
    factor = table["flops"].map(shift)
    moved = table.assign(n_params=table["n_params"] * factor, tokens=table["tokens"] / factor)
    straight, bent = fit(table), fit(moved)
    assert straight.excess < 0.01
    assert bent.excess > 0.1
    assert np.diff(bent.n_law.interval) > 5 * np.diff(straight.n_law.interval)
