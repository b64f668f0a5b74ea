"""What repeated tokens and excess parameters are worth, and the surface through them."""

import numpy as np
import pytest
from repeated import PUBLISHED, repeated_table

from analysis.repetition import effective
from analysis.repetition.log_surface import log_surface


def test_one_epoch_is_worth_itself_and_a_repeat_less():
    unique = np.array([1e9, 1e9, 1e9])
    worth = effective.effective_tokens(np.array([1e9, 4e9, 1e15]), unique, 15.387756)
    assert worth[0] == pytest.approx(1e9, rel=1e-14)
    # 1 + 15.387756 (1 - exp(-3 / 15.387756)), and the limit 1 + 15.387756.
    assert worth[1] == pytest.approx(3.725673123e9, rel=1e-7)
    assert worth[2] == pytest.approx(16.387756e9, rel=1e-9)


def test_more_unique_tokens_than_seen_count_as_those_seen():
    worth = effective.effective_tokens(np.array([1e9]), np.array([5e9]), 2.0)
    assert worth[0] == pytest.approx(1e9, rel=1e-14)


def test_repeats_that_never_tire_are_fresh_tokens():
    worth = effective.effective_tokens(np.array([5e10]), np.array([1e9]), 1e12)
    assert worth[0] == pytest.approx(5e10, rel=1e-9)


def test_values_go_to_q_and_back():
    centers = (20.0, 24.0)
    assert effective.to_values(effective.to_q(PUBLISHED, centers), centers) == pytest.approx(
        PUBLISHED, rel=1e-12
    )


def test_the_slopes_are_those_of_the_prediction():
    runs = repeated_table()
    columns = (runs[name].to_numpy() for name in ("n_params", "tokens", "unique_tokens", "loss"))
    points, centers = effective.make_points(*columns)
    q = effective.to_q(PUBLISHED, centers)
    slopes = log_surface(q[None], points).slopes[0]
    for k in range(7):
        step = np.eye(7)[k] * 1e-5
        ahead, behind = (log_surface((q + s)[None], points).prediction[0] for s in (step, -step))
        assert slopes[k] == pytest.approx((ahead - behind) / 2e-5, abs=1e-8)


def test_runs_larger_than_their_data_ask_for_are_told_apart():
    runs = repeated_table(sizes=(1e5, 1e13), unique=(1e9,))
    columns = (runs[name].to_numpy() for name in ("n_params", "tokens", "unique_tokens", "loss"))
    points, centers = effective.make_points(*columns)
    excess = effective.has_excess(effective.to_q(PUBLISHED, centers)[None], points)[0]
    assert excess.tolist() == [False] * 4 + [True] * 4
