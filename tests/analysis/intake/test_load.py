import time
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from study_folders import isoflop_table

from analysis.errors import AnalysisError, InputError
from analysis.intake.load import load_table


def load(path, **options):
    return load_table(path, **{"where": None, "allow_incomplete": False, **options})


def save(folder, frame, name="runs.csv"):
    path = folder / name
    frame.to_csv(path, index=False) if name.endswith("csv") else frame.to_parquet(path)
    return path


def reasons(table):
    return {item.run_id: (item.reason, item.detail) for item in table.excluded}


def test_a_byte_order_mark_and_spaces_after_commas_do_no_harm(tmp_path):
    path = tmp_path / "runs.csv"
    text = isoflop_table().to_csv(index=False).replace(",", ", ")
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert load(path).frame["n_params"].to_numpy() == pytest.approx(isoflop_table()["n_params"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace(",", ";"), "columns are separated by semicolons; write it with"),
        (lambda text: text.replace(",", "\t"), "columns are separated by tabs"),
        (lambda text: text.replace(",", " "), "columns are separated by spaces"),
        (lambda text: "# mine\n" + text, "first line is a comment, '# mine'; the first line must"),
        (lambda text: '{"a":1}', "the first line is '{\"a\":1}'; the first line must name"),
        (lambda text: text.replace("tokens", "loss", 1), "column 'loss' is there twice"),
        (lambda text: text.replace("\n", ",\n").replace(",\n", "\n", 1), "1 more values than"),
        (lambda text: text.replace("\n", ",9,9\n").replace(",9,9", "", 1), "2 more values than"),
        (lambda text: text + "1,2,3,4,5\n", "Expected 4 fields in line 37, saw 5"),
        (lambda text: text.split("\n", 1)[1], "it must name the columns n_params, tokens"),
        (lambda text: text.split("\n", 1)[0] + "\n", "0 rows"),
        (lambda text: "\n\n" + text[:0], "is empty"),
        (lambda text: text + '"1', "EOF inside string"),
    ],
)
def test_files_that_are_not_quite_tables_say_why(tmp_path, change, message):
    path = tmp_path / "runs.csv"
    path.write_text(change(isoflop_table().to_csv(index=False)))
    with pytest.raises(InputError, match=rf"runs.csv.*{message}"):
        load(path)


@pytest.mark.parametrize(
    ("name", "hint"),
    [("runs.csv.gz", "unpack"), ("runs.xlsx", "as CSV"), ("runs", "no suffix; give a .csv or")],
)
def test_other_files_say_what_to_do_with_them(tmp_path, name, hint):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(InputError, match=hint):
        load(tmp_path / name)


def test_an_address_is_not_taken_for_a_path():
    with pytest.raises(InputError, match=r"is an address; download it"):
        load(Path("https://example.org/runs.csv"))


