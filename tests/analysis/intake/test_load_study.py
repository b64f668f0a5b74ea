import json
import shutil

import pytest
from study_folders import edit_json, isoflop_table, write_study

from analysis.errors import InputError
from analysis.intake.study import load_study


@pytest.fixture
def study(tmp_path):
    ids = write_study(tmp_path, table=isoflop_table(budgets=(1e18, 1e19), sizes=4))
    return tmp_path, ids


def load(runs, allow_incomplete=False, where=None):
    return load_study(runs, "tunnel", where=where, allow_incomplete=allow_incomplete)


def reasons(table):
    return {item.run_id: item.reason for item in table.excluded}


def test_a_finished_study_uses_every_run(study):
    runs, ids = study
    table = load(runs)
    assert sorted(table.frame["run_id"]) == sorted(ids)
    assert table.excluded == ()
    assert table.stamp == ""


def test_the_hash_of_the_inputs_follows_the_results(study):
    runs, ids = study
    before = load(runs).sha256
    assert load(runs).sha256 == before
    path = runs / "tunnel" / ids[0] / "result.json"
    path.write_text(path.read_text() + "\n")
    assert load(runs).sha256 != before


@pytest.mark.parametrize("damage", ["missing", "incomplete"])
def test_unfinished_runs_stop_the_fit_unless_allowed(study, damage):
    runs, ids = study
    folder = runs / "tunnel" / ids[2]
    if damage == "missing":
        shutil.rmtree(folder)
    else:
        (folder / "result.json").unlink()
        edit_json(folder / "status.json", state="running")
    with pytest.raises(InputError, match=rf"1 of 8 runs are .*{ids[2]}.* allow_incomplete=true"):
        load(runs)
    table = load(runs, allow_incomplete=True)
    assert reasons(table) == {ids[2]: damage}
    assert "INCOMPLETE: 1 of 8" in table.stamp


def test_diverged_and_failed_runs_are_excluded_and_no_obstacle(study):
    runs, ids = study
    edit_json(runs / "tunnel" / ids[0] / "result.json", state="diverged")
    (runs / "tunnel" / ids[1] / "result.json").unlink()
    edit_json(runs / "tunnel" / ids[1] / "status.json", state="failed", reason="disk full")
    table = load(runs)
    assert reasons(table) == {ids[0]: "diverged", ids[1]: "failed"}
    assert table.excluded[1].detail == "disk full"


def test_a_changed_file_is_a_hash_mismatch(study):
    runs, ids = study
    with (runs / "tunnel" / ids[0] / "evals.jsonl").open("a") as file:
        file.write("\n")
    (runs / "tunnel" / ids[1] / "metrics.jsonl").unlink()
    (runs / "tunnel" / ids[2] / "result.json").write_text('{"schema": 1, "run')
    edit_json(runs / "tunnel" / ids[3] / "result.json", run_id="another")
    table = load(runs)
    assert reasons(table) == dict.fromkeys(ids[:4], "hash_mismatch")
    assert "sha256" in table.excluded[0].detail
    assert "metrics.jsonl is gone" in table.excluded[1].detail


def edit_row(folder, **changes):
    result = json.loads((folder / "result.json").read_text())
    result["row"].update(changes)
    (folder / "result.json").write_text(json.dumps(result))


def test_a_row_that_its_evaluation_does_not_bear_out_is_a_mismatch(study):
    runs, ids = study
    edit_row(runs / "tunnel" / ids[0], loss=1.0)
    assert reasons(load(runs)) == {ids[0]: "hash_mismatch"}


def test_a_loss_that_is_not_a_number_is_excluded(study):
    runs, ids = study
    edit_row(runs / "tunnel" / ids[0], loss=None)
    assert reasons(load(runs)) == {ids[0]: "nonfinite_eval"}


def test_a_run_that_stopped_short_of_its_plan_is_excluded(study):
    runs, ids = study
    row = json.loads((runs / "tunnel" / ids[0] / "result.json").read_text())["row"]
    edit_row(runs / "tunnel" / ids[0], tokens=row["tokens"] * 0.9)
    table = load(runs)
    assert reasons(table) == {ids[0]: "horizon_mismatch"}
    assert "planned" in table.excluded[0].detail


def rewrite_evals(folder, **changes):
    evals = json.loads((folder / "evals.jsonl").read_text())
    evals.update(changes)
    (folder / "evals.jsonl").write_text(json.dumps(evals) + "\n")
    edit_json(folder / "result.json", files={})


def test_runs_on_other_data_or_another_evaluation_set_are_excluded(study):
    runs, ids = study
    edit_json(runs / "tunnel" / ids[0] / "result.json", data_sha256="f" * 64)
    rewrite_evals(runs / "tunnel" / ids[1], n_tokens=1024)
    rewrite_evals(runs / "tunnel" / ids[2], data_sha256="f" * 64)
    assert reasons(load(runs)) == {
        ids[0]: "mixed_data",
        ids[1]: "mixed_eval",
        ids[2]: "mixed_eval",
    }


def test_a_torn_tail_is_dropped_and_inner_garbage_excludes(study):
    runs, ids = study
    for run_id, text in ((ids[0], '{"step": 30, "lo'), (ids[1], "garbage\n{}\n")):
        path = runs / "tunnel" / run_id / "evals.jsonl"
        path.write_text(path.read_text() + text)
        edit_json(path.parent / "result.json", files={})
    assert reasons(load(runs)) == {ids[1]: "hash_mismatch"}


def test_a_run_listed_twice_is_used_once(study):
    runs, ids = study
    path = runs / "tunnel" / "manifest.json"
    manifest = json.loads(path.read_text())
    edit_json(path, runs=[*manifest["runs"], manifest["runs"][0]])
    table = load(runs)
    assert reasons(table) == {ids[0]: "duplicate"}
    assert len(table.frame) == 8


