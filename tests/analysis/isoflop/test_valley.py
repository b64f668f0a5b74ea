import numpy as np
import pytest

from analysis.config import Method
from analysis.isoflop.valley import (
    evaluate,
    find_minima,
    open_window,
    resample_minimum,
    whole_window,
    why_open,
)
from analysis.powerlaw import fit_power_law

X = np.log(2.0) * np.arange(7.0)


def parabola(x, at=3.1, height=1.0, bend=0.02):
    return height + bend * (x / np.log(2.0) - at) ** 2


@pytest.mark.parametrize("method", list(Method))
def test_the_minimum_of_a_parabola_is_found(method):
    y = parabola(X)
    window = open_window(X, y, method)
    at, height = find_minima(window, window.inside_y[None])
    # Akima's interpolation is local, so it bends a parabola a little.
    assert at[0] / np.log(2.0) == pytest.approx(3.1, abs=0.06 if method is Method.akima else 1e-9)
    assert height[0] == pytest.approx(1.0, abs=1e-3)


def test_the_minimum_of_a_skewed_cubic_is_found_by_its_derivative():
    y = 1.0 + 0.02 * (X - 2.0) ** 2 + 0.003 * (X - 2.0) ** 3
    at, _ = find_minima(open_window(X, y, Method.cubic), y[None])
    assert at[0] == pytest.approx(2.0, abs=1e-9)


def test_a_curve_without_a_minimum_inside_gives_nan():
    y = 1.0 + 0.1 * X
    assert np.isnan(find_minima(open_window(X, y, Method.cubic), y[None])[0][0])


def test_a_maximum_is_not_a_valley():
    y = -parabola(X)
    window = open_window(X, y, Method.parabola)
    assert np.isnan(find_minima(window, y[None])[0][0])


def test_far_points_on_another_law_do_not_drag_the_minimum():
    x = np.log(2.0) * np.arange(12.0)
    y = parabola(x, at=3.1)
    y[8:] += np.array([0.2, 0.5, 0.8, 1.0])
    window = open_window(x, y, Method.cubic)
    assert window.high < 8
    assert find_minima(window, window.inside_y[None])[0][0] / np.log(2.0) == pytest.approx(3.1)


def test_four_sizes_get_a_parabola_and_five_a_cubic():
    for sizes, degree in ((4, 2), (5, 3), (7, 3)):
        window = open_window(X[:sizes], parabola(X[:sizes], at=1.6), Method.cubic)
        assert window.degree == degree
        assert np.trace(window.annihilator) == pytest.approx(sizes - degree - 1)


@pytest.mark.parametrize("method", list(Method))
def test_the_drawn_curve_passes_through_its_minimum(method):
    y = parabola(X)
    window = open_window(X, y, method)
    at, height = find_minima(window, window.inside_y[None])
    assert evaluate(window, at)[0] == pytest.approx(height[0], abs=1e-6)


def judge(y, x=X, noise=0.0):
    window = open_window(x, y, Method.cubic)
    at, floor = (float(v[0]) for v in find_minima(window, window.inside_y[None]))
    return why_open(window, at, floor, noise)


def test_a_minimum_between_sizes_is_bracketed():
    assert judge(parabola(X)) == ""


def test_a_lowest_loss_at_an_edge_names_the_size_and_the_side():
    assert "at the smallest size, 1; add smaller" in judge(parabola(X, at=-1.0))
    assert "at the largest size, 64; add larger" in judge(parabola(X, at=8.0))


def test_a_lone_size_beyond_the_minimum_counts_when_it_is_near():
    assert judge(parabola(X, at=0.9)) == ""


def test_a_lone_size_beyond_the_minimum_does_not_count_across_a_wide_gap():
    x = np.concatenate([[-np.log(3.0)], X])
    assert "fewer than two sizes are smaller" in judge(parabola(x, at=-0.6, bend=0.05), x)


def test_a_rise_below_the_noise_does_not_bracket():
    assert "does not rise above the noise" in judge(parabola(X), noise=0.2)


def test_losses_that_fall_towards_both_ends_are_a_maximum():
    why = judge(1.0 - 0.02 * (X / np.log(2.0) - 2.6) ** 2)
    assert "the curvature is wrong: losses have a maximum at size 8" in why
    assert "add smaller sizes (0.5, 0.25) or add larger sizes (128, 256)" in why


