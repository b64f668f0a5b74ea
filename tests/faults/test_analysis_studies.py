"""A5 and A6: studies with damaged files, and studies that are still running."""

import json

import pytest

from analysis.__main__ import main
from analysis.intake import study
from faults.analysed import A, by_valleys, fits_of, loaded
from tests.analysis.study_folders import edit_json, isoflop_table, write_study

# --- A5: files that are not what was written


def cut_metrics(run):
    path = run / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-20])


def garble_metrics(run):
    path = run / "metrics.jsonl"
    path.write_bytes(b"\xff{not a row\n" + path.read_bytes())


def cut_result(run):
    path = run / "result.json"
    path.write_bytes(path.read_bytes()[:-20])


def garble_result(run):
    (run / "result.json").write_bytes(b"\x00\xff\x00")


FALSE_LOSS = 2.0


def flatter(run):
    for name in ("result.json", "evals.jsonl"):
        value = json.loads((run / name).read_text())
        value.get("row", value)["loss"] = FALSE_LOSS
        (run / name).write_text(json.dumps(value) + "\n")


@pytest.mark.parametrize(
    "damage", [cut_metrics, garble_metrics, cut_result, garble_result, flatter]
)
def test_a5_a_run_with_damaged_files_is_excluded_by_name(tmp_path, damage):
    ids = write_study(tmp_path, table=isoflop_table())
    damage(tmp_path / "tunnel" / ids[16])
    fits = fits_of(["study=tunnel", f"runs={tmp_path}", "bootstrap=100"])
    excluded = [(row.run_id, row.reason) for row in fits.table.excluded]
    assert excluded == [(ids[16], "hash_mismatch")]
    assert by_valleys(fits) == pytest.approx(A, abs=2e-3)


@pytest.mark.parametrize("damage", [cut_metrics, garble_metrics, flatter])
def test_a5_control_without_the_hashes_damage_is_used_in_silence(tmp_path, monkeypatch, damage):
    monkeypatch.setattr(study, "_check_files", lambda folder, files: None)
    ids = write_study(tmp_path, table=isoflop_table())
    damage(tmp_path / "tunnel" / ids[16])
    fits = fits_of(["study=tunnel", f"runs={tmp_path}", "bootstrap=100"])
    assert not fits.table.excluded
    if damage is flatter:
        assert (fits.runs["loss"] == FALSE_LOSS).sum() == 1


def test_a5_control_without_the_result_s_check_the_command_fails(tmp_path, monkeypatch):
    def unguarded(folder, entry):
        return study._read_result(folder, str(entry["run_id"]), entry, "")

    monkeypatch.setattr(study, "_read_run", unguarded)
    ids = write_study(tmp_path, table=isoflop_table())
    cut_result(tmp_path / "tunnel" / ids[16])
    with pytest.raises(ValueError, match="not JSON"):
        loaded(["study=tunnel", f"runs={tmp_path}"])


# --- A6: runs that are still going on


@pytest.fixture
def live(tmp_path):
    """The runs of a study whose largest budget is being trained."""
    table = isoflop_table()
    ids = write_study(tmp_path, table=table)
    for run_id, flops in zip(ids, table["flops"], strict=True):
        if flops == table["flops"].max():
            folder = tmp_path / "tunnel" / run_id
            (folder / "result.json").unlink()
            edit_json(folder / "status.json", state="running", step=7)
    return tmp_path


def test_a6_a_study_that_is_running_is_refused_and_nothing_is_written(live, capsys):
    assert main(["study=tunnel", f"runs={live}"]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "7 of 35 runs are missing or incomplete" in told
    assert "state is running" in told
    assert not (live / "tunnel" / "analysis").exists()


def test_a6_what_is_asked_for_all_the_same_is_stamped(live):
    fits = fits_of(["study=tunnel", f"runs={live}", "allow_incomplete=true", "bootstrap=100"])
    assert fits.table.stamp == "INCOMPLETE: 7 of 35 runs not finished"
    assert [row.reason for row in fits.table.excluded] == ["incomplete"] * 7


def test_a6_control_without_the_refusal_half_a_study_looks_whole(live, monkeypatch):
    monkeypatch.setattr(study, "refuse_unfinished", lambda unfinished, planned, allowed: None)
    monkeypatch.setattr(study, "stamp_for", lambda unfinished, planned: "")
    fits = fits_of(["study=tunnel", f"runs={live}", "bootstrap=100"])
    assert by_valleys(fits) > 0  # an answer, from four budgets of five, and no word of it
    assert len(fits.valleys) == 4
    assert fits.table.stamp == ""
