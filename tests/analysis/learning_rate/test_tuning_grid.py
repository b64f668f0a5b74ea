"""From runs to grids: what is one (N, D), one setting, one run."""

import numpy as np
import pandas as pd
import pytest
from lr_grids import study

from analysis.errors import RefusedError
from analysis.learning_rate.tuning_grid import make_grids


def runs(*rows, columns="n_params tokens loss lr batch_tokens"):
    return pd.DataFrame(list(rows), columns=columns.split())


def test_runs_whose_tokens_differ_by_rounding_are_one_group():
    frame = runs(
        (10, 2000, 3.1, 1e-3, 64), (10, 2010, 3.0, 2e-3, 64), (10, 1995, 3.2, 4e-3, 64),
        (10, 4000, 2.1, 1e-3, 64), (10, 4000, 2.0, 2e-3, 64), (10, 4000, 2.2, 4e-3, 64),
    )  # fmt: skip
    grids, column, notes = make_grids(frame)
    assert [len(grid.loss) for grid in grids] == [3, 3]
    assert grids[0].tokens == pytest.approx(2001.67, abs=0.01)
    assert grids[0].batch_tokens == 64
    assert (column, notes) == ("loss", ())


def test_the_order_of_rows_does_not_matter():
    frame = study(noise=0.01)
    shuffled = frame.sample(frac=1.0, random_state=0).reset_index(drop=True)
    for one, other in zip(make_grids(frame)[0], make_grids(shuffled)[0], strict=True):
        np.testing.assert_allclose(one.settings, other.settings)
        np.testing.assert_allclose(one.loss, other.loss)


def test_seeds_of_a_setting_are_averaged_and_measure_noise():
    names = "n_params tokens loss lr seed"
    frame = runs(
        (10, 2000, 3.10, 1e-3, 0), (10, 2000, 3.00, 2e-3, 0), (10, 2000, 3.02, 2e-3, 1),
        (10, 2000, 3.20, 4e-3, 0), columns=names,
    )  # fmt: skip
    (grid,) = make_grids(frame)[0]
    assert grid.settings.shape == (3, 1)
    assert grid.loss[1] == pytest.approx(np.sqrt(3.00 * 3.02))
    assert grid.seed_freedom == 1
    assert grid.seed_squares == pytest.approx(0.5 * np.log(3.02 / 3.00) ** 2)
    assert np.isnan(grid.batch_tokens)


def test_a_checkpoint_is_no_run_of_its_own():
    names = "n_params tokens loss lr run_id"
    last = [(10, 2000, 3.1, 1e-3, "a"), (10, 2000, 3.0, 2e-3, "b"), (10, 2000, 3.2, 4e-3, "c")]
    early = [(10, 1000, 4.0, 1e-3, "a"), (10, 1000, 4.1, 2e-3, "b"), (10, 1000, 4.2, 4e-3, "c")]
    grids, _, _ = make_grids(runs(*early, *last, columns=names))
    assert [grid.tokens for grid in grids] == [2000]


def test_two_batches_are_no_axis_and_the_better_one_is_kept():
    frame = study([(1e8, 4e9)], batches=3)
    two = frame[frame["batch_tokens"] < frame["batch_tokens"].max()]
    (grid,) = make_grids(two)[0]
    assert grid.settings.shape == (9, 1)
    assert grid.batch_tokens == pytest.approx(two["batch_tokens"].max())


def test_batches_that_differ_by_rounding_of_steps_are_one():
    frame = study([(1e8, 4e9)], batches=3)
    frame["batch_tokens"] *= 1.0 + 0.002 * np.arange(len(frame)) / len(frame)
    (grid,) = make_grids(frame)[0]
    assert grid.settings.shape == (27, 2)
    assert len(np.unique(grid.settings[:, 1])) == 3


def test_sequences_give_the_batch_without_the_rounding_of_steps():
    frame = study([(1e8, 4e9)], batches=3)
    order = frame["batch_tokens"].rank(method="dense").to_numpy()
    frame["batch_seqs"] = 32 * 2.0**order
    frame["batch_tokens"] = 2048.0 * frame["batch_seqs"] * (1 + 0.0005 * (order - 2))
    (grid,) = make_grids(frame)[0]
    np.testing.assert_allclose(np.exp(np.unique(grid.settings[:, 1])), [131072, 262144, 524288])


def test_the_smoothed_loss_is_preferred_and_said_so():
    frame = study([(1e8, 4e9)])
    frame["loss_smooth"] = frame["loss"] * 0.99
    (grid,), column, notes = make_grids(frame)
    assert column == "loss_smooth"
    assert grid.loss.min() == pytest.approx(frame["loss_smooth"].min())
    assert notes == ("Column loss_smooth stands for loss: a last training loss jitters.",)
    frame.loc[3, "loss_smooth"] = np.nan
    assert make_grids(frame)[1] == "loss"


def test_runs_without_a_learning_rate_and_poor_groups_are_counted():
    frame = pd.concat([study([(1e8, 4e9)]), study([(2e8, 4e9)]).head(2)], ignore_index=True)
    frame.loc[[0, 5], "lr"] = np.nan
    grids, _, notes = make_grids(frame)
    assert len(grids[0].loss) == 61
    assert notes == (
        "2 runs without a learning rate are not used.",
        "1 (N, D) with fewer than 3 learning rates are not used.",
    )


def test_a_set_up_that_varies_is_noted():
    frame = study([(1e8, 4e9)])
    frame["schedule"] = np.where(frame.index % 2, "cosine", "wsd")
    frame["beta2"] = 0.95
    assert make_grids(frame)[2] == (
        "Column schedule takes 2 values (cosine, wsd): it shifts the best learning rate; choose "
        'with where="schedule=cosine".',
    )


def test_a_table_without_learning_rates_is_refused():
    frame = study([(1e8, 4e9)])
    for poor in (frame.drop(columns="lr"), frame.assign(lr=np.nan), frame.assign(lr=0.0)):
        with pytest.raises(RefusedError, match=r"no learning rates \(column lr\); add them"):
            make_grids(poor)


def test_one_learning_rate_per_size_is_refused():
    frame = study().drop_duplicates(["n_params", "tokens"])
    with pytest.raises(RefusedError, match=r"none of 9 \(N, D\) was trained at 3 or more .*twice"):
        make_grids(frame)


def test_losses_that_nothing_explains_are_refused():
    frame = study([(1e8, 4e9)]).drop(columns="batch_tokens")
    frame["lr"] = frame["lr"].round(9)
    told = (
        r"7 runs of N = 1e\+08, D = 4e\+09 at learning rate .* and nothing tells them apart; "
        r"add the column batch_tokens or seed"
    )
    with pytest.raises(RefusedError, match=told):
        make_grids(frame)


def test_near_divergence_runs_may_differ_by_any_amount():
    frame = study([(1e8, 4e9)], batches=1)
    hot = frame.loc[[8]].assign(loss=2.0 * frame["loss"].min())
    again = hot.assign(loss=2.5 * frame["loss"].min())
    (grid,) = make_grids(pd.concat([frame.drop(index=8), hot, again]))[0]
    assert len(grid.loss) == 9


def test_text_for_seeds_and_batches_of_nothing_are_unknown():
    frame = study([(1e8, 4e9)], batches=1).assign(seed="first", batch_tokens=0.0)
    (grid,) = make_grids(frame)[0]
    assert np.isnan(grid.batch_tokens)
    assert grid.seed_freedom == 0


def test_a_table_without_learning_rates_as_published_is_refused(published):
    with pytest.raises(RefusedError, match="no learning rates"):
        make_grids(published("porian_isoflop.csv"))
