from dataclasses import replace

import numpy as np
import pytest
from study_folders import isoflop_table, optimal_n

from analysis.config import Form
from analysis.parametric.fit import fit_parametric
from analysis.parametric.frontier import (
    SIX_ND,
    TAIL,
    CostLaw,
    Surfaces,
    at_cost,
    draws_of,
    optimal_band,
    optimal_size,
    tail_of,
)
from analysis.parametric.profile import Profile


@pytest.fixture(scope="module")
def fit():
    table = isoflop_table(noise=0.001)
    columns = (table[name].to_numpy(float) for name in ("n_params", "tokens"))
    return fit_parametric(*columns, nats=table["loss"].to_numpy(float), resamples=300)


FLOPS = np.array([1e18, 1e19, 1e20])


def test_the_optimal_size_minimises_the_surface_at_its_compute(fit):
    best = optimal_size(fit, FLOPS)
    at = fit.predict(best, FLOPS / (6 * best))
    for factor in (0.98, 1.02):
        assert (fit.predict(factor * best, FLOPS / (6 * factor * best)) > at).all()


def test_the_optimal_size_grows_with_the_fitted_exponent(fit):
    growth = np.diff(np.log(optimal_size(fit, FLOPS))) / np.log(10)
    assert growth == pytest.approx([fit.values["a"]] * 2)


def test_the_band_holds_the_true_optimum_of_n_and_of_d(fit):
    truth = optimal_n(FLOPS)
    low, high = optimal_band(fit, FLOPS, "N")
    assert (low < truth).all()
    assert (truth < high).all()
    low, high = optimal_band(fit, FLOPS, "D")
    assert (low < FLOPS / (6 * truth)).all()
    assert (FLOPS / (6 * truth) < high).all()


SURFACES = {
    Form.chinchilla: {"E": 1.8, "A": 480.0, "B": 2100.0, "alpha": 0.35, "beta": 0.37},
    Form.kaplan: {"A": 8.8e13, "B": 5.4e13, "alpha": 0.076, "beta": 0.095},
    Form.kaplan_e: {"E": 0.5, "A": 8.8e12, "B": 5.4e12, "alpha": 0.15, "beta": 0.2},
    Form.skaling: {"E": 1.7, "A": 300.0, "R": 5.0, "alpha": 0.4, "beta": 0.42, "k": 0.77},
}
FORMULAS = {
    Form.chinchilla: lambda v, n, d: v["E"] + v["A"] / n ** v["alpha"] + v["B"] / d ** v["beta"],
    Form.kaplan: lambda v, n, d: (
        ((v["A"] / n) ** (v["alpha"] / v["beta"]) + v["B"] / d) ** v["beta"]
    ),
    Form.kaplan_e: lambda v, n, d: (
        v["E"] + ((v["A"] / n) ** (v["alpha"] / v["beta"]) + v["B"] / d) ** v["beta"]
    ),
    Form.skaling: lambda v, n, d: (
        v["E"] + v["A"] * (n ** -v["alpha"] + v["R"] * d ** -v["beta"]) ** v["k"]
    ),
}


@pytest.mark.parametrize("form", SURFACES)
@pytest.mark.parametrize("cost", [SIX_ND, CostLaw(40.0, 0.93)])
def test_every_form_is_its_published_formula_and_has_its_minimum_there(form, cost):
    surfaces = Surfaces.of(form, SURFACES[form])
    log_n = surfaces.log_optimal_size(FLOPS, cost)[0]
    growth = np.diff(log_n) / np.diff(np.log(FLOPS))
    assert growth == pytest.approx([float(surfaces.exponent(cost)[0])] * 2)
    for flops, best in zip(FLOPS, np.exp(log_n), strict=True):
        sizes = best * np.geomspace(0.5, 2, 20_001)
        tokens = cost.tokens(np.array(flops), sizes)
        losses = surfaces.predict(sizes, tokens)[0]
        assert losses == pytest.approx(FORMULAS[form](SURFACES[form], sizes, tokens))
        assert sizes[np.argmin(losses)] == pytest.approx(best, rel=1e-3)
    assert surfaces.log_optimal_flops(np.exp(log_n), cost)[0] == pytest.approx(np.log(FLOPS))


def test_draws_without_a_minimum_are_left_out():
    rows = np.array(
        [
            [1.8, 480.0, 2100.0, 0.35, 0.37],
            [1.8, 480.0, 2100.0, -0.1, 0.37],
            [1.8, np.inf, 2100.0, 0.35, 0.37],
            [1.8, 480.0, 0.0, 0.35, 0.37],
        ]
    )
    draws = Surfaces.of_draws(Form.chinchilla, ("E", "A", "B", "alpha", "beta"), rows)
    assert len(draws) == 1
    assert len(draws.take(0)) == 0


def test_what_is_derived_takes_its_ends_at_the_share_of_the_exponent_s_own(fit):
    draws = np.linspace(0.0, 1.0, 1001)
    assert tail_of(draws, (0.01, 0.99)) == pytest.approx(0.01, abs=1e-3)
    assert tail_of(draws, (-1.0, 2.0)) == TAIL
    a = draws_of(fit).exponent()
    tail = tail_of(a, fit.intervals["a"])
    ends = np.percentile(a, [100 * tail, 100 * (1 - tail)])
    assert ends == pytest.approx(fit.intervals["a"], abs=2e-3)


def test_another_cost_of_a_run_moves_a_and_its_interval(fit):
    cost = CostLaw(40.0, 0.9)
    moved = at_cost(fit, cost)
    v = fit.values
    assert moved.values["a"] == pytest.approx(v["beta"] / (v["alpha"] + 0.9 * v["beta"]))
    assert moved.values["a"] > v["a"]
    assert moved.intervals["a"][0] < moved.values["a"] < moved.intervals["a"][1]
    assert at_cost(fit, SIX_ND).intervals["a"] == pytest.approx(fit.intervals["a"], abs=2e-3)


@pytest.mark.parametrize("power", [0.9, 1.1])
def test_another_cost_of_a_run_moves_the_ends_of_the_profile_of_a(fit, power):
    moved = at_cost(fit, CostLaw(40.0, power)).profiles
    for end in ("low", "high"):
        a = getattr(fit.profiles["a"], end)
        ratio = a / (1 - a)  # beta / alpha, of which a is a rising function whatever the cost
        assert getattr(moved["a"], end) == pytest.approx(ratio / (1 + power * ratio))
    assert moved["alpha"] == fit.profiles["alpha"]


def test_an_end_that_there_is_not_stays_open_at_another_cost(fit):
    open_above = replace(fit, profiles={**fit.profiles, "a": Profile(0.4, None)})
    moved = at_cost(open_above, CostLaw(40.0, 0.9))
    assert moved.profiles["a"].high is None
    assert moved.not_identified == ("a",)
