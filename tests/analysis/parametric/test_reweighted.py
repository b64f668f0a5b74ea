from dataclasses import replace

import numpy as np
import pytest
from study_folders import isoflop_table

from analysis.config import Form, Loss
from analysis.parametric import reweighted
from analysis.parametric.fit import certify, fit_surface
from analysis.parametric.reweighted import refit_reweighted

TABLE = isoflop_table(noise=0.002, seed=6)
RUNS = tuple(TABLE[name].to_numpy(float) for name in ("n_params", "tokens", "loss"))


@pytest.mark.parametrize("form", [Form.chinchilla, Form.skaling, Form.kaplan_e])
def test_a_reweighted_refit_is_the_certified_fit_with_those_weights(form):
    fit, reference = certify(*RUNS, form, Loss.mse, 1e-3)
    counts = np.random.default_rng(0).integers(0, 3, (4, 35)).astype(float)
    found = refit_reweighted(reference, fit.centers[2], counts)
    for k, row in enumerate(counts):
        wanted = fit_surface(*RUNS, form=form, loss=Loss.mse, weights=row).values
        assert found.a[k] == pytest.approx(wanted["a"], rel=1e-6)
        assert found.floor[k] == pytest.approx(wanted["E"], rel=1e-6)


def test_batches_do_not_change_the_refits(monkeypatch):
    fit, reference = certify(*RUNS, Form.chinchilla, Loss.huber, 1e-3)
    counts = np.random.default_rng(1).integers(0, 3, (7, 35)).astype(float)
    whole = refit_reweighted(reference, fit.centers[2], counts)
    monkeypatch.setattr(reweighted, "ELEMENTS_PER_BATCH", 70)
    parts = refit_reweighted(reference, fit.centers[2], counts)
    np.testing.assert_allclose(parts.a, whole.a, rtol=1e-10)


def test_a_form_without_a_floor_has_none():
    fit, reference = certify(*RUNS, Form.kaplan, Loss.huber, 1e-3)
    assert refit_reweighted(reference, fit.centers[2], np.ones((1, 35))).floor[0] == 0.0


def test_weights_that_leave_no_surface_give_nan():
    fit, reference = certify(*RUNS, Form.chinchilla, Loss.huber, 1e-3)
    rising = replace(
        reference, points=replace(reference.points, log_loss=-reference.points.log_loss)
    )
    found = refit_reweighted(rising, fit.centers[2], np.ones((1, 35)))
    assert np.isnan(found.a[0])
    assert np.isnan(found.floor[0])
    assert np.isnan(found.theta).all()
