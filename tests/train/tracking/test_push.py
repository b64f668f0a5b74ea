"""W&B rebuilt from run folders: every row once, in whatever state the run is, also when repeated.

A fake wandb stands first on the mirror's path, except for the online test, which runs the real
client against a loopback server. tests/faults/test_wandb_attempts.py pushes a killed run.
"""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.train.mirror_requests import calls_of, leave_no_key, use_fake
from tests.train.wandb_service import serve
from train.run_folder.run_folder import RunFolder
from train.storage.records import append_jsonl, canonical_json, write_json
from train.tracking import push, tracker

REPO = Path(__file__).resolve().parents[3]
SCIENCE = {"seed": 0}
ROW = {"loss": 2.5, "n_params": 1_000, "device": "cpu"}


@pytest.fixture(autouse=True)
def environment(tmp_path, monkeypatch):
    leave_no_key(tmp_path / "home", monkeypatch)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def calls(tmp_path, monkeypatch):
    return use_fake(tmp_path, monkeypatch)


def write_run(study, run_id, state, *, steps, result=False):
    folder = RunFolder(study / run_id)
    folder.path.mkdir(parents=True)
    if steps:
        rows = [{"step": step, "tokens": 10 * step, "loss": 1 / step} for step in range(steps)[1:]]
        append_jsonl(folder.metrics, [*rows, {"step": steps, "tokens": 10 * steps, "loss": 0.5}])
        append_jsonl(folder.evals, [{"step": steps, "tokens": 10 * steps, "loss": 2.5}])
    if state is not None:
        folder.write_status(state, step=steps)
    if result:
        write_json(folder.result, {"row": ROW})
    return folder


def write_manifest(study, *run_ids):
    study.mkdir(parents=True, exist_ok=True)
    plan = {"steps": 4, "flops": 10**9}
    runs = [{"run_id": run_id, "science": SCIENCE, "plan": plan} for run_id in run_ids]
    digest = hashlib.sha256(canonical_json(runs).encode()).hexdigest()
    content = {"schema": 1, "study": study.name, "sha256": digest, "runs": runs}
    write_json(study / "manifest.json", content)


@pytest.fixture
def study(tmp_path):
    folder = tmp_path / "runs" / "tunnel"
    write_run(folder, "d16-done", "completed", steps=4, result=True)
    write_run(folder, "d16-diverged", "diverged", steps=2)
    write_run(folder, "d16-killed", "running", steps=3)
    write_run(folder, "d16-planned", None, steps=0)
    write_manifest(folder, "d16-done", "d16-diverged", "d16-killed", "d16-planned", "d16-absent")
    return folder


def test_every_run_with_rows_is_pushed_as_far_as_it_is(study, calls, capsys):
    assert push.main(["study=tunnel", "mode=offline", "entity=team"]) == 0
    words = [call["words"] for call in calls_of(calls, "init")]
    assert [word["id"] for word in words] == ["d16-done", "d16-diverged", "d16-killed"]
    expected = {
        "project": "windtunnel",
        "entity": "team",
        "group": "tunnel",
        "name": "d16-done",
        "mode": "offline",
        "resume": "never",
        "config": SCIENCE,
    }
    assert {key: words[0][key] for key in expected} == expected
    assert len(calls_of(calls, "log")) == 5 + 3 + 4
    assert [call["values"] for call in calls_of(calls, "summary")] == [
        {"state": "completed", **ROW},
        {"state": "diverged"},
        {"state": "killed"},
    ]
    said = capsys.readouterr()
    assert said.out == "runs/tunnel: 3 offline, 2 without rows; 12 rows written\n"
    for line in ("d16-done: offline", "d16-planned: without rows", "d16-absent: without rows"):
        assert line in said.err.splitlines()


def test_a_run_under_way_is_called_running(tmp_path, calls):
    study = tmp_path / "runs" / "tunnel"
    folder = write_run(study, "d16-live", "running", steps=2)
    write_manifest(study, "d16-live")
    with folder.locked():
        assert push.main(["study=tunnel", "mode=offline"]) == 0
    assert calls_of(calls, "summary")[0]["values"] == {"state": "running"}
    assert calls_of(calls, "finish")[0]["named"] == {"exit_code": 0}


def test_an_offline_record_is_replaced_and_no_attempt_s(study, calls):
    wandb = study / "d16-done" / "wandb"
    old, attempt = (wandb / f"offline-run-1-{name}" for name in ("d16-done", "d16-done-a1"))
    for folder in (old, attempt):
        folder.mkdir(parents=True)
    assert push.main(["study=tunnel", "mode=offline"]) == 0
    assert not old.exists()
    assert attempt.exists()


