"""W&B runs become a runs table: attempts merged, states told, missing keys named."""

import json
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
from study_folders import isoflop_table
from wandb_server import serve, wandb_run

from analysis.errors import InputError, OptionError
from analysis.intake import wandb_table
from analysis.intake.wandb_table import Attempt, load_wandb, merge_attempts, table_of

PATH = "team/wind/tunnel"


def run(run_id, attempt=1, said="finished", **summary):
    return {
        "id": f"{run_id}-a{attempt}",
        "name": run_id,
        "state": said,
        "created_at": "2026-01-01T00:00:00",
        "config": {"data.name": "enwik8", "data.tokenizer": "bytes"},
        "summary": summary,
    }


def finished(**changes):
    """What train/tracking/tracker.py leaves of a finished study: the row in every summary."""
    rows = isoflop_table(noise=0.001).to_dict("records")
    ours = {"state": "completed", "study": "tunnel"}
    return [run(f"r{k}", **{**ours, **row, **changes}) for k, row in enumerate(rows)]


def read(runs, **words):
    return table_of(runs, PATH, **{"where": None, "allow_incomplete": False, **words})


def test_the_rows_of_finished_runs_are_the_table():
    runs = finished()
    table = read(runs)
    expected = isoflop_table(noise=0.001)
    for name in ("n_params", "tokens", "flops", "loss"):
        assert table.frame[name].tolist() == expected[name].tolist()
    assert table.frame["run_id"].tolist() == [f"r{k}" for k in range(len(expected))]
    assert set(table.frame["data"]) == {"enwik8"}
    assert (table.name, table.source, table.stamp) == ("tunnel", f"wandb: {PATH}", "")
    assert table.notes[0].startswith("Read from W&B, a mirror of the run folders")
    assert table.folder is None
    assert table.sha256 == read(runs[::-1]).sha256 != read(finished(loss_train=1.0)).sha256


def test_attempts_at_a_run_are_one_row_and_the_finished_one_counts():
    runs = finished()
    row = runs[3]["summary"]
    runs[3:4] = [
        run("r3", 1, "crashed", **{"val/loss": 9.0}),
        run("r3", 3, "failed"),
        run("r3", 2, "finished", **row),
    ]
    table = read(runs)
    assert table.frame["loss"].tolist() == isoflop_table(noise=0.001)["loss"].tolist()
    assert table.excluded == ()
    assert f"{len(runs)} W&B runs are attempts at {len(runs) - 2} runs." in table.notes


def test_of_unfinished_attempts_the_last_counts_even_past_nine():
    attempts = [Attempt("r", k, {"state": "preempted"}) for k in (2, 10, 9)]
    assert [kept.number for kept in merge_attempts(attempts)] == [10]


def test_runs_of_other_trainers_keep_their_ids():
    runs = finished()
    for k, one in enumerate(runs):
        one["id"], one["name"] = f"abc{k}", "sweep-a1"
    assert read(runs).frame["run_id"].tolist() == [f"abc{k}" for k in range(len(runs))]


@pytest.mark.parametrize(
    ("state", "ours", "reason"),
    [
        ("failed", None, "failed"),
        ("failed", "diverged", "diverged"),
        ("running", None, "incomplete"),
        ("pending", None, "incomplete"),
        ("crashed", None, "incomplete"),
        ("killed", None, "incomplete"),
        ("finished", "preempted", "incomplete"),
        ("a new word", None, "incomplete"),
    ],
)
def test_other_states_are_named_exclusions(state, ours, reason):
    odd = run("odd", said=state, **({"state": ours} if ours else {}))
    table = read([*finished(), odd], allow_incomplete=True)
    assert [(item.run_id, item.reason) for item in table.excluded] == [("odd", reason)]
    assert table.stamp.startswith("INCOMPLETE: 1 of ") == (reason == "incomplete")


def test_unfinished_runs_are_refused_unless_allowed():
    with pytest.raises(InputError, match=r"1 of 36 runs are missing or incomplete.*late"):
        read([*finished(), run("late", said="running")])


def test_a_last_logged_loss_of_a_run_that_is_not_over_is_not_used():
    half = run("half", said="crashed", **{"val/loss": 3.0, "progress/tokens": 1e9})
    table = read([*finished(), half], allow_incomplete=True)
    assert "half" not in set(table.frame["run_id"])


