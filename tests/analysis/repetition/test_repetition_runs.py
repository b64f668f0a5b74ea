"""Which runs repeat data, and refusals where they cannot say what repeats are worth."""

import numpy as np
import pandas as pd
import pytest
from repeated import repeated_table

from analysis.errors import RefusedError
from analysis.repetition import runs as repetition_runs
from analysis.repetition.runs import (
    epochs_seen,
    family_codes,
    repeated_rows,
    repetition_note,
    usable_runs,
)


def test_runs_of_more_than_four_epochs_are_marked():
    frame = repeated_table(epochs=(1, 4, 4.5, 16), sizes=(1e8,), unique=(1e9,))
    assert repeated_rows(frame).tolist() == [False, False, True, True]
    assert repeated_rows(frame, 1.0).tolist() == [False, True, True, True]
    assert not repeated_rows(frame.drop(columns="unique_tokens")).any()
    frame.loc[3, "unique_tokens"] = np.nan
    assert repeated_rows(frame).tolist() == [False, False, True, False]


def test_the_note_says_how_much_is_repeated():
    table = repeated_table(sizes=(1e8,), unique=(1e9,))
    many = repetition_note(table)
    assert many is not None
    assert many.startswith("2 of 4 runs saw their data more than 4 times: ")
    few = repetition_note(table[table["tokens"] <= 4e9])
    assert few is not None
    assert few.startswith("1 of 2 runs repeat data, none more than 4 times; ")
    assert repetition_note(table[table["tokens"] <= 1e9]) is None
    assert repetition_note(table.drop(columns="unique_tokens")) is None


@pytest.mark.parametrize("unique", [None, np.nan, "none"])
def test_no_unique_tokens_are_refused(unique):
    frame = repeated_table().drop(columns="unique_tokens")
    if unique is not None:
        frame["unique_tokens"] = unique
    with pytest.raises(RefusedError, match=r"no unique_tokens.*add that column"):
        usable_runs(frame, 0)


def test_nothing_repeated_is_refused_with_the_runs_to_add():
    with pytest.raises(RefusedError, match=r"no run repeats data.*at most 1; add runs of 4, 16"):
        usable_runs(repeated_table(epochs=(1, 0.5)), 0)


@pytest.mark.parametrize(
    ("epochs", "sizes", "what"),
    [
        ((1, 4, 16), (1e8,), "5 runs repeat data, at 2 numbers of epochs"),
        ((1, 4), (1e8, 2e8, 4e8), "8 runs repeat data, at 1 numbers of epochs"),
    ],
)
def test_few_repeats_are_refused(epochs, sizes, what):
    frame = repeated_table(epochs=epochs, sizes=sizes).iloc[:-1]
    with pytest.raises(RefusedError, match=what):
        usable_runs(frame, 0)


def test_fewer_runs_than_parameters_ask_for_are_refused():
    frame = repeated_table(epochs=(4, 16, 64), sizes=(1e8,))
    with pytest.raises(RefusedError, match=r"9 usable runs for 7 parameters; at least 10"):
        usable_runs(frame, 0)


def test_rows_without_unique_tokens_are_left_out_and_counted():
    frame = repeated_table()
    frame.loc[:2, "unique_tokens"] = np.nan
    runs, notes = usable_runs(frame, 0)
    assert len(runs) == len(frame) - 3
    assert notes == ("3 rows without unique_tokens are left out.",)


def test_of_very_many_rows_a_sample_of_whole_families_is_fitted(monkeypatch):
    frame = repeated_table()
    monkeypatch.setattr(repetition_runs, "MAX_RUNS", 30)
    runs, notes = usable_runs(frame, 0)
    assert 30 <= len(runs) < len(frame)
    assert notes == (f"Repetition is fitted to {len(runs)} of 60 rows, drawn at random.",)
    kept = runs[epochs_seen(runs) > 1].groupby(["n_params", "unique_tokens"]).size()
    assert (kept == 3).all()
    pd.testing.assert_frame_equal(runs, usable_runs(frame, 0)[0])


def test_families_are_repeated_runs_of_one_size_on_the_same_tokens_and_one_run_s_rows():
    frame = repeated_table(epochs=(1, 4, 16), sizes=(1e8, 2e8), unique=(1e9,))
    assert family_codes(frame).tolist() == [0, 1, 1, 2, 3, 3]
    frame["run_id"] = ["a", "b", "c", "a", "d", "e"]
    assert family_codes(frame).tolist() == [0, 1, 1, 0, 2, 2]
