"""R_D and R_N: recovered where the runs tell, said to be unknown where they do not."""

import numpy as np
import pytest
from repeated import PUBLISHED, SURFACE, repeated_table

from analysis.errors import RefusedError
from analysis.repetition.fit import fit_repetition, repetition_objective

COLUMNS = ("n_params", "tokens", "unique_tokens", "loss")


def test_the_surface_and_both_r_are_recovered_exactly():
    fit = fit_repetition(repeated_table(), resamples=40)
    assert fit.values == pytest.approx({**SURFACE, "R_D": 15.0, "R_N": 5.0}, rel=1e-7)
    assert fit.starts_reached == fit.n_starts == 12
    assert fit.identified == {"R_D": True, "R_N": True}
    assert (fit.n_runs, fit.n_repeated, fit.n_families) == (60, 45, 30)


def test_noisy_runs_give_an_interval_around_the_truth():
    fit = fit_repetition(repeated_table(noise=0.003), seed=1)
    low, high = fit.intervals["R_D"]
    assert low < 15.0 < high < 1.5 * low
    assert fit.identified == {"R_D": True, "R_N": True}
    assert fit.to_add == ""
    assert fit.gradient < 1e-6
    assert fit.n_failed == 0
    # 1 + 15 (1 - exp(-3 / 15)) over 4
    assert fit.worth[4] == pytest.approx((0.9297593,) * 3, abs=0.01)
    assert fit.worth[4][1] < fit.worth[4][0] < fit.worth[4][2]
    assert fit.sentence.startswith(f"R_D = {fit.values['R_D']:.3g}, 95 % {low:.3g} to {high:.3g}: ")


def test_the_order_of_the_runs_and_the_units_do_not_matter():
    table = repeated_table(noise=0.003)
    fit = fit_repetition(table, resamples=40)
    turned = fit_repetition(table.iloc[::-1].reset_index(drop=True), resamples=40)
    assert turned.values == pytest.approx(fit.values, rel=1e-6)
    scaled = table.assign(tokens=table["tokens"] * 1e3, unique_tokens=table["unique_tokens"] * 1e3)
    rescaled = fit_repetition(scaled, resamples=40)
    assert rescaled.values["R_D"] == pytest.approx(fit.values["R_D"], rel=1e-5)
    assert rescaled.objective == pytest.approx(fit.objective, rel=1e-8)


def test_repeats_that_never_tire_have_no_upper_end_and_the_runs_to_add_are_said():
    fit = fit_repetition(repeated_table(r_d=1e9, noise=0.003), resamples=40)
    low, high = fit.intervals["R_D"]
    assert 64 < low < high == np.inf
    assert fit.values["R_D"] == np.inf
    assert not fit.identified["R_D"]
    assert "its profile likelihood has no end above" in fit.reasons["R_D"]
    assert fit.worth[4][2] == pytest.approx(1.0, abs=1e-4)
    assert "not identified by these 45 repeated runs (R_D = infinity, 95 %" in fit.sentence
    assert f"add runs of {float(f'{3 * low:.1g}'):,.0f} epochs, where repeats" in fit.sentence


def test_repeats_that_are_worth_nothing_have_no_lower_end():
    fit = fit_repetition(repeated_table(r_d=1e-3, noise=0.003), resamples=40)
    assert fit.intervals["R_D"][0] == 0.0
    assert fit.worth[4][1] == 0.25
    assert "has no end below" in fit.sentence
    assert "R_D = 0, 95 % 0 to" in fit.sentence
    assert "add runs of 2 and 4 epochs" in fit.sentence


def test_few_families_and_no_excess_parameters_are_told():
    table = repeated_table(sizes=(1e5, 3e5, 1e6), unique=(1e9,), epochs=(4, 8, 16, 32), noise=1e-3)
    fit = fit_repetition(table, resamples=40)
    assert fit.n_families == 3
    assert "3 families of runs are fewer than 10" in fit.reasons["R_D"]
    assert "its bootstrap has no end below or above" in fit.reasons["R_D"]
    assert fit.reasons["R_N"] == ("no run has more parameters than its unique tokens ask for",)


def test_a_surface_that_the_runs_cannot_show_is_refused():
    with pytest.raises(RefusedError, match="model sizes"):
        fit_repetition(repeated_table(sizes=(1e8, 2e8)))


def objective_at(table, r_d, r_n):
    values = {**PUBLISHED, "R_D": r_d, "R_N": r_n}
    return repetition_objective(*(table[name].to_numpy(float) for name in COLUMNS), values=values)


def test_the_published_values_have_the_published_objective(published):
    table = published("datablations.csv")
    assert objective_at(table, 15.387756, 5.309743) == pytest.approx(0.01582594, abs=1e-8)
    assert objective_at(table, 15.39, 5.31) == pytest.approx(0.01582594, abs=1e-8)


def test_the_published_r_d_is_not_identified_on_the_published_surface(published):
    """R_N follows R_D, and the objective hardly moves from R_D = 12 to 300."""
    table = published("datablations.csv")
    fit = fit_repetition(table, surface=PUBLISHED, resamples=40)
    published_value = objective_at(table, 15.387756, 5.309743)
    profile = fit.profiles["R_D"]

    def lowest(r_d):
        return float(np.exp(np.interp(np.log(r_d), np.log(profile.r), np.log(profile.objective))))

    between = profile.objective[(profile.r >= 12) & (profile.r <= 300)]
    assert np.ptp(between) < 0.004 * published_value
    assert np.abs(between / published_value - 1).max() < 0.004
    assert lowest(47.0) < published_value
    assert fit.objective == pytest.approx(0.0158046625, abs=1e-9)
    low, high = fit.intervals["R_D"]
    assert low < 12
    assert high == np.inf
    assert not fit.identified["R_D"]
    assert "R_D is not identified" in fit.sentence
    assert "epochs at other sizes and other numbers of unique tokens" in fit.to_add


def test_with_the_surface_refitted_the_published_runs_leave_r_n_open(published):
    fit = fit_repetition(published("datablations.csv"), resamples=40)
    assert fit.objective == pytest.approx(0.00657121, abs=1e-8)
    assert fit.starts_reached == fit.n_starts
    assert fit.values["R_D"] == pytest.approx(25.61, abs=0.02)
    assert fit.values["R_N"] == fit.intervals["R_N"][1] == np.inf
    table = published("datablations.csv")
    columns = (table[name].to_numpy(float) for name in COLUMNS)
    assert repetition_objective(*columns, values=fit.values) == pytest.approx(
        fit.objective, rel=2e-3
    )
    assert not fit.identified["R_D"]
    assert "R_N is not known either" in fit.sentence
    assert fit.max_epochs == 9000


def test_starts_that_all_fail_are_no_fit(monkeypatch):
    monkeypatch.setattr("analysis.repetition.solver.MAX_STEPS", 0)
    with pytest.raises(RefusedError, match=r"none of 12 starts .* converged; look for runs whose"):
        fit_repetition(repeated_table(noise=0.003), resamples=40)
