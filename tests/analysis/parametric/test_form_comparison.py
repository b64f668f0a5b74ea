import numpy as np
import pytest
from study_folders import isoflop_table

from analysis.config import Form
from analysis.errors import RefusedError
from analysis.parametric.form_comparison import compare_forms
from analysis.parametric.frontier import CostLaw


def compare(table, **choices):
    columns = (table[name].to_numpy(float) for name in ("n_params", "tokens", "loss"))
    return compare_forms(*columns, **choices)


def test_the_form_that_made_the_runs_predicts_them_best():
    result = compare(isoflop_table(noise=0.001, seed=1))
    rows = {row.form: row for row in result.rows}
    assert result.best is Form.chinchilla
    assert rows[Form.chinchilla].held_out_rms == pytest.approx(0.001, rel=0.5)
    assert rows[Form.kaplan].held_out_rms > 2 * rows[Form.chinchilla].held_out_rms
    assert rows[Form.kaplan].ahead_rms > 2 * rows[Form.chinchilla].ahead_rms
    assert result.folds == 10
    assert result.n_ahead == 7
    assert result.ahead_from == pytest.approx(1e20)


def test_held_out_errors_exceed_fitted_ones():
    for row in compare(isoflop_table(noise=0.002)).rows:
        assert row.held_out_rms > row.rms, row.form


def test_the_published_forms_keep_their_order_on_the_published_runs(chinchilla):
    result = compare(chinchilla)
    rows = {row.form: row for row in result.rows}
    assert rows[Form.skaling].objective == pytest.approx(9.5418e-4, rel=2e-5)
    order = sorted(rows.values(), key=lambda row: row.held_out_rms)
    assert [row.form for row in order][:2] == [Form.skaling, Form.chinchilla]


def test_a_form_with_too_many_parameters_is_a_row_with_its_reason():
    table = isoflop_table(noise=0.001).iloc[[0, 8, 13, 20, 24, 33]]
    row = {row.form: row for row in compare(table).rows}[Form.skaling]
    assert "6 usable runs for the surface's 6 parameters" in row.refused
    assert np.isnan(row.held_out_rms)


def test_rows_of_one_run_share_a_fold():
    table = isoflop_table(noise=0.002)
    doubled = table.loc[table.index.repeat(2)]
    codes = np.repeat(np.arange(len(table)), 2)
    together = compare(doubled, clusters=codes).rows[0].held_out_rms
    assert together == pytest.approx(compare(table).rows[0].held_out_rms, rel=1e-6)


def test_exponents_are_read_at_the_cost_of_a_run():
    table = isoflop_table(noise=0.001)
    plain, moved = compare(table), compare(table, cost=CostLaw(40.0, 0.9))
    for one, other in zip(plain.rows, moved.rows, strict=True):
        assert other.a == pytest.approx(one.a / (1 - 0.1 * one.a))
        assert other.held_out_rms == one.held_out_rms


def test_no_runs_are_refused():
    with pytest.raises(RefusedError, match="no runs are left"):
        compare(isoflop_table().iloc[:0])
