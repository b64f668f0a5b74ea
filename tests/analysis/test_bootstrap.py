from typing import Any

import numpy as np
import pytest

from analysis import bootstrap
from analysis.bootstrap import percentile_interval, resample_counts


def test_every_resample_draws_as_many_rows_as_there_are() -> None:
    counts = np.concatenate(list(resample_counts(7, 50, seed=0)))
    assert counts.shape == (50, 7)
    assert (counts.sum(axis=1) == 7).all()


def test_resamples_do_not_depend_on_the_batch(monkeypatch: Any) -> None:
    whole = np.concatenate(list(resample_counts(7, 50, seed=0)))
    monkeypatch.setattr(bootstrap, "ELEMENTS_PER_BATCH", 21)
    parts = list(resample_counts(7, 50, seed=0))
    assert len(parts) == 17
    assert (np.concatenate(parts) == whole).all()


def test_interval_leaves_two_and_a_half_percent_on_each_side() -> None:
    draws = np.append(np.arange(1001.0), np.nan)
    assert percentile_interval(draws) == pytest.approx((25.0, 975.0))
