from typing import Any

import numpy as np
import pytest
from study_folders import isoflop_table, optimal_n

from analysis.frontier import optimal_band, optimal_size
from analysis.parametric import fit_parametric


@pytest.fixture(scope="module")
def fit() -> Any:
    table = isoflop_table(noise=0.001)
    columns = (table[name].to_numpy(float) for name in ("n_params", "tokens"))
    return fit_parametric(*columns, nats=table["loss"].to_numpy(float), resamples=300)


FLOPS = np.array([1e18, 1e19, 1e20])


def test_the_optimal_size_minimises_the_surface_at_its_compute(fit: Any) -> None:
    best = optimal_size(fit, FLOPS)
    at = fit.predict(best, FLOPS / (6 * best))
    for factor in (0.98, 1.02):
        assert (fit.predict(factor * best, FLOPS / (6 * factor * best)) > at).all()


def test_the_optimal_size_grows_with_the_fitted_exponent(fit: Any) -> None:
    growth = np.diff(np.log(optimal_size(fit, FLOPS))) / np.log(10)
    assert growth == pytest.approx([fit.values["a"]] * 2)


def test_the_band_holds_the_true_optimum_of_n_and_of_d(fit: Any) -> None:
    truth = optimal_n(FLOPS)
    low, high = optimal_band(fit, FLOPS, "N")
    assert (low < truth).all()
    assert (truth < high).all()
    low, high = optimal_band(fit, FLOPS, "D")
    assert (low < FLOPS / (6 * truth)).all()
    assert (FLOPS / (6 * truth) < high).all()
