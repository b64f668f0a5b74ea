import numpy as np
import pytest
from study_folders import TRUTH, isoflop_table

from analysis.config import Convention
from analysis.errors import RefusedError
from analysis.parametric.fit import fit_surface
from analysis.scrutiny.countings import countings_of, curves_by_counting
from analysis.scrutiny.pearce import PEARCE


def test_a_table_of_runs_gives_its_own_curves_in_both_countings():
    table = isoflop_table()
    n_e = table["n_params"].to_numpy()
    table["n_params_non_embedding"], table["n_params_total"] = n_e, PEARCE.total(n_e)
    own = TRUTH["beta"] / (TRUTH["alpha"] + TRUTH["beta"])
    for convention, column in (
        (Convention.kaplan, "n_params_non_embedding"),
        (Convention.total, "n_params_total"),
    ):
        counted = table.assign(n_params=table[column])
        by_n, by_d = 480 / counted["n_params"] ** 0.35, 2100 / counted["tokens"] ** 0.37
        loss = (1.8 + by_n + by_d).to_numpy()
        fit = fit_surface(counted["n_params"].to_numpy(), counted["tokens"].to_numpy(), loss)
        (small, large), _ = curves_by_counting(fit, counted, convention)
        assert small.n_opt[[0, -1]] == pytest.approx([n_e.min(), n_e.max()])
        assert large.n_opt == pytest.approx(PEARCE.total(small.n_opt), rel=1e-3)
        flat = small if convention is Convention.kaplan else large
        np.testing.assert_allclose(flat.a, own, rtol=1e-5)
        assert (small.a > large.a).all()


def test_a_table_without_the_columns_is_told_which():
    table = isoflop_table().assign(n_params_total=1e9)
    fit = fit_surface(*(table[name].to_numpy(float) for name in ("n_params", "tokens", "loss")))
    with pytest.raises(RefusedError, match="n_params_non_embedding and n_params_total for every"):
        curves_by_counting(fit, table, Convention.total)


def fitted(table):
    return fit_surface(*(table[name].to_numpy(float) for name in ("n_params", "tokens", "loss")))


def test_a_table_that_does_not_say_is_read_with_the_published_relation():
    table = isoflop_table()
    found = countings_of(fitted(table), table, Convention.standard)
    assert found.published
    assert found.embedding is PEARCE
    small, large = found.curves
    ends = [table["n_params"].min(), table["n_params"].max()]
    assert large.n_opt[[0, -1]] == pytest.approx(ends, rel=1e-9)
    assert PEARCE.total(small.n_opt) == pytest.approx(large.n_opt, rel=1e-9)
    own = TRUTH["beta"] / (TRUTH["alpha"] + TRUTH["beta"])
    np.testing.assert_allclose(large.a, own, rtol=1e-5)
    assert (np.diff(small.a) < 0).all()


def test_a_table_with_its_own_columns_is_read_with_them():
    table = isoflop_table()
    table["n_params_non_embedding"] = table["n_params"] - 3e5 * table["n_params"] ** 0.25
    found = countings_of(fitted(table), table, Convention.standard)
    assert not found.published
    assert found.curves[0].n_opt[-1] == pytest.approx(table["n_params_non_embedding"].max())


def test_columns_that_do_not_differ_are_refused_not_replaced_by_the_published_relation():
    table = isoflop_table()
    table["n_params_non_embedding"] = table["n_params"]
    with pytest.raises(RefusedError, match="n_params_total"):
        countings_of(fitted(table), table, Convention.standard)
