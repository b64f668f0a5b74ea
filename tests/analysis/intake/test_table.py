import numpy as np
import pandas as pd
import pytest
from study_folders import isoflop_table

from analysis.errors import InputError
from analysis.intake.load import load_table
from analysis.intake.table import in_table_order, screen
from analysis.intake.units import check_units
from train.storage.records import RUNS_TABLE_COLUMNS


@pytest.fixture
def save(tmp_path):
    def write(frame, name="runs.csv"):
        path = tmp_path / name
        frame.to_csv(path, index=False) if name.endswith("csv") else frame.to_parquet(path)
        return path

    return write


def load(path, where=None, allow_incomplete=False):
    return load_table(path, where=where, allow_incomplete=allow_incomplete)


def reasons(table):
    return {item.run_id: item.reason for item in table.excluded}


@pytest.mark.parametrize("name", ["runs.csv", "runs.parquet"])
def test_four_columns_are_enough(save, name):
    table = load(save(isoflop_table(), name))
    assert len(table.frame) == 35
    assert table.excluded == ()
    assert len(table.sha256) == 64


def test_unusable_values_exclude_their_row_by_name_and_value(save):
    frame = isoflop_table()
    frame.loc[0, "loss"] = np.nan
    frame.loc[1, "tokens"] = -5.0
    frame.loc[2, "flops"] = np.inf
    frame.loc[3, "n_params"] = 0.0
    table = load(save(frame))
    assert reasons(table) == {
        "row 1": "nonfinite",
        "row 2": "nonpositive",
        "row 3": "nonfinite",
        "row 4": "nonpositive",
    }
    assert table.excluded[1].detail == "tokens = -5"
    assert len(table.frame) == 31
    assert table.n_rows == 35


def test_a_repeated_row_is_excluded_once(save):
    frame = isoflop_table()
    assert reasons(load(save(pd.concat([frame, frame.iloc[[4]]])))) == {"row 36": "duplicate"}


def test_a_repeated_run_id_is_excluded_even_with_other_numbers(save):
    frame = isoflop_table().assign(run_id=[f"r{k}" for k in range(35)])
    frame.loc[7, "run_id"] = "r6"
    assert reasons(load(save(frame))) == {"r6": "duplicate"}


def test_states_exclude_rows_and_unfinished_ones_stop_the_fit(save):
    frame = isoflop_table().assign(state="completed")
    frame.loc[0, "state"] = "diverged"
    assert reasons(load(save(frame))) == {"row 1": "diverged"}
    frame.loc[1, "state"] = "running"
    with pytest.raises(
        InputError, match=r"1 of 35 runs .* incomplete \(row 2\).* same train command"
    ):
        load(save(frame))
    table = load(save(frame), allow_incomplete=True)
    assert reasons(table)["row 2"] == "incomplete"
    assert "INCOMPLETE: 1 of 35" in table.stamp


def test_the_filter_excludes_by_name(save):
    table = load(save(isoflop_table()), where="flops<5e19")
    assert set(reasons(table).values()) == {"filtered"}
    assert len(table.frame) == 28


def test_a_filter_that_keeps_nothing_is_an_error(save):
    with pytest.raises(InputError, match="where='flops<1' keeps none of 35 rows"):
        load(save(isoflop_table()), where="flops<1")


def test_a_misnamed_column_suggests_the_near_one(save):
    frame = isoflop_table().rename(columns={"n_params": "params", "loss": "Loss"})
    with pytest.raises(InputError, match="'n_params' is missing; did you mean params"):
        load(save(frame))
    with pytest.raises(InputError, match="'loss' is missing; did you mean Loss"):
        load(save(frame))


def test_a_column_of_words_is_an_error(save):
    with pytest.raises(InputError, match="'tokens' holds no numbers, its first value is 'many'"):
        load(save(isoflop_table().assign(tokens="many")))


@pytest.mark.parametrize(("rows", "message"), [(0, "0 rows"), (1, "1 usable of 1 rows")])
def test_tables_of_no_or_one_row_are_errors(save, rows, message):
    with pytest.raises(InputError, match=message):
        load(save(isoflop_table().iloc[:rows]))


@pytest.mark.parametrize(
    ("column", "factor", "ratio"),
    [("flops", 1e-3, "1e[+]03"), ("tokens", 1e-3, "0.001"), ("n_params", 1e3, "1e[+]03")],
)
def test_units_off_by_a_thousand_name_the_ratio(save, column, factor, ratio):
    frame = isoflop_table()
    frame[column] *= factor
    with pytest.raises(InputError, match=f"6 n_params tokens / flops is {ratio}"):
        load(save(frame))


