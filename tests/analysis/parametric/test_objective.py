import numpy as np
import pytest
from study_folders import isoflop_table

from analysis.config import Form, Loss
from analysis.parametric.fit import certify
from analysis.parametric.newton import Solved
from analysis.parametric.objective import LAD_DELTAS, Objective, certificate, cost, descend, lower

TABLE = isoflop_table(noise=0.002, seed=3)
RUNS = tuple(TABLE[name].to_numpy(float) for name in ("n_params", "tokens", "loss"))
ONCE = np.ones((1, len(TABLE)))


@pytest.mark.parametrize(
    ("loss", "wanted"),
    [
        # Huber with delta 1e-3 at residuals 5e-4 and -0.1: r**2 / 2, delta (|r| - delta / 2).
        (Loss.huber, [1.25e-7, 9.95e-5]),
        (Loss.lad, [LAD_DELTAS[-1] * 5e-4, LAD_DELTAS[-1] * 0.1]),
        (Loss.mse, [(2 * np.expm1(5e-4)) ** 2, (2 * np.expm1(-0.1)) ** 2]),
    ],
)
def test_a_cost_is_that_of_its_formula(loss, wanted):
    measured = np.log(np.array([2.0, 2.0]))
    value, slope, _ = cost(loss, 1e-3)(measured + np.array([5e-4, -0.1]), measured)
    assert value == pytest.approx(wanted, rel=1e-5)
    assert (np.sign(slope) == [1.0, -1.0]).all()


def test_absolute_deviations_are_reported_as_their_sum():
    fit, reference = certify(*RUNS, Form.chinchilla, Loss.lad, 1e-3)
    ends = descend(reference.optima[:1], reference.formula, reference.points, ONCE, Loss.lad, 1e-3)
    assert ends.converged.all()
    assert ends.value[0] == pytest.approx(np.abs(fit.residuals).sum(), rel=1e-6)
    assert fit.objective == pytest.approx(ends.value[0], rel=1e-9)


def test_of_two_ends_the_lower_that_converged_is_taken():
    def ends(values, converged):
        return Solved(np.array(values)[:, None], np.array(values), np.array(converged))

    one = ends([1.0, 5.0, 1.0, 9.0], [True, True, False, False])
    other = ends([2.0, 2.0, 2.0, 8.0], [True, True, True, False])
    taken = lower(one, other)
    assert taken.value.tolist()[:3] == [1.0, 2.0, 2.0]
    assert taken.theta[:3, 0].tolist() == [1.0, 2.0, 2.0]
    assert taken.converged.tolist() == [True, True, True, False]


def test_the_gradient_is_none_at_an_optimum_and_a_cosine_elsewhere():
    _, reference = certify(*RUNS, Form.chinchilla, Loss.huber, 1e-3)
    problem = Objective(reference.formula, reference.points, ONCE, reference.phi)
    gradient, condition = certificate(reference.optima[0], problem)
    assert gradient < 1e-9
    assert 10 < condition < 1e8
    moved, _ = certificate(reference.optima[0] + [0.02, 0, 0, 0, 0], problem)
    assert 0.1 < moved <= 1.0
    # The same in other weights: twice every run is the same problem.
    twice = Objective(reference.formula, reference.points, 2 * ONCE, reference.phi)
    again, _ = certificate(reference.optima[0] + [0.02, 0, 0, 0, 0], twice)
    assert again == pytest.approx(moved, rel=1e-9)
