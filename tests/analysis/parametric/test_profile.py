import numpy as np
import pytest
from scipy.optimize import minimize
from study_folders import TRUTH, isoflop_table

from analysis.config import Form, Loss
from analysis.parametric.fit import certify
from analysis.parametric.profile import profile_intervals


def profiles(table, loss=Loss.huber, clusters=None, **choices):
    columns = (table[name].to_numpy(float) for name in ("n_params", "tokens", "loss"))
    fit, reference = certify(*columns, choices.get("form", Form.chinchilla), loss, 1e-3)
    return profile_intervals(reference, fit.theta, fit.centers, clusters or len(table)), fit


@pytest.mark.parametrize("form", list(Form))
def test_every_chinchilla_parameter_is_identified(chinchilla, form):
    found, fit = profiles(chinchilla, form=form)
    assert list(found) == list(fit.names)
    for name, item in found.items():
        assert item.identified, name
        assert item.low < fit.values[name] < item.high, name


def test_data_near_one_ratio_of_tokens_flag_what_they_do_not_bound():
    rng = np.random.default_rng(0)
    table = isoflop_table()
    ratio = 20 * np.exp(0.2 * rng.standard_normal(len(table)))
    table["tokens"] = ratio * table["n_params"]
    table["loss"] = 1.8 + 480 / table["n_params"] ** 0.35 + 2100 / table["tokens"] ** 0.37
    table["loss"] *= np.exp(0.05 * rng.standard_normal(len(table)))
    found, _ = profiles(table, loss=Loss.mse)
    assert not found["a"].identified


def test_a_squared_error_profile_is_where_the_held_sum_of_squares_says():
    table = isoflop_table(noise=0.002, seed=2)
    found, fit = profiles(table, loss=Loss.mse)
    runs = len(table)
    log_n = np.log(table["n_params"].to_numpy())
    log_d = np.log(table["tokens"].to_numpy())
    loss = table["loss"].to_numpy()
    # E held: a search over the exponents, least squares for A and B, by hand.
    end = found["E"].high

    def squares(exponents):
        by_n = np.exp(-exponents[0] * (log_n - log_n.mean()))
        by_d = np.exp(-exponents[1] * (log_d - log_d.mean()))
        return float(np.linalg.lstsq(np.stack([by_n, by_d], 1), loss - end, rcond=None)[1][0])

    options = {"xatol": 1e-8, "fatol": 1e-16}
    least = minimize(squares, [0.35, 0.37], method="Nelder-Mead", options=options).fun
    ratio = (least - fit.objective) / (fit.objective / (runs - 5))
    assert np.sqrt(ratio) == pytest.approx(2.042, rel=2e-3)  # Student's t, 30 degrees of freedom


@pytest.mark.parametrize("loss", list(Loss))
def test_intervals_hold_the_truth_about_as_often_as_they_say(loss):
    truth = TRUTH["beta"] / (TRUTH["alpha"] + TRUTH["beta"])
    hits = 0
    for seed in range(16):
        item = profiles(isoflop_table(noise=0.002, seed=seed), loss=loss)[0]["a"]
        hits += item.low <= truth <= item.high
    # 16 draws at .95 fall below 13 with probability .007; the seeds are fixed.
    assert hits >= 13


def test_rows_of_one_run_count_once():
    table = isoflop_table(noise=0.002, seed=1)
    once = profiles(table, loss=Loss.mse)[0]["a"]
    doubled = table.loc[table.index.repeat(2)]
    together = profiles(doubled, loss=Loss.mse, clusters=len(table))[0]["a"]
    assert together.high - together.low == pytest.approx(once.high - once.low, rel=0.12)


@pytest.mark.parametrize("loss", list(Loss))
@pytest.mark.parametrize("form", [Form.chinchilla, Form.skaling])
def test_runs_without_noise_identify_every_parameter(loss, form):
    found, fit = profiles(isoflop_table(), loss=loss, form=form)
    for name, item in found.items():
        assert item.identified, name
        assert item.low == pytest.approx(fit.values[name], rel=1e-4)
        assert item.high == pytest.approx(fit.values[name], rel=1e-4)