def test_logged_keys_stand_in_for_a_row_that_another_trainer_did_not_write():
    runs = finished()
    for one in runs:
        row = one["summary"]
        one["config"] = {"n_params": row["n_params"]}
        one["summary"] = {
            "progress/tokens": row["tokens"],
            "progress/flops": row["flops"],
            "val/loss": row["loss"],
        }
    assert read(runs).frame["loss"].tolist() == isoflop_table(noise=0.001)["loss"].tolist()


def test_missing_keys_are_named_with_near_ones():
    runs = finished()
    for one in runs:
        one["summary"]["num_params"] = one["summary"].pop("n_params")
        one["summary"]["valid_loss"] = one["summary"].pop("loss")
    with pytest.raises(InputError) as refused:
        read(runs)
    assert "'n_params' is missing; did you mean num_params" in str(refused.value)
    assert "'loss' is missing; did you mean valid_loss" in str(refused.value)
    assert "'tokens' is missing" not in str(refused.value)


def test_flops_are_made_of_n_and_d_only_when_asked_for():
    runs = finished()
    for one in runs:
        del one["summary"]["flops"]
    with pytest.raises(InputError, match="'flops' is missing"):
        read(runs)
    table = read(runs, flops_6nd=True)
    assert (table.frame["flops"] == 6 * table.frame["n_params"] * table.frame["tokens"]).all()
    assert "The runs have no flops: C is 6 n_params tokens." in table.notes


def test_mixed_data_are_refused():
    runs = finished()
    runs[0]["config"]["data.name"] = "wikitext"
    with pytest.raises(InputError, match=r"column data takes 2 values \(enwik8, wikitext\)"):
        read(runs)
    assert len(read(runs, where="data=enwik8").frame) == len(runs) - 1


def test_words_and_nan_in_place_of_a_loss_exclude_the_run():
    runs = finished()
    runs[0]["summary"]["loss"], runs[1]["summary"]["loss"] = "NaN", float("nan")
    table = read(runs)
    assert [item.run_id for item in table.excluded] == ["r0", "r1"]


def test_one_run_is_not_a_table():
    with pytest.raises(InputError, match=r"1 usable of 2 runs; r1: failed"):
        read([finished()[0], run("r1", said="failed")])


@pytest.mark.parametrize("path", ["quickstart", "team/wind", "team//tunnel", "a/b/c/d", "a/b/ "])
def test_a_path_of_another_form_is_refused(path):
    with pytest.raises(
        OptionError, match=r"is not ENTITY/PROJECT/GROUP, for example wandb=my-team"
    ):
        load_wandb(path, where=None, allow_incomplete=False)


@pytest.mark.parametrize("found", [None, ModuleSpec("wandb", None)])
def test_a_missing_wandb_names_its_extra(monkeypatch, found):
    """A folder ./wandb of logs is no package."""
    monkeypatch.setattr(wandb_table, "find_spec", lambda name: found)
    with pytest.raises(OptionError, match=r"pip install -c constraints.txt -e '\.\[wandb\]'"):
        load_wandb(PATH, where=None, allow_incomplete=False)


def test_a_group_is_read_through_the_real_client(monkeypatch, tmp_path):
    pytest.importorskip("wandb", reason="the extra windtunnel[wandb] is not installed")
    runs = finished()
    stored = [
        wandb_run(one["name"], one["summary"], data={"name": "enwik8", "tokenizer": "bytes"})
        for one in runs
    ]
    stored.append(wandb_run("r0", {"state": "preempted"}, attempt=2, state="finished"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    with serve(stored) as (address, _):
        monkeypatch.setenv("WANDB_BASE_URL", address)
        table = load_wandb(PATH, where="n_params>0", allow_incomplete=False)
    assert table.frame["loss"].tolist() == isoflop_table(noise=0.001)["loss"].tolist()
    assert json.dumps(sorted(set(table.frame["tokenizer"]))) == '["bytes"]'
    # The client may keep a folder in the home, but nothing is left where the command runs.
    assert not (Path.cwd() / "wandb").exists() or not list((Path.cwd() / "wandb").glob("*-run-*"))


def test_what_the_importer_says_names_the_group(monkeypatch):
    monkeypatch.setattr(wandb_table, "fetch_runs", lambda *words: finished()[:1])
    with pytest.raises(InputError, match=rf"wandb={PATH}: 1 usable of 1 runs"):
        load_wandb(PATH, where=None, allow_incomplete=False)
