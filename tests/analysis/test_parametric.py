from typing import Any

import numpy as np
import pytest
from study_folders import TRUTH, isoflop_table

from analysis import newton, parametric
from analysis.config import Loss
from analysis.errors import RefusedError
from analysis.newton import Solved
from analysis.parametric import fit_parametric


def fit(table: Any, **choices: Any) -> Any:
    choices = {"resamples": 200} | choices
    columns = (table[name].to_numpy(float) for name in ("n_params", "tokens", "loss"))
    n_params, tokens, nats = columns
    return fit_parametric(n_params, tokens, nats=nats, **choices)


@pytest.mark.parametrize("loss", list(Loss))
def test_noise_free_runs_return_the_surface_they_came_from(loss: Any) -> None:
    found = fit(isoflop_table(), loss=loss, resamples=100).values
    for name, value in TRUTH.items():
        assert found[name] == pytest.approx(value, rel=1e-5), name


def test_noisy_runs_return_the_exponent_within_its_interval() -> None:
    result = fit(isoflop_table(noise=0.002, seed=4), resamples=1000)
    low, high = result.intervals["a"]
    assert low < TRUTH["beta"] / (TRUTH["alpha"] + TRUTH["beta"]) < high
    assert high - low < 0.05
    assert result.n_failed == 0


def test_chinchilla_reaches_the_true_minimum_to_six_digits(chinchilla: Any) -> None:
    result = fit(chinchilla, resamples=100)
    assert result.objective == pytest.approx(1.0182740178e-3, rel=1e-9)
    golden = {"E": 1.817218, "A": 477.826, "B": 2143.417, "alpha": 0.347310, "beta": 0.367172}
    for name, value in golden.items():
        assert result.values[name] == pytest.approx(value, rel=1.5e-6), name
    assert result.values["a"] == pytest.approx(0.51390, abs=5e-6)
    assert result.starts_moved == result.starts_reached == result.n_starts >= 4
    assert result.converged
    assert result.gradient < 1e-9
    assert 1e3 < result.condition < 1e4


def test_all_245_chinchilla_points_reach_their_true_minimum(published: Any) -> None:
    values = fit(published("chinchilla_epoch.csv"), resamples=100).values
    golden = {"E": 1.89134, "A": 495.726, "B": 12845.6, "alpha": 0.34931, "beta": 0.45305}
    for name, value in golden.items():
        assert values[name] == pytest.approx(value, rel=1e-5), name
    assert values["a"] == pytest.approx(0.56464, abs=5e-6)


def test_least_absolute_deviations_reach_the_published_coefficients(chinchilla: Any) -> None:
    result = fit(chinchilla, loss=Loss.lad, resamples=100)
    assert result.objective == pytest.approx(1.12949466, rel=1e-8)
    golden = {"E": 1.816864, "A": 482.0057, "B": 2085.434, "alpha": 0.347813, "beta": 0.365854}
    for name, value in golden.items():
        assert result.values[name] == pytest.approx(value, rel=3e-6), name


def test_squared_error_in_nats_reaches_its_published_minimum(chinchilla: Any) -> None:
    result = fit(chinchilla, loss=Loss.mse, resamples=100)
    assert result.objective == pytest.approx(0.08320, abs=5e-6)
    golden = {"E": 1.88281, "A": 567.805, "B": 7581.85, "alpha": 0.35762, "beta": 0.42762}
    for name, value in golden.items():
        assert result.values[name] == pytest.approx(value, rel=1.5e-5), name


@pytest.mark.parametrize(
    ("low", "high", "runs", "a"),
    [
        (0, 3e19, 82, 0.667),
        (0, 1e20, 136, 0.602),
        (1e19, 1e30, 192, 0.412),
        (1e20, 1e30, 104, 0.376),
    ],
)
def test_windows_of_compute_return_the_published_drift(
    chinchilla: Any, low: Any, high: Any, runs: Any, a: Any
) -> None:
    window = chinchilla[(chinchilla["flops"] >= low) & (chinchilla["flops"] < high)]
    assert len(window) == runs
    assert fit(window, resamples=100).values["a"] == pytest.approx(a, abs=6e-4)


def test_bootstrap_spread_matches_the_published_one_within_monte_carlo_error(
    chinchilla: Any,
) -> None:
    result = fit(chinchilla, resamples=4000)
    spread = dict(zip(parametric.NAMES, result.draws.std(axis=0), strict=True))
    golden = {
        "E": 0.02566,
        "A": 124.49,
        "B": 1293.2,
        "alpha": 0.0154,
        "beta": 0.02059,
        "a": 0.01997,
    }
    for name, value in golden.items():
        # 1.1 % is the standard error of an sd of 4000 normal draws; B is skewed, its tail is heavy.
        assert spread[name] == pytest.approx(value, rel=0.08 if name == "B" else 0.045), name
    assert result.n_failed == 0
    assert result.intervals["alpha"] == pytest.approx((0.317, 0.373), abs=0.002)
    assert result.intervals["beta"] == pytest.approx((0.331, 0.415), abs=0.004)


def test_the_order_of_runs_does_not_matter() -> None:
    table = isoflop_table(noise=0.002)
    shuffled = table.sample(frac=1.0, random_state=1)
    assert fit(shuffled).values == pytest.approx(fit(table).values, rel=1e-8)


def test_other_units_of_n_and_d_move_only_a_and_b() -> None:
    table = isoflop_table(noise=0.002)
    scaled = table.assign(n_params=table["n_params"] / 1e6, tokens=table["tokens"] / 1e9)
    one, other = fit(table).values, fit(scaled).values
    for name in ("E", "alpha", "beta", "a"):
        assert other[name] == pytest.approx(one[name], rel=1e-7), name
    assert other["A"] == pytest.approx(one["A"] / 1e6 ** one["alpha"], rel=1e-6)
    assert other["B"] == pytest.approx(one["B"] / 1e9 ** one["beta"], rel=1e-6)


def test_the_same_seed_gives_the_same_interval_and_another_does_not() -> None:
    table = isoflop_table(noise=0.002)
    assert fit(table, seed=1).intervals == fit(table, seed=1).intervals
    assert fit(table, seed=1).intervals != fit(table, seed=2).intervals


def test_a_surface_that_does_not_fall_with_n_is_refused() -> None:
    table = isoflop_table()
    flat = table.assign(loss=1.8 + 2100 / table["tokens"] ** 0.37)
    with pytest.raises(
        RefusedError, match=r"these runs\s+do not show how loss falls with N|did not"
    ):
        fit(flat)


def test_no_converged_start_is_refused_and_gives_no_number(monkeypatch: Any) -> None:
    def never(theta: Any, problem: Any) -> Any:
        return Solved(theta, np.ones(len(theta)), np.zeros(len(theta), dtype=bool))

    monkeypatch.setattr(newton, "solve", never)
    with pytest.raises(RefusedError, match=r"none of .* starts converged"):
        fit(isoflop_table())


def test_a_bootstrap_that_mostly_fails_is_refused(monkeypatch: Any) -> None:
    solve = newton.solve

    def rarely(theta: Any, problem: Any) -> Any:
        solved = solve(theta, problem)
        converged = solved.converged & (len(problem.counts) == 1)
        return Solved(solved.theta, solved.value, converged)

    monkeypatch.setattr(newton, "solve", rarely)
    with pytest.raises(RefusedError, match="200 of 200 bootstrap refits"):
        fit(isoflop_table(noise=0.002))
