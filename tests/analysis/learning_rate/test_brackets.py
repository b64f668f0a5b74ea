"""Which settings a refused optimum asks for."""

import numpy as np
import pytest

from analysis.learning_rate.brackets import within
from analysis.learning_rate.response_surface import fit_surface


def settings(lrs, batches):
    return np.log(np.array([(lr, batch) for lr in lrs for batch in batches]))


def loss(at, best, bend=(0.02, 0.02)):
    z = at - np.log(best)
    return np.asarray(2.0 * np.exp(0.5 * (z**2 @ np.array(bend))))


LRS, BATCHES = [1e-3, 2e-3, 4e-3, 8e-3], [1e5, 2e5, 4e5, 8e5]


@pytest.mark.parametrize(
    ("best", "advice"),
    [
        ((2e-2, 3e5), "add learning rates higher than 0.008"),
        ((5e-4, 3e5), "add learning rates lower than 0.001"),
        ((3e-3, 3e4), "add batch sizes lower than 1e+05"),
        ((2e-2, 3e6), "higher than 0.008 and add batch sizes higher than 8e+05"),
    ],
)
def test_an_optimum_outside_the_grid_names_the_side_to_extend(best, advice):
    at = settings(LRS, BATCHES)
    why = fit_surface(at, loss(at, best)).why
    assert why.startswith("the fitted optimum (learning rate ")
    assert why.endswith(advice)


def test_an_optimum_in_a_corner_that_was_not_tried_is_outside():
    at = settings([1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2], [1e5, 2e5, 4e5, 8e5, 1.6e6])
    lower_left = (at - at.min(axis=0)).sum(axis=1) <= np.log(2.0) * 4.01
    at = at[lower_left]
    why = fit_surface(at, loss(at, (9e-3, 9e5), (0.03, 0.03))).why
    assert why.endswith("outside the settings near the lowest loss; add settings around it")


def test_an_optimum_on_the_way_up_a_cliff_asks_for_settings_between():
    lr = np.log(1e-3 * 2.0 ** np.arange(6))[:, None]
    why = fit_surface(lr, np.array([3.0, 2.0, 2.01, 2.03, 2.06, 2.10])).why
    assert why.endswith("near the lowest loss; add learning rates between 0.001 and 0.002")


def test_a_saddle_names_the_axis_that_does_not_curve_up():
    at = settings(LRS, BATCHES)
    why = fit_surface(at, loss(at, (3e-3, 3e5), (0.02, -0.01))).why
    assert why == (
        "the surface does not curve up along batch size (curvature -0.01); "
        "add batch sizes on both sides, or seeds"
    )


def test_a_lowest_loss_on_the_edge_of_its_learning_rates_is_refused():
    lr = np.log(np.array(LRS))[:, None]
    why = fit_surface(lr, np.array([2.0, 2.1, 2.2, 2.3])).why
    assert why == "the lowest loss is at the lowest learning rate, 0.001; add lower learning rates"
    why = fit_surface(lr, np.array([2.3, 2.2, 2.1, 2.0])).why
    assert (
        why == "the lowest loss is at the highest learning rate, 0.008; add higher learning rates"
    )


def test_two_learning_rates_are_refused():
    lr = np.log(np.array([1e-3, 2e-3]))[:, None]
    why = fit_surface(lr, np.array([2.0, 2.1])).why
    assert why == "2 learning rates; at least 3 are needed, add learning rates"


def test_fewer_than_six_cells_are_refused():
    at = np.log(np.array([(1e-3, 2e5), (2e-3, 1e5), (2e-3, 2e5), (2e-3, 4e5), (4e-3, 2e5)]))
    why = fit_surface(at, loss(at, (2e-3, 2e5))).why
    assert why.startswith("5 settings near the lowest loss; 6 are needed, add learning rates and")


def test_cliffs_on_both_sides_ask_for_settings_between():
    lr = np.log(np.array([1e-3, 2e-3, 4e-3, 8e-3]))[:, None]
    why = fit_surface(lr, np.array([3.0, 2.0, 2.01, 4.0])).why
    assert why == (
        "the losses near the lowest have 2 learning rates; "
        "add learning rates between 0.001 and 0.002 or between 0.004 and 0.008"
    )


def test_learning_rate_and_batch_that_vary_together_are_refused():
    lr = 1e-3 * 1.3 ** np.arange(8)
    at = np.log(np.stack([lr, lr * 1e8], axis=1))
    why = fit_surface(at, loss(at, (2e-3, 2e5))).why
    assert why == "learning rate and batch size vary together; add each at a fixed other"


def test_a_point_on_the_hull_is_not_within_it():
    square = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    points = np.array([[0.5, 0.5], [0.999, 0.001], [1.1, 0.5], [np.nan, 0.5]])
    assert within(square, points).tolist() == [True, True, False, False]
    assert within(square[:, :1], np.array([[0.5], [0.0], [2.0]])).tolist() == [True, False, False]
