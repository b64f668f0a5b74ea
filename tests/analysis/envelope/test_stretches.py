import numpy as np
import pytest
from test_envelope import curve, ladder, optimal_flops

from analysis.envelope.stretches import (
    BEGAN,
    ENDED,
    NO_LARGER,
    NO_SMALLER,
    USED,
    arrange,
    find_stretches,
)
from analysis.intake.curves import Curve


def verdicts(curves, present=None):
    design = arrange(curves)
    chosen = np.ones((1, len(curves)), dtype=bool) if present is None else np.array([present])
    return find_stretches(design, chosen).verdict.tolist()


def three(**changes):
    """Three sizes; where a curve begins and ends, as factors on its size's optimal compute."""
    spans = {"small": (0.01, 10.0), "middle": (0.01, 10.0), "large": (0.01, 10.0), **changes}
    sizes = {"small": 1e7, "middle": 1.6e7, "large": 2.56e7}
    return [
        curve(n, last * float(optimal_flops(n)), name=name, start=first / last)
        for name, n in sizes.items()
        for first, last in [spans[name]]
    ]


def test_the_middle_of_three_long_curves_is_an_optimum():
    assert verdicts(three()) == [NO_SMALLER, USED, NO_LARGER]


def test_a_size_that_takes_over_where_the_smaller_has_ended_is_none():
    assert verdicts(three(small=(0.01, 1.0))) == [NO_SMALLER, NO_SMALLER, NO_LARGER]


def test_a_size_that_is_best_before_a_larger_one_begins_is_none():
    assert verdicts(three(large=(2.0, 10.0)))[1] == NO_LARGER


def test_a_size_that_ends_while_it_is_best_is_none():
    assert verdicts(three(small=(0.01, 2.2), middle=(0.01, 1.1)))[1] == ENDED


def test_a_size_that_ends_with_the_smaller_one_is_best_at_its_end():
    end = float(optimal_flops(1.6e7)) * 1.1
    curves = three(small=(0.01, end / float(optimal_flops(1e7))), middle=(0.01, 1.1))
    design = arrange(curves)
    found = find_stretches(design, np.ones((1, 3), dtype=bool))
    assert found.verdict[1] == USED
    assert np.exp(found.log_c[1]) == pytest.approx(end)


def test_a_size_whose_curve_begins_on_the_envelope_is_none():
    assert verdicts(three(middle=(0.9, 10.0), large=(0.4, 10.0)))[1] == BEGAN


def test_a_subset_is_judged_by_the_runs_it_holds():
    curves = ladder(1.6, 10.0, 5)
    assert verdicts(curves) == [NO_SMALLER, USED, USED, USED, NO_LARGER]
    assert verdicts(curves, [False, True, False, True, True]) == [NO_SMALLER, USED, NO_LARGER]


def test_sizes_that_differ_by_rounding_are_one():
    curves = [
        curve(n, 10 * float(optimal_flops(n)), name=str(n)) for n in (1e7, 1.6e7, 1.6001e7, 2.56e7)
    ]
    assert verdicts(curves) == [NO_SMALLER, USED, NO_LARGER]


def test_sizes_without_gaps_between_them_stay_apart():
    sizes = 1e7 * np.exp(np.arange(5000) * 5e-4)
    flops = np.array([1e17, 1e18])
    curves = [
        Curve(str(k), n, flops, np.array([3.0, 2.9]), 1e18, 2.9, flops / (6 * n))
        for k, n in enumerate(sizes)
    ]
    assert len(arrange(curves).log_n) == pytest.approx(1667, abs=1)
