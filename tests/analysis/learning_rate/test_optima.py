"""The best setting of each (N, D), its loss, and what mis-set learning rates do to an exponent."""

import numpy as np
import pandas as pd
import pytest
from lr_grids import BEND, PAIRS, best_batch, best_lr, floor, study

from analysis.config import Method
from analysis.isoflop import fit as isoflop
from analysis.isoflop.budgets import make_cells
from analysis.learning_rate.optima import find_optima

FACTORS = 2.0 ** np.arange(5)


def lr_check():
    """The losses of docs/results/lr_check.md."""
    tables = (
        (10_240, 1.6e6, 0.0025, (2.2887, 2.2069, 2.1468, 2.1544, 2.2024)),
        (32_768, 1.0e6, 0.00125, (2.2823, 2.1537, 2.0793, 2.0838, 2.1237)),
        (114_688, 0.6e6, 0.00125, (2.3310, 2.2081, 2.2135, 2.2495, 2.1611)),
    )
    rows = [
        (n, d, loss, lr, 512.0)
        for n, d, first, losses in tables
        for lr, loss in zip(first * FACTORS, losses, strict=True)
    ]
    return pd.DataFrame(rows, columns=["n_params", "tokens", "loss", "lr", "batch_tokens"])


def test_best_settings_are_recovered_exactly_without_noise():
    survey = find_optima(study(), resamples=50, seed=0)
    assert [(g.n_params, g.tokens) for g in survey.groups] == list(PAIRS)
    for group in survey.groups:
        assert group.interior
        assert group.lr_opt == pytest.approx(best_lr(group.n_params, group.tokens), rel=1e-6)
        assert group.batch_opt == pytest.approx(best_batch(group.tokens), rel=1e-6)
        assert group.loss == pytest.approx(floor(group.n_params, group.tokens), rel=1e-9)
        assert group.penalty == pytest.approx(0.5 * BEND[0, 0] * np.log(2) ** 2, rel=1e-6)
        assert group.batch_slope == pytest.approx(-BEND[0, 1] / BEND[0, 0], rel=1e-6)
    assert survey.noise < 1e-10


def test_one_batch_gives_optima_in_learning_rate_alone():
    survey = find_optima(study(batches=1), resamples=50, seed=0)
    assert len(survey.groups) == len(PAIRS)
    for group in survey.groups:
        assert group.lr_opt == pytest.approx(best_lr(group.n_params, group.tokens), rel=1e-6)
        assert group.batch_opt == pytest.approx(best_batch(group.tokens))
        assert group.batch_ci is None


def test_the_measured_noise_is_the_noise_put_in():
    survey = find_optima(study(noise=0.002), resamples=200, seed=0)
    assert survey.noise == pytest.approx(0.002, rel=0.1)
    assert len(survey.groups) == len(PAIRS)
    for group in survey.groups:
        assert group.lr_ci is not None
        assert group.batch_ci is not None
        assert group.lr_ci[0] < group.lr_opt < group.lr_ci[1]
        assert group.batch_ci[0] < group.batch_opt < group.batch_ci[1]


def test_the_same_seed_gives_the_same_intervals():
    frame = study(noise=0.002)
    once, again = (find_optima(frame, resamples=100, seed=5) for _ in range(2))
    assert [g.lr_ci for g in once.groups] == [g.lr_ci for g in again.groups]


def test_the_learning_rate_check_resolves_two_sizes_and_refuses_the_ragged_third():
    d16, d32, d64 = find_optima(lr_check(), resamples=4000, seed=0).groups
    assert d16.lr_opt == pytest.approx(0.01424, rel=1e-3)
    assert d32.lr_opt == pytest.approx(0.00783, rel=1e-3)
    for group, low, high in ((d16, 0.01, 0.02), (d32, 0.005, 0.01)):
        assert group.interior
        assert group.lr_ci is not None
        assert low < group.lr_ci[0] < group.lr_opt < group.lr_ci[1] < high
    assert not d64.interior
    assert d64.lr_ci is None
    assert d64.why == (
        "the lowest loss is at the highest learning rate, 0.02; add higher learning rates"
    )


