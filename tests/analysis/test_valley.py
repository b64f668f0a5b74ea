from typing import Any

import numpy as np
import pytest

from analysis.config import Method
from analysis.valley import evaluate, find_minima, open_window, smooth, why_open

X = np.log(2.0) * np.arange(7.0)


def parabola(x: Any, at: Any = 3.1, height: Any = 1.0, bend: Any = 0.02) -> Any:
    return height + bend * (x / np.log(2.0) - at) ** 2


@pytest.mark.parametrize("method", list(Method))
def test_the_minimum_of_a_parabola_is_found(method: Any) -> None:
    y = parabola(X)
    at, height = find_minima(open_window(X, y, method), y[None])
    # Akima's interpolation is local, so it bends a parabola a little.
    assert at[0] / np.log(2.0) == pytest.approx(3.1, abs=0.06 if method is Method.akima else 1e-9)
    assert height[0] == pytest.approx(1.0, abs=1e-3)


def test_the_minimum_of_a_skewed_cubic_is_found_by_its_derivative() -> None:
    y = 1.0 + 0.02 * (X - 2.0) ** 2 + 0.003 * (X - 2.0) ** 3
    at, _ = find_minima(open_window(X, y, Method.cubic), y[None])
    assert at[0] == pytest.approx(2.0, abs=1e-9)


def test_a_curve_without_a_minimum_inside_gives_nan() -> None:
    y = 1.0 + 0.1 * X
    assert np.isnan(find_minima(open_window(X, y, Method.cubic), y[None])[0][0])


def test_a_maximum_is_not_a_valley() -> None:
    y = -parabola(X)
    window = open_window(X, y, Method.parabola)
    assert np.isnan(find_minima(window, y[None])[0][0])


def test_far_points_on_another_law_do_not_drag_the_minimum() -> None:
    x = np.log(2.0) * np.arange(12.0)
    y = parabola(x, at=3.1)
    y[8:] += np.array([0.2, 0.5, 0.8, 1.0])
    window = open_window(x, y, Method.cubic)
    assert window.high < 8
    assert find_minima(window, window.inside_y[None])[0][0] / np.log(2.0) == pytest.approx(3.1)


def test_four_sizes_get_a_parabola_and_five_a_cubic() -> None:
    for sizes, degree in ((4, 2), (5, 3), (7, 3)):
        window = open_window(X[:sizes], parabola(X[:sizes], at=1.6), Method.cubic)
        assert window.degree == degree
        assert smooth(window)[2] == sizes - degree - 1


@pytest.mark.parametrize("method", list(Method))
def test_the_drawn_curve_passes_through_its_minimum(method: Any) -> None:
    y = parabola(X)
    window = open_window(X, y, method)
    at, height = find_minima(window, window.inside_y[None])
    assert evaluate(window, at)[0] == pytest.approx(height[0], abs=1e-6)


def judge(y: Any, x: Any = X, noise: Any = 0.0) -> Any:
    window = open_window(x, y, Method.cubic)
    at, floor = (float(v[0]) for v in find_minima(window, window.inside_y[None]))
    return why_open(x, y, at, floor, noise)


def test_a_minimum_between_sizes_is_bracketed() -> None:
    assert judge(parabola(X)) == ""


def test_a_lowest_loss_at_an_edge_names_the_size_and_the_side() -> None:
    assert "at the smallest size, 1; add smaller" in judge(parabola(X, at=-1.0))
    assert "at the largest size, 64; add larger" in judge(parabola(X, at=8.0))


def test_a_lone_size_beyond_the_minimum_counts_when_it_is_near() -> None:
    assert judge(parabola(X, at=0.9)) == ""


def test_a_lone_size_beyond_the_minimum_does_not_count_across_a_wide_gap() -> None:
    x = np.concatenate([[-np.log(3.0)], X])
    assert "fewer than two sizes are smaller" in judge(parabola(x, at=-0.6, bend=0.05), x)


def test_a_rise_below_the_noise_does_not_bracket() -> None:
    assert "does not rise above the noise" in judge(parabola(X), noise=0.2)
