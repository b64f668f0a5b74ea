"""The likelihood behind a profile, and its ends."""

import numpy as np
import pytest
from repeated import PUBLISHED, repeated_table

from analysis.repetition import effective
from analysis.repetition.effective import R_D, R_N, SURFACE
from analysis.repetition.profile import CHI2, deviance, profile_r
from analysis.repetition.solver import Task, descend, objective


def test_the_deviance_is_normal_far_inside_delta_and_laplace_far_outside():
    one = np.array([1.1e-4])
    # -2 log of the likelihood ratio: n log(S / S0) of squares, 2 n log(S / S0) of absolute values.
    assert deviance(one, 1e-4, 50, 1.0) == pytest.approx(50 * np.log(1.1), rel=1e-9)
    assert deviance(one, 1e-4, 50, 1e-9) == pytest.approx(100 * np.log(1.1), rel=1e-3)
    middle = float(deviance(one, 1e-4, 50, 1e-3)[0])
    assert 50 * np.log(1.1) < middle < 100 * np.log(1.1)


def test_the_deviance_uses_the_integral_of_the_huber_density():
    delta, tau = 1e-3, 2e-6
    x = np.linspace(-0.2, 0.2, 2_000_001)
    slope = np.clip(x, -delta, delta)
    density = np.exp(-slope * (x - 0.5 * slope) / tau)
    numeric = float(density.sum() * (x[1] - x[0]))
    # The scale's best value for the mean cost that this density itself has is tau.
    mean = float((slope * (x - 0.5 * slope) * density).sum() / density.sum())
    lone = np.log(numeric) + mean / tau
    other = float(deviance(np.array([mean]), 1e-12, 1, delta)[0])
    tiny = 0.5 * np.log(2 * np.pi * 2e-12) + 0.5  # normal: tau = 2 mean
    assert other == pytest.approx(2 * (lone - tiny), rel=1e-4)


def test_the_interval_ends_where_the_deviance_crosses_and_holds_the_truth():
    runs = repeated_table(noise=0.003)
    columns = (runs[name].to_numpy() for name in ("n_params", "tokens", "unique_tokens", "loss"))
    points, centers = effective.make_points(*columns)
    task = Task(points, 1e-3)
    end = descend(effective.to_q(PUBLISHED, centers)[None], task)
    best = (end.q[0], float(end.value[0]))
    profile = profile_r(R_D, best, task)
    low, high = profile.interval
    assert low < 15.0 < high
    for edge in profile.interval:
        assert float(np.interp(np.log(edge), np.log(profile.r), profile.deviance)) == pytest.approx(
            CHI2, abs=0.02
        )
    assert (profile.deviance >= 0).all()
    assert (np.diff(profile.r) > 0).all()
    at = int(np.argmin(np.abs(np.log(profile.r / low))))
    assert profile.objective[at] == pytest.approx(objective(profile.q[[at]], task)[0])


def test_an_end_that_is_not_reached_is_open():
    runs = repeated_table(r_d=1e9, noise=0.003)
    columns = (runs[name].to_numpy() for name in ("n_params", "tokens", "unique_tokens", "loss"))
    points, centers = effective.make_points(*columns)
    task = Task(points, 1e-3)
    end = descend(effective.to_q({**PUBLISHED, "R_D": 100.0}, centers)[None], task)
    low, high = profile_r(R_D, (end.q[0], float(end.value[0])), task).interval
    assert 64 < low < high == np.inf


def test_on_a_held_surface_every_basin_of_the_other_r_is_tried():
    runs = repeated_table(noise=0.02, seed=3)
    columns = (runs[name].to_numpy() for name in ("n_params", "tokens", "unique_tokens", "loss"))
    points, centers = effective.make_points(*columns)
    task = Task(points, 1e-3, SURFACE)
    q = effective.to_q(PUBLISHED, centers)
    profile = profile_r(R_D, (q, float(objective(q[None], task)[0])), task)
    others = np.repeat(profile.q[[10]], 2000, axis=0)
    others[:, R_N] = np.linspace(np.log(0.05), np.log(1e6), 2000)
    assert profile.objective[10] <= objective(others, task).min() * (1 + 1e-6)
