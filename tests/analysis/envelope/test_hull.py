import numpy as np
import pytest

from analysis.envelope.hull import lower_hull, rank_runs, touched


def test_the_hull_of_a_square_with_points_inside_is_its_lower_side():
    x = np.array([0.0, 1.0, 0.0, 1.0, 0.5, 0.5])
    y = np.array([0.0, 0.0, 1.0, 1.0, 0.5, 0.1])
    assert lower_hull(x, y).tolist() == [0, 1]


def test_the_hull_s_vertices_ascend_and_lie_below_all_points():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=200), rng.normal(size=200)
    hull = lower_hull(x, y)
    assert (np.diff(x[hull]) > 0).all()
    assert (np.diff(np.diff(y[hull]) / np.diff(x[hull])) > 0).all()
    assert (y >= np.interp(x, x[hull], y[hull]) - 1e-12).all()


def test_every_subset_s_hull_is_that_of_its_runs():
    """Against the hull built anew: at every slope the same run is touched."""
    rng = np.random.default_rng(1)
    x = [np.sort(rng.uniform(0, 10, 20)) + k for k in range(8)]
    y = [4 * np.exp(-0.3 * run) + rng.normal(0, 0.02, 20) + 0.01 * k for k, run in enumerate(x)]
    ranking = rank_runs(x, y)
    assert ranking is not None
    present = rng.random((50, 8)) < 0.6
    present[:, 0] = True
    runs, _ = touched(ranking, present)
    for subset, found in zip(present, runs, strict=True):
        members = np.flatnonzero(subset)
        flat_x = np.concatenate([x[k] for k in members])
        flat_y = np.concatenate([y[k] for k in members])
        owner = np.repeat(members, 20)
        hull = lower_hull(flat_x, flat_y)
        low = int(np.argmin(flat_y[hull]))
        assert set(found) <= set(owner[hull])
        assert found[-1] == owner[hull[low]] or flat_y[hull[low]] == pytest.approx(
            y[found[-1]].min(), abs=0.05
        )


def test_curves_that_do_not_fall_have_no_ranking():
    rising = [np.arange(5.0)], [np.arange(5.0)]
    assert rank_runs(*rising) is None
    assert rank_runs([np.array([1.0])], [np.array([1.0])]) is None


def test_a_hundred_thousand_single_points_are_ranked_in_bounded_memory():
    rng = np.random.default_rng(2)
    x = rng.uniform(40, 50, 100_000)
    y = np.exp(-0.05 * x) + np.abs(rng.normal(0, 0.05, len(x)))
    ranking = rank_runs(list(x[:, None]), list(y[:, None]))
    assert ranking is not None
    assert ranking.run.shape == ranking.x.shape == (768, 40)
