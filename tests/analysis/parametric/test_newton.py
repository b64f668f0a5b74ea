"""The solver on problems whose minima are known without it."""

from dataclasses import dataclass

import numpy as np
import pytest

from analysis.parametric.newton import Floats, Local, acting, solve, whitening


@dataclass(frozen=True)
class Bowls:
    """One quadratic a problem: (theta - lowest)' H (theta - lowest) / 2 + depth."""

    lowest: Floats
    hessian: Floats
    floor: float = 0.0

    def at(self, theta, rows):
        off, hessian = theta - self.lowest[rows], self.hessian[rows]
        gradient = np.einsum("sij,sj->si", hessian, off)
        value = 0.5 * np.einsum("si,si->s", off, gradient)
        return Local(value, gradient, hessian.copy(), hessian.copy())


@dataclass(frozen=True)
class Valley:
    """Rosenbrock's: (1 - x)**2 + 100 (y - x**2)**2, curved, and indefinite away from its floor."""

    floor: float = 1e-24

    def at(self, theta, rows):
        x, y = theta[:, 0], theta[:, 1]
        u, v = 1 - x, y - x * x
        gradient = np.stack([-2 * u - 400 * x * v, 200 * v], axis=1)
        cross = -400 * x
        hessian = np.stack(
            [np.stack([2 - 400 * v + 800 * x * x, cross], 1), np.stack([cross, 200 + 0 * x], 1)], 1
        )
        metric = np.stack(
            [np.stack([2 + 800 * x * x, cross], 1), np.stack([cross, 200 + 0 * x], 1)], 1
        )
        return Local(u * u + 100 * v * v, gradient, hessian, metric)


def random_metrics(scales):
    roots = np.random.default_rng(0).standard_normal((4, 3, 3))
    return roots @ roots.transpose(0, 2, 1) * scales[:, None] * scales


def test_quadratics_of_any_scale_end_at_their_minimum():
    lowest = np.random.default_rng(1).standard_normal((4, 3))
    problem = Bowls(lowest, random_metrics(np.array([1e-6, 1.0, 1e6])))
    solved = solve(lowest + 3.0, problem)
    assert solved.converged.all()
    # A share of 1e-13 of the value is 3e-7 of the way; the last step squares what is left of it.
    assert solved.theta == pytest.approx(lowest, abs=1e-6)


def test_starts_around_a_curved_valley_all_reach_its_floor():
    starts = np.array([[-1.2, 1.0], [3.0, -4.0], [-5.0, 20.0], [0.0, 0.0], [1.0, 1.0]])
    solved = solve(starts, Valley())
    assert solved.converged.all()
    assert solved.theta == pytest.approx(np.ones((5, 2)), abs=1e-9)
    assert starts[0].tolist() == [-1.2, 1.0]  # what was given is not written to


def test_a_path_that_is_given_up_has_not_converged():
    solved = solve(np.array([[-1.2, 1.0]]), Valley(), max_steps=2)
    assert not solved.converged.any()
    assert solved.value[0] > 1e-3


def test_a_start_where_nothing_is_finite_stays_and_has_not_converged():
    solved = solve(np.array([[np.inf, 0.0], [0.5, 0.5]]), Valley())
    assert solved.converged.tolist() == [False, True]
    assert solved.theta[0].tolist() == [np.inf, 0.0]
    assert solved.value[0] == np.inf


def test_whitening_takes_a_metric_of_any_units_to_one():
    metric = random_metrics(np.array([1e-5, 1.0, 1e5]))
    white = whitening(metric)
    one = white @ metric @ white.transpose(0, 2, 1)
    assert one == pytest.approx(np.broadcast_to(np.eye(3), one.shape), abs=1e-6)


def test_whitening_survives_what_rounding_left_indefinite():
    correlation = np.array([[[1.0, 1.0 + 1e-9], [1.0 + 1e-9, 1.0]]])
    assert np.isfinite(whitening(correlation)).all()


def test_a_parameter_that_moves_no_prediction_does_not_act():
    assert acting(np.diag([1.0, 1e-13, 0.0]), 1.0).tolist() == [True, False, False]
    assert acting(np.diag([1e-9, 1.0]), 1e4).tolist() == [False, True]