def test_parameters_in_millions_are_caught_by_tokens_per_parameter():
    frame = isoflop_table().assign(run_id="r")
    frame["n_params"] /= 1e6
    with pytest.raises(InputError, match=r"tokens / n_params is 2.*e[+]07"):
        check_units(frame)


def test_one_row_in_other_units_is_named(save):
    frame = isoflop_table()
    frame.loc[9, "tokens"] *= 1000
    with pytest.raises(InputError, match=r"row 10: 6 n_params tokens / flops is 1e[+]03"):
        load(save(frame))


def test_counting_only_forward_flops_is_noted():
    frame = isoflop_table().assign(run_id="r")
    frame["flops"] /= 3
    assert "forward and backward" in check_units(frame)[0]


def test_a_loss_that_cannot_be_nats_per_token_is_noted():
    frame = isoflop_table().assign(run_id="r", loss=lambda f: np.exp(f["loss"] * 2))
    assert "read as nats per token" in check_units(frame)[0]


def test_two_experiments_in_one_table_are_an_error_that_says_how_to_choose(save):
    frame = isoflop_table().assign(dataset=["rw", "owt"] * 17 + ["rw"])
    with pytest.raises(InputError, match=r'dataset takes 2 values .* where="dataset=rw"'):
        load(save(frame))


def test_other_columns_of_words_that_vary_are_noted(save):
    frame = isoflop_table().assign(decay=["cosine", "wsd"] * 17 + ["wsd"])
    assert "Column decay takes 2 values" in load(save(frame)).notes[0]


def test_files_that_are_no_tables_are_errors(tmp_path, save):
    save(isoflop_table(), "good.csv")
    with pytest.raises(InputError, match=r"no file .*goood.csv; did you mean good.csv"):
        load(tmp_path / "goood.csv")
    with pytest.raises(InputError, match=r"is a folder; .* study="):
        load(tmp_path)
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(InputError, match="is empty"):
        load(tmp_path / "empty.csv")
    (tmp_path / "noise.parquet").write_bytes(b"\x00\x01junk")
    with pytest.raises(InputError, match="cannot be read as parquet"):
        load(tmp_path / "noise.parquet")
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00n_params,\x80")
    with pytest.raises(InputError, match=r"bytes.csv"):
        load(tmp_path / "bytes.csv")
    (tmp_path / "runs.txt").write_text("n_params")
    with pytest.raises(InputError, match=r"'\.txt' is not a kind of table.*with commas"):
        load(tmp_path / "runs.txt")


def test_the_written_table_has_the_contract_s_columns_first():
    usable, _ = screen(isoflop_table().assign(extra=1), None)
    columns = list(in_table_order(usable).columns)
    assert columns == [*RUNS_TABLE_COLUMNS, "extra"]


def test_states_of_other_trainers_are_understood():
    frame = isoflop_table()
    states = ["finished"] * len(frame)
    states[1:6] = ["Diverged", "NaN ", "OOM", "crashed", "in progress"]
    usable, excluded = screen(frame.assign(state=states), None)
    assert [item.reason for item in excluded] == [
        "diverged", "diverged", "failed", "incomplete", "incomplete",
    ]  # fmt: skip
    assert set(usable["state"]) == {"completed"}


def test_a_row_without_a_state_is_used():
    states = [None, "", "completed"] + ["completed"] * (len(isoflop_table()) - 3)
    assert screen(isoflop_table().assign(state=states), None)[1] == []


def test_a_state_that_nobody_knows_is_an_error_with_the_nearest_word():
    frame = isoflop_table()
    states = ["complted"] * 2 + ["completed"] * (len(frame) - 2)
    with pytest.raises(InputError, match=r"'complted' in 2 rows; did you mean completed .*rename"):
        screen(frame.assign(state=states), None)


def test_a_loss_above_that_of_guessing_is_a_diverged_run():
    frame = isoflop_table()
    frame.loc[3, "loss"] = 34.6
    _, excluded = screen(frame, None)
    assert [(item.run_id, item.reason) for item in excluded] == [("row 4", "diverged")]
    assert excluded[0].detail.startswith("loss = 34.6, above 15 nats per token")


def test_losses_that_are_all_above_a_guess_are_left_to_the_units_check():
    frame = isoflop_table()
    assert screen(frame.assign(loss=frame["loss"] * 1e3), None)[1] == []