def test_other_encodings_are_errors(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_bytes(isoflop_table().to_csv(index=False).encode("utf-16"))
    with pytest.raises(InputError, match="cannot be read as csv: it is not UTF-8 text"):
        load(path)


def test_what_is_no_regular_file_is_an_error(tmp_path):
    (tmp_path / "pipe.csv").symlink_to("/dev/null")
    with pytest.raises(InputError, match="is not a regular file"):
        load(tmp_path / "pipe.csv")


def test_text_in_a_row_excludes_it_and_is_shown(tmp_path):
    frame = isoflop_table().astype(object)
    frame.loc[0, "tokens"] = "1,000"
    frame.loc[1, "loss"] = "3.2%"
    frame.loc[2, "loss"] = None
    table = load(save(tmp_path, frame))
    assert reasons(table) == {
        "row 1": ("nonnumeric", "tokens = '1,000'"),
        "row 2": ("nonnumeric", "loss = '3.2%'"),
        "row 3": ("nonfinite", "loss = nan"),
    }
    assert len(table.frame) == 32


def test_the_order_of_rows_does_not_matter(tmp_path):
    frame = isoflop_table().assign(run_id=[f"r{k}" for k in range(35)])
    frame.loc[3, "loss"] = -1.0
    table = load(save(tmp_path, frame))
    mixed = load(save(tmp_path, frame.sample(frac=1, random_state=0)))
    assert reasons(mixed) == reasons(table) == {"r3": ("nonpositive", "loss = -1")}
    pd.testing.assert_frame_equal(
        mixed.frame.sort_values("run_id", ignore_index=True),
        table.frame.sort_values("run_id", ignore_index=True),
    )


def test_unfinished_runs_are_listed_with_their_state(tmp_path):
    frame = isoflop_table().assign(state="completed")
    frame.loc[[1, 2], "state"] = "running"
    frame.loc[4, "state"] = "preempted"
    frame.loc[5, "state"] = "failed"
    path = save(tmp_path, frame)
    with pytest.raises(
        InputError, match=r"3 of 35 .*\(row 2, row 3\): state is running; \(row 5\): state is pre"
    ):
        load(path)
    table = load(path, allow_incomplete=True)
    assert [item.reason for item in table.excluded] == ["incomplete"] * 3 + ["failed"]


def test_too_few_usable_rows_say_what_became_of_the_others(tmp_path):
    frame = isoflop_table().iloc[:3].assign(state=["diverged", "completed", "completed"])
    frame["loss"] = frame["loss"].where(frame.index != 1, -2.0)
    with pytest.raises(InputError, match=r"1 usable of 3 rows .*row 1: diverged; row 2: loss = -2"):
        load(save(tmp_path, frame))


def checkpoints():
    """Ten checkpoints of each of seven runs."""
    frame = isoflop_table(budgets=(1e19,)).assign(run_id=[f"r{k}" for k in range(7)])
    parts = [
        frame.assign(
            tokens=frame["tokens"] * share,
            flops=frame["flops"] * share,
            loss=frame["loss"] * share**-0.05,
        )
        for share in np.linspace(0.1, 1, 10)
    ]
    return pd.concat(parts, ignore_index=True)


def test_rows_of_one_run_at_other_tokens_are_kept(tmp_path):
    frame = checkpoints()
    table = load(save(tmp_path, pd.concat([frame, frame.iloc[[3]].assign(loss=9.0)])))
    assert reasons(table) == {"r3": ("duplicate", "the same run and tokens as an earlier row")}
    assert len(table.frame) == 70
    assert "The 70 rows are checkpoints of 7 runs: whole runs are resampled" in table.notes[-1]


def test_a_name_that_is_not_a_run_s_is_an_error(tmp_path):
    with pytest.raises(InputError, match=r"run_id 'x' names runs of n_params .* its own, or leave"):
        load(save(tmp_path, isoflop_table().assign(run_id="x")))


def test_rows_without_a_name_are_called_by_their_number(tmp_path):
    frame = isoflop_table().assign(run_id=["a", None] + [f"r{k}" for k in range(33)])
    frame.loc[1, "loss"] = 0.0
    assert reasons(load(save(tmp_path, frame))) == {"row 2": ("nonpositive", "loss = 0")}


def test_flops_are_made_only_where_that_is_asked_for(tmp_path):
    path = save(tmp_path, isoflop_table().drop(columns="flops"))
    with pytest.raises(InputError, match="'flops' is missing"):
        load(path)
    table = load(path, flops_6nd=True)
    assert table.frame["flops"].to_numpy() == pytest.approx(isoflop_table()["flops"])
    assert table.notes == ("The table has no flops: C is 6 n_params tokens.",)


def test_whole_numbers_are_multiplied_without_wrapping(published, tmp_path):
    path = save(tmp_path, published("steplaw_lr_batch.csv"))
    frame = load(path, flops_6nd=True).frame
    assert frame["flops"].min() > 1e18
    batch = frame["batch_seqs"] * 2048
    assert frame["batch_tokens"].to_numpy() == pytest.approx(batch.to_numpy(), rel=3e-3)


def test_parquet_keeps_its_types_and_forgets_pandas_index(tmp_path):
    frame = isoflop_table().assign(outlier=False, set=pd.Categorical(["a"] * 35))
    frame["n_params"] = frame["n_params"].astype("int64").astype("Int64")
    table = load(save(tmp_path, frame.set_index("set"), "runs.parquet"))
    assert table.frame["outlier"].dtype == bool
    assert len(table.frame) == 35


def test_columns_of_any_type_are_no_obstacle(tmp_path):
    frame = isoflop_table().assign(
        run_id=[b"x%d" % k for k in range(35)],
        raw=[b"\xff"] * 35,
        nested=[[1, 2]] * 35,
        struct=[{"a": 1}] * 35,
        nothing=None,
        when=pd.Timestamp("2026-01-01"),
        perhaps=[True, None] * 17 + [False],
        cost=[Decimal("1.5")] * 35,
        state=["completed", None] * 17 + ["completed"],
    )
    table = load(save(tmp_path, frame, "runs.parquet"))
    assert table.frame["run_id"].tolist() == [f"x{k}" for k in range(35)]
    for value in ([1.0], {"a": 1}, b"3,0", pd.Timestamp("2026-01-01")):
        broken = isoflop_table().assign(loss=pd.Series([value] * 35))
        with pytest.raises(InputError, match="'loss' holds no numbers"):
            load(save(tmp_path, broken, "broken.parquet"))


@pytest.mark.parametrize("limit", ["MAX_BYTES", "MAX_CELLS"])
def test_files_that_would_not_fit_in_memory_are_not_opened(tmp_path, monkeypatch, limit):
    monkeypatch.setattr(f"analysis.intake.table_file.{limit}", 100)
    with pytest.raises(InputError, match="holds 35 rows of 4 columns"):
        load(save(tmp_path, isoflop_table(), "runs.parquet"))


def test_a_csv_beyond_the_limit_is_not_opened(tmp_path, monkeypatch):
    monkeypatch.setattr("analysis.intake.table_file.MAX_BYTES", 100)
    with pytest.raises(InputError, match=r"bytes, at most 1e[+]02 are read"):
        load(save(tmp_path, isoflop_table()))


def test_garbage_gives_named_errors_or_usable_rows(tmp_path):
    """Tables with characters replaced at random: every one is refused by name or clean."""
    rng = np.random.default_rng(0)
    text = isoflop_table().assign(run_id=[f"r{k}" for k in range(35)]).to_csv(index=False)
    pieces = ["nan", "inf", "1e999", "-", '"', ",", "\n", ";", "\0", "9" * 400, "True", "\r", "%"]
    path = tmp_path / "runs.csv"
    loaded = 0
    for _ in range(100):
        data = text
        for at in rng.integers(0, len(text), rng.integers(1, 6)):
            data = data[:at] + str(rng.choice(pieces)) + data[at + int(rng.integers(0, 4)) :]
        path.write_text(data)
        try:
            table = load(path, allow_incomplete=True)
        except AnalysisError:
            continue
        values = table.frame[["n_params", "tokens", "flops", "loss"]].to_numpy()
        assert np.isfinite(values).all()
        assert (values > 0).all()
        loaded += 1
    assert 10 < loaded < 90


def test_a_hundred_thousand_rows_load_in_seconds(tmp_path):
    n = np.geomspace(1e7, 1e9, 50)
    shares = np.linspace(0.01, 1, 2000)
    frame = pd.DataFrame(
        {
            "run_id": np.repeat([f"run-{k}" for k in range(50)], 2000),
            "n_params": np.repeat(n, 2000),
            "tokens": np.outer(20 * n, shares).ravel(),
        }
    )
    frame["flops"] = 6 * frame["n_params"] * frame["tokens"]
    frame["loss"] = 2 + 400 / frame["n_params"] ** 0.34 + 2000 / frame["tokens"] ** 0.37
    frame.loc[::1000, "loss"] = np.nan
    path = save(tmp_path, frame)
    begin = time.perf_counter()
    table = load(path)
    assert time.perf_counter() - begin < 5
    assert len(table.frame) == 99_900
    assert len(table.excluded) == 100
