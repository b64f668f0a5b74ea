from dataclasses import replace

import numpy as np
import pytest
from study_folders import isoflop_table

from analysis.config import Form, Loss
from analysis.errors import RefusedError
from analysis.parametric.fit import certify, fit_surface
from analysis.parametric.objective import LAD_DELTAS
from analysis.parametric.refits import LAD_CORNER, refit, refit_resamples

TABLE = isoflop_table(noise=0.002, seed=3)
RUNS = tuple(TABLE[name].to_numpy(float) for name in ("n_params", "tokens", "loss"))


@pytest.fixture(scope="module")
def reference():
    return certify(*RUNS, Form.chinchilla, Loss.huber, 1e-3)[1]


def counts_of(rows):
    return np.random.default_rng(5).integers(0, 3, (rows, len(TABLE))).astype(float)


def test_a_refit_is_the_certified_fit_of_those_counts(reference):
    counts = counts_of(3)
    ends = refit(reference, counts)
    assert ends.converged.all()
    for k, row in enumerate(counts):
        wanted = fit_surface(*RUNS, weights=row)
        assert ends.value[k] == pytest.approx(wanted.objective, rel=1e-8)


def test_resamples_are_counted_as_they_are_done(reference):
    counts, told = counts_of(6), []
    thetas, failed = refit_resamples(reference, [counts[:2], counts[2:]], told.append)
    assert told == [2, 4]
    assert (len(thetas), failed) == (6, 0)
    assert thetas == pytest.approx(refit(reference, counts).theta, rel=1e-9)


def test_resamples_that_mostly_fail_are_no_sample(reference):
    rising = replace(reference.points, log_loss=-reference.points.log_loss)
    lost = replace(reference, points=rising)
    with pytest.raises(RefusedError, match=r"4 of 4 bootstrap refits .*; add runs, or sizes"):
        refit_resamples(lost, [np.where(counts_of(4) > 0, np.nan, 0.0)], lambda done: None)


def test_the_corner_of_absolute_deviations_is_far_inside_the_residuals():
    fit, reference = certify(*RUNS, Form.chinchilla, Loss.lad, 1e-3)
    delta = max(LAD_CORNER * float(np.median(np.abs(fit.residuals))), LAD_DELTAS[-1])
    value, slope, bend = reference.phi(np.array([0.5 * delta, 3 * delta]), np.zeros(2))
    assert value == pytest.approx([0.125 * delta**2, 2.5 * delta**2])
    assert slope == pytest.approx([0.5 * delta, delta])
    assert bend.tolist() == [1.0, 0.0]
