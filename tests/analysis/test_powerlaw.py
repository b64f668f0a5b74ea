import numpy as np
import pytest

from analysis.powerlaw import fit_many, fit_power_law


def test_an_exact_power_law_is_recovered() -> None:
    x = np.array([1e12, 3e12, 1e13])
    law = fit_power_law(x, 0.2 * x**0.5)
    assert law.exponent == pytest.approx(0.5)
    assert law.coefficient == pytest.approx(0.2)
    assert law.at(np.array([4e12])) == pytest.approx([0.2 * 2e6])
    assert law.residual_sd == pytest.approx(0.0, abs=1e-12)


def test_draws_without_three_points_have_no_law() -> None:
    log_x = np.array([0.0, 1.0, 2.0, 3.0])
    log_y = np.array([[0, 2, 4, 6], [0, np.nan, 4, 6], [0, np.nan, np.nan, 6]], float)
    slopes, heights = fit_many(log_x, log_y, at=1.0)
    assert slopes[:2] == pytest.approx([2.0, 2.0])
    assert heights[:2] == pytest.approx([2.0, 2.0])
    assert np.isnan(slopes[2])
