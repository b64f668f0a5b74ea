import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from study_folders import edit_json, isoflop_table, write_study

from analysis.errors import InputError
from analysis.study import load_study


@pytest.fixture
def study(tmp_path: Path) -> Any:
    ids = write_study(tmp_path, table=isoflop_table(budgets=(1e18, 1e19), sizes=4))
    return tmp_path, ids


def load(runs: Path, allow_incomplete: bool = False, where: str | None = None) -> Any:
    return load_study(runs, "tunnel", where=where, allow_incomplete=allow_incomplete)


def reasons(table: Any) -> dict[str, str]:
    return {item.run_id: item.reason for item in table.excluded}


def test_a_finished_study_uses_every_run(study: Any) -> None:
    runs, ids = study
    table = load(runs)
    assert sorted(table.frame["run_id"]) == sorted(ids)
    assert table.excluded == ()
    assert table.stamp == ""


def test_the_hash_of_the_inputs_follows_the_results(study: Any) -> None:
    runs, ids = study
    before = load(runs).sha256
    assert load(runs).sha256 == before
    path = runs / "tunnel" / ids[0] / "result.json"
    path.write_text(path.read_text() + "\n")
    assert load(runs).sha256 != before


@pytest.mark.parametrize("damage", ["missing", "incomplete"])
def test_unfinished_runs_stop_the_fit_unless_allowed(study: Any, damage: str) -> None:
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


def test_diverged_and_failed_runs_are_excluded_and_no_obstacle(study: Any) -> None:
    runs, ids = study
    edit_json(runs / "tunnel" / ids[0] / "result.json", state="diverged")
    (runs / "tunnel" / ids[1] / "result.json").unlink()
    edit_json(runs / "tunnel" / ids[1] / "status.json", state="failed", reason="disk full")
    table = load(runs)
    assert reasons(table) == {ids[0]: "diverged", ids[1]: "failed"}
    assert table.excluded[1].detail == "disk full"


def test_a_changed_file_is_a_hash_mismatch(study: Any) -> None:
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


def edit_row(folder: Path, **changes: Any) -> None:
    result = json.loads((folder / "result.json").read_text())
    result["row"].update(changes)
    (folder / "result.json").write_text(json.dumps(result))


def test_a_row_that_its_evaluation_does_not_bear_out_is_a_mismatch(study: Any) -> None:
    runs, ids = study
    edit_row(runs / "tunnel" / ids[0], loss=1.0)
    assert reasons(load(runs)) == {ids[0]: "hash_mismatch"}


def test_a_loss_that_is_not_a_number_is_excluded(study: Any) -> None:
    runs, ids = study
    edit_row(runs / "tunnel" / ids[0], loss=None)
    assert reasons(load(runs)) == {ids[0]: "nonfinite_eval"}


def test_a_run_that_stopped_short_of_its_plan_is_excluded(study: Any) -> None:
    runs, ids = study
    row = json.loads((runs / "tunnel" / ids[0] / "result.json").read_text())["row"]
    edit_row(runs / "tunnel" / ids[0], tokens=row["tokens"] * 0.9)
    table = load(runs)
    assert reasons(table) == {ids[0]: "horizon_mismatch"}
    assert "planned" in table.excluded[0].detail


def rewrite_evals(folder: Path, **changes: Any) -> None:
    evals = json.loads((folder / "evals.jsonl").read_text())
    evals.update(changes)
    (folder / "evals.jsonl").write_text(json.dumps(evals) + "\n")
    edit_json(folder / "result.json", files={})


def test_runs_on_other_data_or_another_evaluation_set_are_excluded(study: Any) -> None:
    runs, ids = study
    edit_json(runs / "tunnel" / ids[0] / "result.json", data_sha256="f" * 64)
    rewrite_evals(runs / "tunnel" / ids[1], n_tokens=1024)
    rewrite_evals(runs / "tunnel" / ids[2], data_sha256="f" * 64)
    assert reasons(load(runs)) == {
        ids[0]: "mixed_data",
        ids[1]: "mixed_eval",
        ids[2]: "mixed_eval",
    }


def test_a_torn_tail_is_dropped_and_inner_garbage_excludes(study: Any) -> None:
    runs, ids = study
    for run_id, text in ((ids[0], '{"step": 30, "lo'), (ids[1], "garbage\n{}\n")):
        path = runs / "tunnel" / run_id / "evals.jsonl"
        path.write_text(path.read_text() + text)
        edit_json(path.parent / "result.json", files={})
    assert reasons(load(runs)) == {ids[1]: "hash_mismatch"}


def test_a_run_listed_twice_is_used_once(study: Any) -> None:
    runs, ids = study
    path = runs / "tunnel" / "manifest.json"
    manifest = json.loads(path.read_text())
    edit_json(path, runs=[*manifest["runs"], manifest["runs"][0]])
    table = load(runs)
    assert reasons(table) == {ids[0]: "duplicate"}
    assert len(table.frame) == 8


def test_an_unknown_study_lists_near_names(study: Any) -> None:
    runs, _ = study
    with pytest.raises(InputError, match=r"no study 'tunel' in .*; did you mean tunnel"):
        load_study(runs, "tunel", where=None, allow_incomplete=False)


def test_a_folder_without_studies_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no study yet"):
        load_study(tmp_path / "none", "x", where=None, allow_incomplete=False)


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "not JSON"), ('{"runs": []}', "'runs' must list"), ('{"runs": [3]}', "needs a run_id")],
)
def test_a_broken_manifest_is_an_error(study: Any, text: str, message: str) -> None:
    runs, _ = study
    (runs / "tunnel" / "manifest.json").write_text(text)
    with pytest.raises(InputError, match=message):
        load(runs)


def test_a_study_without_a_usable_run_counts_the_reasons(study: Any) -> None:
    runs, ids = study
    for run_id in ids:
        edit_json(runs / "tunnel" / run_id / "result.json", state="diverged")
    with pytest.raises(InputError, match=r"none of 8 runs is usable \(8 diverged\)"):
        load(runs)
