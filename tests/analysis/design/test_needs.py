"""What a study lacks, and the runs that could be made, on small made-up studies."""

import numpy as np
import pandas as pd
import pytest
from study_folders import TRUTH, isoflop_table, optimal_n

from analysis.config import Method
from analysis.design.candidates import (
    MAX_VALUES,
    WIDEN_FLOPS,
    WIDEN_RATIO,
    WIDEN_SIZE,
    budget_values,
    fit_time,
    is_there,
    propose,
)
from analysis.design.ladder import Ladder, Rung
from analysis.design.needs import budget_needs, seed_needs, valley_needs
from analysis.isoflop.budgets import make_cells
from analysis.isoflop.fit import Valley, find_valleys
from analysis.parametric.frontier import SIX_ND


def valley(n, losses, n_opt, flops=1e18):
    """A valley that is not bracketed."""
    sizes = np.array(n)
    return Valley(
        flops, n_opt, flops / (6 * n_opt), min(losses), False, "open", sizes,
        flops / (6 * sizes), np.array(losses), None, None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("losses", "n_opt", "what", "sizes"),
    [
        ([3.0, 3.1, 3.2, 3.3], 1e8, "smaller sizes", [2.5e7, 5e7]),
        ([3.3, 3.2, 3.1, 3.0], 8e8, "larger sizes", [1.6e9, 3.2e9]),
        ([3.1, 3.0, 3.1, 3.2], 1.9e8, "smaller sizes", [5e7]),
        ([3.2, 3.1, 3.0, 3.1], 4.5e8, "larger sizes", [1.6e9]),
        ([3.2, 3.0, 3.05, 3.2], 2.9e8, "sizes in between", [2e8 / 2**0.5, 2e8 * 2**0.5]),
    ],
)
def test_a_valley_gets_sizes_on_the_side_that_it_lacks(losses, n_opt, what, sizes):
    needs = valley_needs((valley([1e8, 2e8, 4e8, 8e8], losses, n_opt),), SIX_ND, None)
    assert [need.n_params for need in needs] == pytest.approx(sizes)
    assert {need.why for need in needs} == {f"valley 1e18: {what}"}
    for need in needs:
        assert 6 * need.n_params * need.tokens == pytest.approx(1e18)


def test_a_valley_of_three_sizes_gets_one_on_either_side():
    three = valley([1e8, 2e8, 4e8], [3.1, 3.0, 3.1], 2e8)
    # Two sizes lie above, one below.
    needs = valley_needs((three,), SIX_ND, None)
    assert [need.n_params for need in needs] == pytest.approx([5e7])


def test_sizes_are_moved_to_rungs():
    rungs = tuple(Rung(64 + k, n) for k, n in enumerate((4e7, 1e8, 2e8, 4e8, 8e8, 1.5e9, 3e9)))
    ladder = Ladder(rungs, "model", (), (), ())
    open_above = valley([1e8, 2e8, 4e8, 8e8], [3.3, 3.2, 3.1, 3.0], 8e8)
    needs = valley_needs((open_above,), SIX_ND, ladder)
    assert [need.n_params for need in needs] == [1.5e9, 3e9]


def valleys_of(table):
    return find_valleys(make_cells(table), Method.cubic, 100, 0).valleys


def test_one_budget_gets_one_below_and_one_above_around_the_optimum_there():
    table = isoflop_table(budgets=(1e19,), noise=0.0005)
    a = TRUTH["beta"] / (TRUTH["alpha"] + TRUTH["beta"])
    needs = budget_needs(valleys_of(table), a, SIX_ND, None)
    budgets = sorted({need.flops for need in needs})
    assert budgets == pytest.approx([1e19 / 3, 3e19])
    for flops in budgets:
        sizes = [need.n_params for need in needs if need.flops == flops]
        assert len(sizes) == 5
        assert sizes[2] == pytest.approx(float(optimal_n(np.array(flops))), rel=0.1)


def test_enough_budgets_and_none_at_all_need_no_more():
    assert budget_needs(valleys_of(isoflop_table()), 0.5, SIX_ND, None) == []
    assert budget_needs((), None, SIX_ND, None) == []


def test_repeats_stop_where_noise_is_known():
    table = isoflop_table(noise=0.001).assign(seed=0)
    assert len(seed_needs(make_cells(table))) == 3
    some = [table, *(table.iloc[[3]].assign(seed=k, loss=3.0 + 0.01 * k) for k in (1, 2))]
    assert len(seed_needs(make_cells(pd.concat(some, ignore_index=True)))) == 1


def test_candidates_stay_near_the_runs_and_are_none_of_them():
    table = isoflop_table(sizes=5)
    n, d, c = (table[name].to_numpy(float) for name in ("n_params", "tokens", "flops"))
    pool = propose(n, d, c, SIX_ND, None, None)
    assert len(pool.price) > 50
    assert pool.price == pytest.approx(6 * pool.n_params * pool.tokens)
    assert n.min() / WIDEN_SIZE <= pool.n_params.min()
    assert pool.n_params.max() <= n.max() * WIDEN_SIZE * (1 + 1e-9)
    ratio = pool.tokens / pool.n_params
    assert (d / n).min() / WIDEN_RATIO <= ratio.min() <= ratio.max() <= (d / n).max() * WIDEN_RATIO
    assert c.min() * (1 - 1e-9) <= pool.price.min()
    assert pool.price.max() <= c.max() * WIDEN_FLOPS * 1.03
    assert not is_there(pool.n_params, pool.tokens, n, d).any()


def test_budgets_are_those_there_are_and_the_next():
    flops = np.repeat([1e18, 2e18, 4e18], 5)
    assert budget_values(flops) == pytest.approx([1e18, 2e18, 4e18, 8e18, 1.6e19])
    spread = np.geomspace(1e18, 1e20, 40)
    values = budget_values(spread)
    assert len(values) == MAX_VALUES // 2
    assert values[[0, -1]] == pytest.approx([1e18, 4e20])


def test_a_law_of_time_needs_six_rows():
    rng = np.random.default_rng(0)
    n, d = np.exp(rng.uniform(10, 20, 8)), np.exp(rng.uniform(15, 25, 8))
    seconds = 1e-10 * n**0.8 * d * np.exp(0.05 * rng.standard_normal(8))
    law = fit_time(n, d, seconds)
    assert law is not None
    assert (law.by_n, law.by_d) == pytest.approx((0.8, 1.0), abs=0.05)
    assert law.scatter == pytest.approx(0.05, abs=0.03)
    seconds[:3] = [np.nan, 0.0, -1.0]
    assert fit_time(n, d, seconds) is None
