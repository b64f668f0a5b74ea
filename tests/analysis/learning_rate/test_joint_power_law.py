"""Power laws in several variables: exact on exact laws, and silent on what is not identified."""

import numpy as np
import pytest

from analysis.learning_rate.joint_power_law import exp_interval, fit_joint_law, identified

N = np.array([1e8, 2e8, 4e8, 1e8, 2e8, 4e8])
D = np.array([4e9, 4e9, 4e9, 1.6e10, 1.6e10, 1.6e10])
Y = 10.0 * N**-0.7 * D**0.2


def test_an_exact_law_is_recovered():
    law = fit_joint_law({"n_params": N, "tokens": D}, Y, np.log(Y)[None])
    np.testing.assert_allclose(law.exponents, [-0.7, 0.2], atol=1e-10)
    assert law.coefficient == pytest.approx(10.0, rel=1e-8)
    assert law.residual_sd < 1e-10
    value, (low, high) = law.at(n_params=3e8, tokens=8e9)
    assert value == pytest.approx(10.0 * 3e8**-0.7 * 8e9**0.2)
    assert low == pytest.approx(value)
    assert high == pytest.approx(value)
    assert law.exponent("tokens") == pytest.approx(0.2)


def test_draws_are_refitted_without_the_points_they_lack():
    draws = np.tile(np.log(Y), (3, 1))
    draws[1, 2] = np.nan
    draws[2, 1:] = np.nan
    law = fit_joint_law({"n_params": N, "tokens": D}, Y, draws)
    np.testing.assert_allclose(law.draws[:2], [[-0.7, 0.2]] * 2, atol=1e-9)
    assert np.isnan(law.draws[2]).all()
    assert law.interval("n_params") == pytest.approx((-0.7, -0.7))


def test_the_intervals_of_noisy_draws_match_least_squares_theory():
    rng = np.random.default_rng(0)
    draws = np.log(Y) + 0.1 * rng.standard_normal((20_000, 6))
    law = fit_joint_law({"n_params": N, "tokens": D}, Y, draws)
    log_n = np.log(N) - np.log(N).mean()
    sd = 0.1 / np.sqrt(log_n @ log_n)
    low, high = law.interval("n_params")
    assert high - low == pytest.approx(2 * 1.96 * sd, rel=0.03)


def test_both_exponents_are_identified_on_a_grid():
    assert identified({"n_params": N, "tokens": D}) == (("n_params", "tokens"), "")


def test_one_ratio_of_tokens_to_parameters_identifies_only_their_joint_exponent():
    names, why = identified({"n_params": N, "tokens": 20.0 * N})
    assert names == ("n_params",)
    assert why == (
        "tokens follows n_params**1.00 (r2 1.000), so that only their joint exponent is known"
    )


def test_a_variable_that_hardly_varies_has_no_exponent():
    names, why = identified({"n_params": N, "tokens": D**0.1})
    assert (names, why) == (("n_params",), "tokens varies by less than a factor of 2")
    names, why = identified({"tokens": np.array([1e9, 1.5e9])})
    assert names == ()


def test_an_interval_of_logs_survives_a_draw_too_large_for_exp():
    low, high = exp_interval(np.append(np.zeros(99), 1e4))
    assert (low, high) == (1.0, 1.0)
