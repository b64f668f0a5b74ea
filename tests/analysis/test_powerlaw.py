import numpy as np
import pytest

from analysis.powerlaw import fit_many, fit_power_law

PORIAN_KEYS = ["file", "dataset", "hparams", "warmup", "decay", "param_count", "val"]


def test_an_exact_power_law_is_recovered():
    x = np.array([1e12, 3e12, 1e13])
    law = fit_power_law(x, 0.2 * x**0.5)
    assert law.exponent == pytest.approx(0.5)
    assert law.coefficient == pytest.approx(0.2)
    assert law.at(np.array([4e12])) == pytest.approx([0.2 * 2e6])
    assert law.residual_sd == pytest.approx(0.0, abs=1e-12)


def test_a_law_by_standard_deviations_is_that_of_repeated_points():
    x, y = np.array([1.0, 2.0, 5.0, 9.0]), np.array([1.0, 1.7, 2.0, 4.1])
    repeated = np.repeat(np.arange(4), [1, 4, 1, 9])
    weighted = fit_power_law(x, y, sd=0.1 / np.array([1.0, 2.0, 1.0, 3.0]))
    assert weighted.exponent == pytest.approx(fit_power_law(x[repeated], y[repeated]).exponent)
    assert weighted.log_center == pytest.approx(np.log(y[repeated]).mean())


def test_equal_standard_deviations_change_nothing():
    x, y = np.array([1.0, 2.0, 5.0, 9.0]), np.array([1.0, 1.7, 2.0, 4.1])
    plain, weighted = fit_power_law(x, y), fit_power_law(x, y, sd=np.full(4, 0.3))
    assert weighted.exponent == pytest.approx(plain.exponent)
    assert weighted.residual_sd == pytest.approx(plain.residual_sd)


@pytest.mark.parametrize("group", range(15))
def test_porian_optima_weighted_by_their_sd_return_the_published_exponents(published, group):
    truth = published("porian_exponents.csv").iloc[group]
    optima = published("porian_optima.csv")
    rows = optima[(optima[PORIAN_KEYS] == truth[PORIAN_KEYS]).all(axis=1)]
    rows = rows.dropna(subset=["n_opt_std", "d_opt_std"])  # budgets whose valley they rejected
    flops = rows["flops"].to_numpy()
    a = fit_power_law(flops, rows["n_opt"].to_numpy(), sd=rows["n_opt_std"].to_numpy())
    b = fit_power_law(flops, rows["d_opt"].to_numpy(), sd=rows["d_opt_std"].to_numpy())
    assert a.exponent == pytest.approx(truth["weighted"], abs=5e-7)
    assert b.exponent == pytest.approx(truth["t_exponent"], abs=5e-7)


def test_inverse_variances_and_inverse_sds_of_porian_optima_are_refused(published):
    rows = published("porian_optima.csv").iloc[:11]
    flops, n_opt = rows["flops"].to_numpy(), rows["n_opt"].to_numpy()
    sd = rows["n_opt_std"].to_numpy()
    for wrong in (1 / sd, 1 / sd**2):
        with pytest.raises(ValueError, match="not 1 / sd and not 1 / variance"):
            fit_power_law(flops, n_opt, sd=wrong)


@pytest.mark.parametrize("bad", [[0.1, 0.0, 0.1], [0.1, np.nan, 0.1], [0.1, -0.1, 0.1], [0.1]])
def test_a_standard_deviation_that_is_none_is_refused(bad):
    x = np.array([1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="sd must be 3 positive standard deviations"):
        fit_power_law(x, x, sd=np.array(bad))


@pytest.mark.parametrize(
    ("convention", "a", "b"),
    [
        ("kaplan-ish (transformer+lm_head)", 0.536, 0.489),
        ("chinchilla (all params)", 0.374, 0.501),
        ("transformer only", 0.696, 0.406),
    ],
)
def test_nanochat_optima_return_an_exponent_by_convention(published, convention, a, b):
    table = published("nanochat_optima.csv")
    rows = table[table["convention"] == convention]
    flops = rows["flops_actual"].to_numpy()
    assert fit_power_law(flops, rows["n_opt"].to_numpy()).exponent == pytest.approx(a, abs=5e-4)
    assert fit_power_law(flops, rows["d_opt"].to_numpy()).exponent == pytest.approx(b, abs=5e-4)


def test_draws_without_three_points_have_no_law():
    log_x = np.array([0.0, 1.0, 2.0, 3.0])
    log_y = np.array([[0, 2, 4, 6], [0, np.nan, 4, 6], [0, np.nan, np.nan, 6]], float)
    slopes, heights = fit_many(log_x, log_y, at=1.0)
    assert slopes[:2] == pytest.approx([2.0, 2.0])
    assert heights[:2] == pytest.approx([2.0, 2.0])
    assert np.isnan(slopes[2])


def test_draws_are_weighted_as_the_law_is():
    rng = np.random.default_rng(0)
    log_x, sd = np.array([0.0, 1.0, 2.0, 3.0, 5.0]), np.array([0.1, 0.3, 0.2, 0.1, 0.05])
    log_y = rng.standard_normal((3, 5))
    slopes, heights = fit_many(log_x, log_y, at=1.0, sd=sd)
    for row, slope, height in zip(log_y, slopes, heights, strict=True):
        law = fit_power_law(np.exp(log_x), np.exp(row), sd=sd)
        assert slope == pytest.approx(law.exponent)
        assert height == pytest.approx(float(np.log(law.at(np.exp(1.0)))))
