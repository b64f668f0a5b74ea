from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from study_folders import isoflop_table

from analysis.errors import InputError
from analysis.intake.columns import as_numbers, check_columns, with_batch_tokens


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("n_params", "N"),
        ("n_params", "params"),
        ("n_params", "Model Size"),
        ("n_params", "n_params_non_embedding"),
        ("tokens", "D"),
        ("tokens", "training_tokens"),
        ("flops", "C"),
        ("flops", "compute"),
        ("flops", "FLOPs"),
        ("loss", "L"),
        ("loss", "val_loss"),
        ("loss", "Final Loss"),
    ],
)
def test_other_names_are_suggested_and_not_taken(name, other):
    frame = isoflop_table().rename(columns={name: other})
    with pytest.raises(InputError, match=rf"'{name}' is missing; did you mean .*{other}"):
        check_columns(frame)


def test_a_misspelt_name_is_suggested():
    with pytest.raises(InputError, match="'tokens' is missing; did you mean tokns"):
        check_columns(isoflop_table().rename(columns={"tokens": "tokns"}))


def test_a_loss_in_bits_is_no_loss_in_nats():
    frame = isoflop_table().rename(columns={"loss": "bits_per_byte"})
    with pytest.raises(InputError, match=r"'loss' is missing; bits_per_byte is in bits: .* ln 2"):
        check_columns(frame)


def test_missing_flops_say_how_to_make_them():
    with pytest.raises(InputError, match=r"'flops' is missing.*FLOPs are 6 n_params tokens where"):
        check_columns(isoflop_table().drop(columns="flops"))


def test_a_column_that_is_there_twice_is_an_error():
    frame = isoflop_table()
    frame = pd.concat([frame, frame[["loss"]]], axis=1)
    with pytest.raises(InputError, match="column 'loss' is there 2 times"):
        check_columns(frame)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("1,000,000", "thousands separators: 1000000"),
        ("1 000 000", "thousands separators: 1000000"),
        ("45%", "without a percent sign"),
        ("3,14", "decimals with a point: 3.14"),
        ("1.3B", "1.3B as 1.3e9"),
        ("1e18 FLOPs", "plain numbers"),
        ("1_000", "plain numbers"),
    ],
)
def test_a_column_of_numbers_in_words_says_how_to_write_them(text, hint):
    with pytest.raises(InputError, match=rf"'tokens' holds no numbers, .* '{text}'; .*{hint}"):
        as_numbers(isoflop_table().assign(tokens=text))


@pytest.mark.parametrize(
    "value", [True, pd.Timestamp("2026-01-01"), [1.0], {"a": 1}, b"3", 1 + 2j, 10**400]
)
def test_truth_values_dates_and_objects_are_no_numbers(value):
    frame = isoflop_table().assign(loss=pd.Series([value] * 35))
    with pytest.raises(InputError, match="'loss' holds no numbers"):
        as_numbers(frame)


def test_numbers_in_any_type_are_numbers():
    for kind in (str, Decimal, np.float32, "category"):
        frame = isoflop_table()
        frame["loss"] = frame["loss"].map(str).astype("category") if kind == "category" else [
            kind(value) for value in frame["loss"]
        ]  # fmt: skip
        numbers, text = as_numbers(frame)
        assert numbers["loss"].to_numpy() == pytest.approx(isoflop_table()["loss"], rel=1e-6)
        assert not text["loss"].any()


def test_whole_numbers_beyond_64_bits_do_not_wrap():
    frame = isoflop_table()
    frame["flops"] = [10**24 + k for k in range(35)]
    assert as_numbers(frame)[0]["flops"].iloc[0] == 1e24


def test_batches_are_told_from_steps_or_sequences():
    frame = isoflop_table().assign(steps=1000, batch_seqs=8, seq_len=128)
    assert with_batch_tokens(frame)["batch_tokens"].to_numpy() == pytest.approx(
        frame["tokens"] / 1000
    )
    assert (with_batch_tokens(frame.drop(columns="steps"))["batch_tokens"] == 1024).all()
    assert "batch_tokens" not in with_batch_tokens(isoflop_table().assign(batch_seqs=8))
    given = isoflop_table().assign(steps=1000, batch_tokens=5)
    assert (with_batch_tokens(given)["batch_tokens"] == 5).all()
    assert with_batch_tokens(isoflop_table().assign(steps=0))["batch_tokens"].isna().all()


def test_a_column_of_words_is_not_suggested_for_numbers():
    frame = isoflop_table().rename(columns={"n_params": "N"}).assign(param_count="kaplan")
    with pytest.raises(InputError, match=r"did you mean N\? rename it to n_params$"):
        check_columns(frame)


def test_a_table_of_optima_is_told_from_one_of_runs():
    frame = isoflop_table().rename(columns={"n_params": "n_opt", "tokens": "d_opt"})
    with pytest.raises(InputError, match=r"n_opt and d_opt are optima .* give the runs"):
        check_columns(frame)
