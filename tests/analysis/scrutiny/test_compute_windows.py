import numpy as np
import pytest
from study_folders import isoflop_table

from analysis.config import Form, Loss
from analysis.errors import RefusedError
from analysis.parametric.fit import fit_surface
from analysis.parametric.reweighted import Reweighted
from analysis.scrutiny import compute_windows
from analysis.scrutiny.compute_windows import check_decades, cut_windows, fit_window


def test_few_runs_are_cut_into_overlapping_halves_of_whole_budgets():
    flops = np.repeat(np.geomspace(1e18, 1e20, 6), 10)
    windows = cut_windows(flops, 2.0, 60)
    assert [int(rows.sum()) for rows in windows] == [30, 40, 30]
    assert all(np.unique(flops[rows]).size * 10 == rows.sum() for rows in windows)
    assert not (windows[0] & windows[2]).any()


def test_many_runs_are_cut_into_thirds():
    flops = np.geomspace(1e18, 1e20, 600)
    windows = cut_windows(flops, 2.0, 600)
    assert [round(float(rows.mean()), 1) for rows in windows] == [0.3, 0.3, 0.3]


def test_cutting_does_not_depend_on_the_order_of_the_rows():
    flops = np.geomspace(1e18, 1e20, 40)
    order = np.random.default_rng(0).permutation(40)
    for rows, shuffled in zip(
        cut_windows(flops, 2.0, 40), cut_windows(flops[order], 2.0, 40), strict=True
    ):
        np.testing.assert_array_equal(rows[order], shuffled)


def test_too_few_runs_and_too_little_range_are_refused():
    with pytest.raises(RefusedError, match=r"29 runs; .* until there are 30"):
        cut_windows(np.geomspace(1e18, 1e20, 29), 2.0, 29)
    with pytest.raises(RefusedError, match=r"0\.9 decades of compute; at least 1 .* add budgets"):
        check_decades(0.9)
    check_decades(1.0)


def test_a_window_is_the_certified_fit_of_its_rows():
    table = isoflop_table(noise=0.001)
    columns = tuple(table[name].to_numpy(float) for name in ("n_params", "tokens", "flops", "loss"))
    inside = columns[2] > 2e18
    counts = np.ones((3, len(table)))
    found = fit_window(columns, inside, counts, None, Form.chinchilla, Loss.huber, 1e-3)
    n, d, c, loss = (column[inside] for column in columns)
    assert found.window.a == pytest.approx(fit_surface(n, d, loss).values["a"], rel=1e-12)
    np.testing.assert_allclose(found.draws, found.window.a, rtol=1e-9)
    assert found.window.flops == (c.min(), c.max())
    assert (found.window.n_runs, found.n_free) == (28, 5)


def test_a_window_whose_resamples_leave_no_surface_is_refused(monkeypatch):
    table = isoflop_table(noise=0.001)
    columns = tuple(table[name].to_numpy(float) for name in ("n_params", "tokens", "flops", "loss"))
    lost = Reweighted(np.array([0.5, np.nan]), np.array([1.8, np.nan]), np.full((2, 5), np.nan))
    monkeypatch.setattr(compute_windows, "refit_reweighted", lambda *_: lost)
    inside, counts = columns[2] > 2e18, np.ones((2, len(table)))
    with pytest.raises(RefusedError, match=r"in the window C = 3e\+18 to 1e\+20: 50% of resam"):
        fit_window(columns, inside, counts, None, Form.chinchilla, Loss.huber, 1e-3)


def test_a_window_that_identifies_no_surface_says_which():
    table = isoflop_table(noise=0.001)
    columns = tuple(table[name].to_numpy(float) for name in ("n_params", "tokens", "flops", "loss"))
    inside, counts = columns[2] < 2e18, np.ones((2, len(table)))
    with pytest.raises(RefusedError, match=r"in the window C = 1e\+18 to 1e\+18: .*add runs"):
        fit_window(columns, inside, counts, None, Form.chinchilla, Loss.huber, 1e-3)
