import numpy as np
import pytest

from analysis.parametric.crossing import CLOSE, MAX_ROUNDS, crossings

ONE = np.ones(4)


def test_curves_of_any_bend_are_met_at_their_level_on_both_sides():
    """|t / s|**p meets 2 at s 2**(1 / p)."""
    power = np.array([0.5, 1.0, 2.0, 4.0])
    scale = np.array([1e-3, 1.0, 7.0, 1e3])

    def height(t, rows):
        return np.abs(t / scale[rows]) ** power[rows]

    wanted = scale * 2.0 ** (1 / power)
    for side in (1.0, -1.0):
        found = crossings(height, 0 * ONE, side * 0.1 * scale, side * 1e4 * scale, 2.0)
        assert height(found, np.arange(4)) == pytest.approx(2.0 * ONE, rel=CLOSE)
        assert np.sign(found).tolist() == [side] * 4
        assert np.abs(found) == pytest.approx(wanted, rel=2 * CLOSE)


def test_each_curve_is_measured_from_its_own_foot():
    foot = np.array([0.0, 10.0, -3.0, 5.0])
    found = crossings(lambda t, rows: 2 * (t - foot[rows]), foot, 0.3 * ONE, foot + 9, 4.0)
    assert found == pytest.approx(foot + 2, abs=1e-2)


def test_what_stays_below_up_to_the_limit_has_no_crossing():
    found = crossings(lambda t, rows: t, 0 * ONE, 0.5 * ONE, np.array([1.0, 3.0, 0.0, -1.0]), 2.0)
    assert np.isnan(found).tolist() == [True, False, True, True]
    assert found[1] == pytest.approx(2.0, rel=CLOSE)


def test_where_the_height_is_not_finite_it_is_above():
    def height(t, rows):
        return np.where(t > 5.0, np.nan, t)

    assert crossings(height, 0 * ONE[:1], 100 * ONE[:1], 1e3 * ONE[:1], 2.0) == pytest.approx(
        [2.0], rel=CLOSE
    )


def test_a_jump_over_the_level_does_not_reach_it():
    rounds = []

    def height(t, rows):
        rounds.append(len(rows))
        return np.where(t < 3.0, 0.1 * t, 50.0)

    found = crossings(height, 0 * ONE[:1], ONE[:1], 1e3 * ONE[:1], 2.0)
    assert np.isnan(found).all()
    assert len(rounds) <= MAX_ROUNDS