def test_an_unknown_study_lists_near_names(study):
    runs, _ = study
    with pytest.raises(InputError, match=r"no study 'tunel' in .*; did you mean tunnel"):
        load_study(runs, "tunel", where=None, allow_incomplete=False)


def test_a_folder_without_studies_says_so(tmp_path):
    with pytest.raises(InputError, match="holds no study yet"):
        load_study(tmp_path / "none", "x", where=None, allow_incomplete=False)


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "not JSON"), ('{"runs": []}', "'runs' must list"), ('{"runs": [3]}', "needs a run_id")],
)
def test_a_broken_manifest_is_an_error(study, text, message):
    runs, _ = study
    (runs / "tunnel" / "manifest.json").write_text(text)
    with pytest.raises(InputError, match=message):
        load(runs)


def test_a_study_without_a_usable_run_counts_the_reasons(study):
    runs, ids = study
    for run_id in ids:
        edit_json(runs / "tunnel" / run_id / "result.json", state="diverged")
    with pytest.raises(InputError, match=r"none of 8 runs is usable \(8 diverged\)"):
        load(runs)


def test_a_folder_mid_write_is_unfinished_and_not_damaged(study):
    runs, ids = study
    for run_id in ids[:3]:
        edit_json(runs / "tunnel" / run_id / "status.json", state="running")
    (runs / "tunnel" / ids[0] / "result.json").write_text('{"schema": 1, "run')
    with (runs / "tunnel" / ids[1] / "metrics.jsonl").open("a") as file:
        file.write('{"step": 30, "lo')
    (runs / "tunnel" / ids[2] / "result.json").unlink()
    with pytest.raises(InputError, match="3 of 8 runs are missing or incomplete"):
        load(runs)
    table = load(runs, allow_incomplete=True)
    assert reasons(table) == dict.fromkeys(ids[:3], "incomplete")
    assert "state is running; " in table.excluded[0].detail
    assert "not JSON" in table.excluded[0].detail
    assert "metrics.jsonl has sha256" in table.excluded[1].detail


def test_unfinished_runs_are_named_by_reason(study):
    runs, ids = study
    shutil.rmtree(runs / "tunnel" / ids[0])
    for run_id in ids[1:3]:
        (runs / "tunnel" / run_id / "result.json").unlink()
        edit_json(runs / "tunnel" / run_id / "status.json", state="preempted")
    with pytest.raises(InputError) as caught:
        load(runs)
    assert f"({ids[0]}): never started" in str(caught.value)
    assert f"({ids[1]}, {ids[2]}): state is preempted, no result.json yet" in str(caught.value)


def test_data_that_no_majority_shares_is_an_error(study):
    runs, ids = study
    for run_id in ids[:4]:
        edit_json(runs / "tunnel" / run_id / "result.json", data_sha256="f" * 64)
    with pytest.raises(InputError, match="2 kinds of data in 8 runs, 4 runs at most share one"):
        load(runs)


def test_evaluations_of_other_splits_do_not_count(study):
    runs, ids = study
    path = runs / "tunnel" / ids[0] / "evals.jsonl"
    other = json.loads(path.read_text()) | {"split": "train", "loss": 1.0, "n_tokens": 5}
    path.write_text(path.read_text() + json.dumps(other) + "\n")
    edit_json(path.parent / "result.json", files={})
    assert reasons(load(runs)) == {}


@pytest.mark.parametrize("run_id", ["../../etc", "", "a/b", "a\0b"])
def test_a_run_id_that_leaves_the_study_is_an_error(study, run_id):
    runs, _ = study
    edit_json(runs / "tunnel" / "manifest.json", runs=[{"run_id": run_id}])
    with pytest.raises(InputError, match="is not a folder's name"):
        load(runs)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"files": ["metrics.jsonl"]}, "hash_mismatch"),
        ({"files": {"../../../x": ""}}, "hash_mismatch"),
        ({"row": {"n_params": 1}}, "hash_mismatch"),
        ({"row": [1]}, "hash_mismatch"),
    ],
)
def test_results_of_the_wrong_kind_exclude_their_run(study, changes, reason):
    runs, ids = study
    edit_json(runs / "tunnel" / ids[0] / "result.json", **changes)
    assert reasons(load(runs)) == {ids[0]: reason}


@pytest.mark.parametrize("value", [None, "3.2", True, [3.2], 1e400, 10**400])
def test_values_of_the_wrong_kind_exclude_their_run(study, value):
    runs, ids = study
    edit_row(runs / "tunnel" / ids[0], loss=value)
    edit_row(runs / "tunnel" / ids[1], tokens=value)
    edit_row(runs / "tunnel" / ids[2], n_params=value)
    rewrite_evals(runs / "tunnel" / ids[3], loss=value)
    rewrite_evals(runs / "tunnel" / ids[4], tokens=value)
    wrong = ("nonfinite_eval", "hash_mismatch", "hash_mismatch", "nonfinite_eval")
    expected = dict(zip(ids, (*wrong, "horizon_mismatch"), strict=False))
    assert reasons(load(runs)) == expected


def test_deep_nesting_is_no_traceback(study):
    runs, ids = study
    for name in ("result.json", "evals.jsonl", "status.json"):
        (runs / "tunnel" / ids[0] / name).write_text("[" * 200_000 + "\n")
    assert reasons(load(runs)) == {ids[0]: "hash_mismatch"}
    (runs / "tunnel" / "manifest.json").write_text("[" * 200_000)
    with pytest.raises(InputError, match="nested too deeply"):
        load(runs)
