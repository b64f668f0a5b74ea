import numpy as np
import pytest

from analysis import bootstrap
from analysis.bootstrap import percentile_interval, resample_counts, resample_weights


def test_every_resample_draws_as_many_rows_as_there_are():
    counts = np.concatenate(list(resample_counts(7, 50, seed=0)))
    assert counts.shape == (50, 7)
    assert (counts.sum(axis=1) == 7).all()


def test_resamples_do_not_depend_on_the_batch(monkeypatch):
    whole = np.concatenate(list(resample_counts(7, 50, seed=0)))
    monkeypatch.setattr(bootstrap, "ELEMENTS_PER_BATCH", 21)
    parts = list(resample_counts(7, 50, seed=0))
    assert len(parts) == 17
    assert (np.concatenate(parts) == whole).all()


def test_checkpoints_of_one_run_are_drawn_together():
    clusters = np.array([7, 7, 7, 1, 2, 2])
    counts = np.concatenate(list(resample_counts(6, 200, seed=0, clusters=clusters)))
    assert (counts[:, 0] == counts[:, 1]).all()
    assert (counts[:, 0] == counts[:, 2]).all()
    assert (counts[:, 4] == counts[:, 5]).all()
    assert (counts[:, [0, 3, 4]].sum(axis=1) == 3).all()
    assert len(np.unique(counts[:, [0, 3, 4]], axis=0)) == 10  # all ways to draw 3 of 3


def test_rows_that_are_their_own_clusters_are_drawn_as_rows():
    plain = np.concatenate(list(resample_counts(7, 50, seed=3)))
    own = np.concatenate(list(resample_counts(7, 50, seed=3, clusters=np.arange(7))))
    assert (plain == own).all()


def test_interval_leaves_two_and_a_half_percent_on_each_side():
    draws = np.append(np.arange(1001.0), np.nan)
    assert percentile_interval(draws) == pytest.approx((25.0, 975.0))


def test_interval_of_a_few_runs_is_expanded_by_students_t():
    # t(.975, 15) = 2.13145 and sqrt(20 / 15) make 2.46119 normal sds, below which lie .692393 %.
    draws = np.arange(100_001.0)
    low, high = percentile_interval(draws, n=20, parameters=5)
    assert low == pytest.approx(692.4, abs=0.1)
    assert high == pytest.approx(100_000 - 692.4, abs=0.1)


def test_expansion_vanishes_with_many_runs():
    draws = np.arange(1001.0)
    assert percentile_interval(draws, n=10**7) == pytest.approx((25.0, 975.0), abs=0.01)


def test_mean_of_six_normal_values_is_covered_as_often_as_promised():
    rng = np.random.default_rng(0)
    hits, plain = 0, 0
    weights = np.concatenate(list(resample_counts(6, 1000, seed=1))) / 6
    for sample in rng.standard_normal((1000, 6)):
        means = weights @ sample
        low, high = percentile_interval(means, n=6)
        hits += low < 0 < high
        low, high = percentile_interval(means)
        plain += low < 0 < high
    assert plain < 900
    assert 920 < hits < 980


def test_interval_without_freedom_is_refused():
    with pytest.raises(ValueError, match="n=5 is not above parameters=5"):
        percentile_interval(np.arange(9.0), n=5, parameters=5)


def test_weights_leave_no_run_out_and_have_mean_1_and_the_variance_of_counts():
    weights = np.concatenate(list(resample_weights(50, 4000, 0)))
    assert weights.shape == (4000, 50)
    assert weights.min() > 0
    assert weights.mean(axis=1) == pytest.approx(np.ones(4000))
    # (n - 1) / (n + 1) of a Dirichlet against (n - 1) / n of a multinomial; 200,000 draws
    assert weights.var() == pytest.approx(49 / 51, rel=0.03)


def test_rows_of_a_run_share_its_weight():
    clusters = np.array([7, 3, 7, 3, 9])
    weights = np.concatenate(list(resample_weights(5, 100, 0, clusters)))
    assert (weights[:, 0] == weights[:, 2]).all()
    assert (weights[:, 1] == weights[:, 3]).all()
    assert weights[:, [0, 1, 4]].sum(axis=1) == pytest.approx(np.full(100, 3.0))