def test_auto_without_a_key_is_offline_for_the_rest_and_says_so_once(study, calls, capsys):
    assert push.main(["study=tunnel"]) == 0
    modes = [call["words"]["mode"] for call in calls_of(calls, "init")]
    assert modes == ["online", "offline", "offline", "offline"]
    assert capsys.readouterr().err.count("warning: W&B: ValueError: No API key configured") == 1


def test_online_without_a_key_is_an_error_and_nothing_is_written(study, calls, capsys):
    assert push.main(["study=tunnel", "mode=online"]) == 75
    said = capsys.readouterr().err
    assert "error: W&B: ValueError: No API key configured; pushed so far: nothing" in said
    assert len(calls_of(calls, "init")) == 1


def test_an_offline_record_that_cannot_be_written_is_an_error(study, calls, monkeypatch, capsys):
    monkeypatch.setenv("FAKE_WANDB_FAULTS", json.dumps({"finish 1": "raise"}))
    assert push.main(["study=tunnel", "mode=offline"]) == 3
    assert "d16-done: no offline record: RuntimeError: finish is broken" in capsys.readouterr().err


def test_a_damaged_record_is_named_and_the_other_runs_are_pushed(study, calls, capsys):
    (study / "d16-done" / "metrics.jsonl").write_text("nonsense\n", encoding="utf-8")
    assert push.main(["study=tunnel", "mode=offline"]) == 2
    said = capsys.readouterr().err
    assert "1 damaged, 2 offline, 2 without rows" in said
    assert "d16-done/metrics.jsonl:1: not JSON" in said
    assert len(calls_of(calls, "init")) == 2


def test_a_run_id_that_leads_out_of_the_study_is_refused(tmp_path, calls, capsys):
    write_manifest(tmp_path / "runs" / "tunnel", "../../elsewhere")
    assert push.main(["study=tunnel", "mode=offline"]) == 2
    assert "run_id '../../elsewhere' cannot name a folder of the study" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "study=NAME is missing"),
        (["studdy=x"], "studdy=x: unknown option; did you mean study?"),
        (["study"], "study: unknown option"),
        (["study=tunnel", "mode=onlin"], "mode=onlin: unknown mode; did you mean online?"),
        (["study=tunel"], "study=tunel: no such study in runs/; did you mean tunnel?"),
    ],
)
def test_a_wrong_word_is_named_with_what_was_meant(study, capsys, words, message):
    assert push.main(words) == 2
    assert f"error: {message}" in capsys.readouterr().err


def test_the_push_is_a_command():
    command = [sys.executable, "-m", "train.tracking.push"]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "python -m train.tracking.push study=NAME" in done.stderr


def test_wandb_disabled_by_the_environment_is_refused(study, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert push.main(["study=tunnel"]) == 2
    assert "WANDB_MODE=disabled: there is nowhere to push to" in capsys.readouterr().err


def test_a_missing_wandb_names_its_extra(study, monkeypatch, capsys):
    monkeypatch.setattr(tracker, "find_spec", lambda name: None)
    assert push.main(["study=tunnel"]) == 2
    assert "python -m train.tracking.push needs the package wandb" in capsys.readouterr().err


@pytest.fixture
def service(monkeypatch):
    pytest.importorskip("wandb", reason="the extra windtunnel[wandb] is not installed")
    with serve() as running:
        monkeypatch.setenv("WANDB_BASE_URL", running.url)
        monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
        yield running


def test_online_a_second_push_adds_what_w_and_b_lacks_and_nothing_twice(tmp_path, service, capsys):
    study = tmp_path / "runs" / "tunnel"
    folder = write_run(study, "d16-x", "preempted", steps=3)
    write_manifest(study, "d16-x")
    assert push.main(["study=tunnel"]) == 0
    assert capsys.readouterr().out == "runs/tunnel: 1 online; 4 rows written\n"
    stored = service.runs["d16-x"]
    assert [row["progress/step"] for row in stored.history] == [1, 2, 3, 3]
    assert (stored.group, stored.config["seed"], stored.exit_code) == ("tunnel", 0, 0)
    assert stored.summary["state"] == "preempted"

    append_jsonl(folder.metrics, [{"step": 4, "tokens": 40, "loss": 0.4}])
    append_jsonl(folder.evals, [{"step": 4, "tokens": 40, "loss": 2.4}])
    folder.write_status("completed", step=4)
    write_json(folder.result, {"row": ROW})
    for n_new in (2, 0):
        assert push.main(["study=tunnel"]) == 0
        assert capsys.readouterr().out == f"runs/tunnel: 1 online; {n_new} rows written\n"
    assert [row["progress/step"] for row in stored.history] == [1, 2, 3, 3, 4, 4]
    assert [row["_step"] for row in stored.history] == [*range(6)]
    assert stored.history[-1]["val/loss"] == 2.4
    assert stored.summary["state"] == "completed"
    assert stored.summary["n_params"] == 1_000
    assert list(service.runs) == ["d16-x"]
