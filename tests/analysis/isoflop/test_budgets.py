import numpy as np
import pandas as pd
import pytest
from study_folders import isoflop_table

from analysis.errors import RefusedError
from analysis.isoflop.budgets import group_budgets, make_cells, split_budgets


def runs(*rows):
    names = ["n_params", "tokens", "flops", "loss", "lr", "seed"]
    return pd.DataFrame([dict(zip(names, row, strict=True)) for row in rows])


def test_runs_within_two_percent_share_a_budget():
    flops = np.array([1e13, 1.005e12, 1e12, 0.995e12, 1.003e13])
    assert group_budgets(flops).tolist() == [1, 0, 0, 0, 1]


def test_compute_that_varies_continuously_is_no_budget():
    flops = np.append(np.geomspace(1e12, 2e12, 200), 1e14)
    assert group_budgets(flops).tolist() == [-1] * 200 + [0]


def test_a_cell_is_the_best_learning_rate_of_means_over_seeds():
    cells = make_cells(
        runs(
            (10, 20, 1200, 3.0, 0.1, 0),
            (10, 20, 1200, 3.4, 0.1, 1),
            (10, 20, 1200, 3.1, 0.2, 0),
            (10, 20, 1200, 3.1, 0.2, 1),
        )
    )
    assert cells.frame["loss"].tolist() == pytest.approx([3.1])
    assert cells.best.tolist() == [False, False, True, True]
    assert cells.seed_freedom == 1
    assert cells.lr_tried == 2


def test_a_best_learning_rate_on_the_edge_of_three_is_marked_and_not_used():
    cells = make_cells(
        runs(*((10, 20, 1200, loss, lr, 0) for loss, lr in ((3.0, 0.1), (3.1, 0.2), (3.3, 0.4))))
    )
    assert cells.frame["lr_edge"].tolist() == ["lowest"]
    assert not cells.best.any()


def test_a_bracketed_learning_rate_is_used():
    cells = make_cells(
        runs(*((10, 20, 1200, loss, lr, 0) for loss, lr in ((3.2, 0.1), (3.1, 0.2), (3.3, 0.4))))
    )
    assert cells.frame["lr_edge"].tolist() == [""]
    assert cells.best.tolist() == [False, True, False]


def test_one_size_at_two_token_counts_is_two_cells():
    assert len(make_cells(runs((10, 20, 1200, 3, 1, 0), (10, 40, 2400, 2, 1, 0))).frame) == 2


def test_repeats_that_are_not_known_to_be_seeds_say_nothing_about_noise():
    frame = runs((10, 20, 1200, 3.0, 1, 0), (10, 20, 1200, 3.2, 1, 0))
    assert make_cells(frame).seed_freedom == 0


def test_runs_whose_best_learning_rates_are_all_at_an_end_are_refused_for_that():
    table = isoflop_table()
    tried = [table.assign(lr=lr, loss=table["loss"] * (1.1 - 20 * lr)) for lr in (1e-3, 2e-3, 4e-3)]
    cells = make_cells(pd.concat(tried, ignore_index=True))
    assert not cells.best.any()
    said = r"of 35 of 35 .* at an end of those tried: 35 at the highest \(add higher ones\)"
    with pytest.raises(RefusedError, match=said):
        split_budgets(cells.frame)
