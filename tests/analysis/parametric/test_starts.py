import numpy as np
import pytest
from study_folders import isoflop_table

from analysis.config import Form
from analysis.parametric.forms import FORMULAS
from analysis.parametric.starts import MAX_ROWS, find_starts
from analysis.parametric.surface import Points


def points(table):
    logs = [np.log(table[name].to_numpy()) for name in ("n_params", "tokens", "loss")]
    return Points(*(values - values.mean() for values in logs))


@pytest.mark.parametrize("form", list(Form))
def test_starts_are_finite_and_differ(form):
    starts = find_starts(FORMULAS[form], points(isoflop_table()))
    assert starts.shape[1] == FORMULAS[form].n_free
    assert np.isfinite(starts).all()
    assert len(np.unique(starts, axis=0)) == len(starts) >= 3


def test_the_first_start_is_near_the_surface_the_runs_came_from():
    start = find_starts(FORMULAS[Form.chinchilla], points(isoflop_table()))[0]
    assert start[3:] == pytest.approx([0.35, 0.37], rel=0.1)


def test_many_rows_are_thinned_to_as_good_a_start():
    table = isoflop_table(noise=0.001)
    many = table.loc[np.resize(table.index, 2 * MAX_ROWS)]
    start = find_starts(FORMULAS[Form.chinchilla], points(many))[0]
    assert start[3:] == pytest.approx([0.35, 0.37], rel=0.2)