def test_an_edge_names_the_sizes_to_add():
    assert "add smaller sizes (0.5, 0.25)" in judge(parabola(X, at=-1.0))
    assert "add larger sizes (128, 256)" in judge(parabola(X, at=8.0))


def test_a_curve_that_bends_down_around_a_low_loss_says_so():
    y = np.array([1.005, 1.0, 1.03, 1.05, 1.06, 1.05, 1.02])
    window = whole_window(X, y, Method.parabola)
    at, floor = (float(v[0]) for v in find_minima(window, window.inside_y[None]))
    why = why_open(window, at, floor, 0.0)
    assert "bends down, to a maximum, and has no minimum" in why
    assert "add sizes around 2 (1.41, 2.83)" in why


def test_akima_reports_the_median_of_noisy_copies():
    rng = np.random.default_rng(0)
    window = open_window(X, parabola(X) + 0.004 * rng.standard_normal(7), Method.akima)
    noise = 0.004 * rng.standard_normal((2000, len(window.inside_x)))
    copies = find_minima(window, window.inside_y + noise)[0]
    found = resample_minimum(window, noise)
    assert found.log_n == pytest.approx(np.nanmedian(copies))
    assert np.std(found.draws) == pytest.approx(np.nanstd(copies), rel=0.3)
    assert found.steady == pytest.approx(np.isfinite(copies).mean())


HOFFMANN = {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28}
ASYMMETRIC = {**HOFFMANN, "alpha": 0.465, "beta": 0.155}


def error_at_1e24(surface, reach, method, find=whole_window):
    """Return the error in per cent of D_opt extrapolated from 15 sizes a budget, without noise."""
    alpha, beta = surface["alpha"], surface["beta"]
    scale = (alpha * surface["A"] / (beta * surface["B"])) ** (1 / (alpha + beta))
    best = lambda flops: scale * (flops / 6) ** (beta / (alpha + beta))  # noqa: E731
    budgets, d_opt = np.geomspace(1e17, 1e21, 5), []
    for flops in budgets:
        x = np.linspace(-np.log(reach), np.log(reach), 15)
        n = best(flops) * np.exp(x)
        d = flops / (6 * n)
        loss = surface["E"] + surface["A"] / n**alpha + surface["B"] / d**beta
        window = find(np.log(n), loss, method)
        d_opt.append(flops / 6 / np.exp(find_minima(window, window.inside_y[None])[0][0]))
    far = fit_power_law(budgets, np.array(d_opt)).at(np.array([1e24]))[0]
    return float(100 * (far * 6 * best(1e24) / 1e24 - 1))


@pytest.mark.parametrize(
    ("surface", "method", "published", "digits"),
    [
        (HOFFMANN, Method.parabola, (-0.33, -1.30, -2.90, -5.10), 0.005),
        (HOFFMANN, Method.cubic, (0.001, 0.010, 0.052, 0.164), 0.0006),
        (ASYMMETRIC, Method.parabola, (-1.67, -6.50, -13.91, -23.12), 0.006),
        (ASYMMETRIC, Method.cubic, (0.004, 0.066, 0.331, 1.03), 0.005),
    ],
)
def test_curves_through_all_sizes_have_their_published_bias(surface, method, published, digits):
    """Losses in nats, as in the published calculation; a valley's own curve is in log loss."""
    for reach, error in zip((2, 4, 8, 16), published, strict=True):
        assert error_at_1e24(surface, reach, method) == pytest.approx(error, abs=digits)


@pytest.mark.parametrize("surface", [HOFFMANN, ASYMMETRIC])
@pytest.mark.parametrize("method", [Method.cubic, Method.parabola])
@pytest.mark.parametrize("reach", [4, 8, 16])
def test_the_window_leaves_no_more_bias_than_all_sizes(surface, method, reach):
    whole = abs(error_at_1e24(surface, reach, method))
    assert (
        abs(error_at_1e24(surface, reach, method, open_window)) <= whole + 0.1
    )  # per cent; a curve in log loss skews a little otherwise
