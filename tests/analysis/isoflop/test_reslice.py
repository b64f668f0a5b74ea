import numpy as np
import pandas as pd
import pytest
from study_folders import optimal_n, surface

from analysis.config import Method
from analysis.errors import RefusedError
from analysis.isoflop.budgets import make_cells
from analysis.isoflop.fit import find_valleys, fit_isoflop
from analysis.isoflop.reslice import reslice

BUDGETS = np.geomspace(1e17, 1e21, 9)


def grid(budgets=BUDGETS):
    """Runs on common sizes at every budget; N counted without a head of 2000 d_model parameters."""
    sizes = np.geomspace(optimal_n(budgets[0]) / 6, optimal_n(budgets[-1]) * 6, 24)
    n, planned = (m.ravel() for m in np.meshgrid(sizes, budgets))
    without = n - 40 * n**0.6
    d = planned / (6 * n)
    loss = surface(without, d)
    return pd.DataFrame(
        {
            "n_params": without,
            "tokens": d,
            "flops": 6 * without * d,
            "loss": loss,
            "planned": planned,
        }
    )


def cells_of(frame):
    cells = make_cells(frame).frame
    planned = frame.set_index(frame["flops"].round(-6))["planned"]
    return cells, planned.loc[cells["flops"].round(-6)].to_numpy(float)


def test_runs_planned_in_one_counting_give_valleys_in_another():
    cells, planned = cells_of(grid())
    cut = reslice(cells, planned)
    sliced = make_cells(cut)
    found = find_valleys(sliced, Method.cubic, 200, 0)
    law = fit_isoflop(found, sliced, 0)
    used = [valley for valley in law.valleys if valley.bracketed]
    assert len(used) >= 5
    for valley in used:
        truth = float(optimal_n(np.array(valley.flops)))
        assert valley.n_opt == pytest.approx(truth, rel=0.002)


def test_a_slice_passes_through_the_runs_it_hits():
    cells, planned = cells_of(grid())
    cut = reslice(cells, planned)
    merged = cut.merge(cells, on=["n_params", "flops"], suffixes=("", "_seen"))
    assert len(merged) >= 5
    assert merged["loss"].to_numpy() == pytest.approx(merged["loss_seen"].to_numpy(), rel=1e-12)
    assert (6 * cut["n_params"] * cut["tokens"]).to_numpy() == pytest.approx(
        cut["flops"].to_numpy(), rel=1e-9
    )


def test_nothing_is_extrapolated():
    cells, planned = cells_of(grid())
    cut = reslice(cells, planned)
    for size, rows in cut.groupby("n_params"):
        seen = cells.loc[cells["n_params"] == size, "flops"]
        assert rows["flops"].between(seen.min() * (1 - 1e-9), seen.max() * (1 + 1e-9)).all()


def test_sizes_trained_to_two_horizons_are_refused_with_the_remedy():
    cells, planned = cells_of(grid(BUDGETS[:2]))
    with pytest.raises(RefusedError, match=r"0 sizes have 3 or more .* more budgets"):
        reslice(cells, planned)


def test_a_cell_at_the_edge_of_its_learning_rates_is_left_out():
    cells, planned = cells_of(grid())
    victim = cells["n_params"].iloc[len(cells) // 2]
    marked = cells.assign(lr_edge=np.where(cells["n_params"] == victim, "lowest", ""))
    assert victim not in set(reslice(marked, planned)["n_params"])