def test_three_learning_rates_have_an_optimum_but_no_interval_of_their_own():
    frame = lr_check().iloc[1:4]
    survey = find_optima(frame, resamples=100, seed=0)
    assert survey.groups[0].interior
    assert survey.groups[0].lr_ci is None
    assert "Nothing measures the noise of a loss here: optima have no interval." in survey.notes


def test_replicas_measure_the_noise_of_three_learning_rates():
    frame = lr_check().iloc[1:4]
    two = [frame.assign(seed=0), frame.assign(seed=1, loss=frame["loss"] * 1.001)]
    (group,) = find_optima(pd.concat(two), resamples=2000, seed=0).groups
    assert group.lr_ci is not None
    assert group.lr_ci[0] < group.lr_opt < group.lr_ci[1]


def test_the_lowest_noisy_cell_is_biased_and_the_tuned_loss_is_not():
    errors = []
    for seed in range(12):
        survey = find_optima(study(noise=0.002, seed=seed), resamples=50, seed=0)
        tuned = np.array([group.loss for group in survey.groups])
        truth = np.array([floor(n, d) for n, d in PAIRS])
        lowest = np.array([group.lowest for group in survey.groups])
        errors.append([np.log(tuned / truth).mean(), np.log(lowest / truth).mean()])
    tuned_error, lowest_error = np.mean(errors, axis=0)
    spread = np.std(errors, axis=0)[0] / np.sqrt(12)
    assert lowest_error < -0.0005
    assert abs(tuned_error) < max(3 * spread, 0.0003)


# log L = 1 + VALLEY / 2 (log N - A log C)**2 + PENALTY / 2 (log lr - log lr_opt(N))**2 - .05 log C
A, VALLEY, PENALTY, SLOPE = 0.5, 0.02, 0.03, -0.4
BUDGETS = (1e17, 1e18, 1e19, 1e20)


def mistuned_study(lr_of):
    """Return an IsoFLOP study whose learning rates follow N**lr_of["slope"], times a grid."""
    rows = []
    for c in BUDGETS:
        for n in c**A * 0.1 * 2.0 ** np.arange(-3.0, 4.0):
            z = np.log(n) - np.log(0.1 * c**A)
            right = 1e-3 * (n / 1e8) ** SLOPE
            for factor in np.atleast_1d(lr_of["factors"]):
                lr = 1e-3 * (n / 1e8) ** lr_of["slope"] * factor
                log_loss = 1.0 - 0.05 * np.log(c / 1e19) + 0.5 * VALLEY * z * z
                log_loss += 0.5 * PENALTY * np.log(lr / right) ** 2
                rows.append((n, c / (6 * n), c, np.exp(log_loss), lr))
    return pd.DataFrame(rows, columns=["n_params", "tokens", "flops", "loss", "lr"])


def exponent(frame):
    cells = make_cells(frame)
    survey = isoflop.find_valleys(cells, Method.parabola, 100, 0)
    return isoflop.fit_isoflop(survey, cells, 0).n_law.fit.exponent


def test_one_learning_rate_for_all_sizes_draws_the_exponent_down():
    """Every valley is pulled to the one size at which the learning rate is right."""
    shrunk = A * VALLEY / (VALLEY + PENALTY * SLOPE**2)
    found = exponent(mistuned_study({"slope": 0.0, "factors": 1.0}))
    assert shrunk < 0.41
    assert found == pytest.approx(shrunk, abs=1e-6)


def test_learning_rates_that_follow_the_size_leave_the_exponent_alone():
    assert exponent(mistuned_study({"slope": SLOPE, "factors": 1.0})) == pytest.approx(A, abs=1e-6)


def test_the_best_of_a_grid_removes_most_of_that_bias_and_the_fitted_optimum_all():
    frame = mistuned_study({"slope": 0.0, "factors": 3.0 ** np.arange(-3.0, 4.0)})
    by_grid = exponent(frame)
    names = ("n_params", "tokens", "flops", "loss")
    groups = find_optima(frame, resamples=50, seed=0).groups
    assert all(group.interior for group in groups)
    tuned = [{name: getattr(group, name) for name in names} for group in groups]
    by_optimum = exponent(pd.DataFrame(tuned))
    assert abs(by_grid - A) < 0.02
    assert by_optimum == pytest.approx(A, abs=1e-6)
    assert abs(by_optimum - A) < 0.1 * abs(by_grid - A)
