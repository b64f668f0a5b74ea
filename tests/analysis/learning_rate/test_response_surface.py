"""Quadratic response surfaces: exact on quadratics, local on what is none, honest intervals."""

import numpy as np
import pytest
from lr_grids import BEND

from analysis.learning_rate.response_surface import (
    FAR_RISE,
    design,
    fit_surface,
    open_window,
    resample,
    robust_sd,
    stationary,
)

CENTER = np.log([2e-3, 4e5])


def grid(lrs=9, batches=7):
    steps = np.log(2.0) * (np.stack(np.meshgrid(np.arange(lrs), np.arange(batches)), axis=-1) - 3.2)
    return CENTER + steps.reshape(-1, 2)


def quadratic(settings, bend=BEND):
    z = settings - CENTER
    return np.asarray(2.5 * np.exp(0.5 * np.einsum("ki,ij,kj->k", z, bend, z)))


def test_a_quadratic_is_recovered_exactly_from_its_window():
    settings = grid()
    surface = fit_surface(settings, quadratic(settings))
    assert surface.why == ""
    np.testing.assert_allclose(surface.optimum, CENTER, atol=1e-9)
    np.testing.assert_allclose(surface.hessian, BEND, atol=1e-10)
    assert surface.height(surface.optimum[None])[0] == pytest.approx(np.log(2.5), abs=1e-12)
    assert surface.penalty == pytest.approx(0.5 * 0.014 * np.log(2) ** 2, rel=1e-9)
    assert surface.batch_slope == pytest.approx(0.004 / 0.014, rel=1e-9)


def test_a_diverged_corner_does_not_move_the_optimum():
    settings = grid()
    loss = quadratic(settings)
    corner = (settings[:, 0] > CENTER[0] + 2) & (settings[:, 1] < CENTER[1])
    loss = np.where(corner, 7.0, loss)
    surface = fit_surface(settings, loss)
    assert corner.sum() >= 6
    assert not surface.inside[corner].any()
    np.testing.assert_allclose(surface.optimum, CENTER, atol=1e-9)


def test_all_cells_would_have_been_moved_by_the_corner():
    settings = grid()
    corner = (settings[:, 0] > CENTER[0] + 2) & (settings[:, 1] < CENTER[1])
    loss = np.where(corner, 7.0, quadratic(settings))
    x = design(settings - CENTER)
    at = stationary(np.linalg.lstsq(x, np.log(loss), rcond=None)[0][None], 2)[0]
    assert not np.abs(at).max() < 0.5


def test_the_window_holds_what_is_within_two_percent_and_at_least_twelve():
    settings = grid(5, 5)
    loss = 2.0 * (1.0 + 0.004 * np.arange(25.0))
    assert open_window(settings, loss).sum() == 12
    assert open_window(settings, loss, rise=0.061).sum() == 16
    assert open_window(settings, 2.0 * (1.0 + 0.015 * np.arange(25.0))).sum() == 7
    assert FAR_RISE == 0.10


def test_along_learning_rate_alone_the_window_reaches_beyond_the_lowest_on_both_sides():
    lr = np.log(1e-3 * 2.0 ** np.arange(7))[:, None]
    loss = np.array([2.30, 2.08, 2.000, 2.001, 2.002, 2.003, 2.004])
    assert open_window(lr, loss).tolist() == [False, True, True, True, True, True, True]
    cliff = np.array([2.30, 2.90, 2.000, 2.001, 2.002, 2.003, 2.004])
    assert open_window(lr, cliff).tolist() == [False, False, True, True, True, True, True]


def test_the_order_of_cells_does_not_matter():
    settings = grid()
    loss = quadratic(settings) * np.exp(0.002 * np.random.default_rng(0).standard_normal(63))
    order = np.random.default_rng(1).permutation(63)
    first, second = fit_surface(settings, loss), fit_surface(settings[order], loss[order])
    np.testing.assert_allclose(first.optimum, second.optimum, rtol=1e-12)


def test_units_of_batch_shift_the_optimum_and_nothing_else():
    settings = grid()
    loss = quadratic(settings) * np.exp(0.002 * np.random.default_rng(0).standard_normal(63))
    moved = settings + np.array([0.0, np.log(2048.0)])
    first, second = fit_surface(settings, loss), fit_surface(moved, loss)
    np.testing.assert_allclose(second.optimum - first.optimum, [0, np.log(2048.0)], atol=1e-9)
    np.testing.assert_allclose(second.hessian, first.hessian, rtol=1e-8)


def test_a_saddle_has_no_stationary_minimum():
    rows = np.array([[0, 1.0, 0, 0.5, 0.0, -0.5], [0, 1.0, -2.0, 0.5, 0.0, 0.5]])
    at = stationary(rows, 2)
    assert np.isnan(at[0]).all()
    np.testing.assert_allclose(at[1], [-1.0, 2.0])
    assert np.isnan(stationary(np.array([[0, 1.0, -0.5]]), 1)).all()


@pytest.mark.parametrize("n_axes", [1, 2])
def test_intervals_of_an_optimum_hold_the_truth_as_often_as_they_say(n_axes):
    settings = grid()[:, :n_axes] if n_axes == 2 else grid(9, 1)[:, :1]
    centered = settings - CENTER[:n_axes]
    truth = 2.5 * np.exp(0.5 * np.einsum("ki,ij,kj->k", centered, BEND[:n_axes, :n_axes], centered))
    rng, inside, used = np.random.default_rng(3), 0, 0
    for k in range(300):
        loss = truth * np.exp(0.001 * rng.standard_normal(len(settings)))
        surface = fit_surface(settings, loss)
        sd = np.sqrt(surface.squares / surface.freedom)
        found = resample(surface, float(sd), surface.freedom, 400, k)
        if found.interval is not None:
            used += 1
            inside += found.interval[0][0] <= np.exp(CENTER[0]) <= found.interval[0][1]
    assert used >= 290
    assert 0.91 <= inside / used <= 0.99


def test_an_optimum_that_noise_can_erase_is_not_used():
    settings = grid(7, 7)
    surface = fit_surface(settings, quadratic(settings))
    assert resample(surface, 1e-4, 10, 500, 0).why == ""
    found = resample(surface, 0.05, 10, 500, 0)
    assert found.interval is None
    assert "of resamples; add learning rates and batch sizes or seeds" in found.why


def test_without_a_known_noise_there_is_an_optimum_but_no_interval():
    lr = np.log(np.array([1e-3, 2e-3, 4e-3]))[:, None]
    surface = fit_surface(lr, np.array([2.1, 2.0, 2.05]))
    found = resample(surface, float("nan"), 0, 100, 0)
    assert surface.freedom == 0
    assert found.why == ""
    assert found.interval is None
    assert np.isnan(found.draws).all()


def test_robust_sd_is_the_sd_of_a_normal_and_ignores_a_far_draw():
    draws = np.random.default_rng(0).standard_normal(20_000)
    assert robust_sd(draws) == pytest.approx(1.0, abs=0.03)
    assert robust_sd(np.append(draws, 1e9)) == pytest.approx(1.0, abs=0.03)
