"""W4 to W6: W&B across attempts, and without its package."""

import signal
import time

import pytest

from faults.patches import Replace, kill_after_step
from faults.runner import ends, run_child
from faults.same_run import assert_same_run
from faults.wandb_faults import EVALS, STEPS, logged, mirrored, patched
from tests.train.mirror_requests import calls_of, wait_for
from tests.train.wandb_record import parse, read_offline_run
from train.storage.records import read_jsonl
from train.tracking import push
from train.tracking.tracker import build_tracker

pytestmark = pytest.mark.usefixtures("no_key")


def is_closed(folder, wandb_id):
    found = list(folder.path.glob(f"wandb/offline-run-*-{wandb_id}/run-{wandb_id}.wandb"))
    return bool(found) and parse(found[0]).exit_code is not None


def steps_of(history):
    return [row["progress/step"] for row in history]


def test_w4_w6_a_killed_trainer_s_mirror_closes_itself_and_the_next_attempt_has_its_own(
    tmp_path, tiny, reference_run, monkeypatch
):
    """`python -m train.tracking.push` then rebuilds one complete W&B run from the run folder."""
    pytest.importorskip("wandb", reason="the extra windtunnel[wandb] is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    config = mirrored(tiny)
    killed = run_child(config, kill_after_step(40))
    assert killed.exit_code == -signal.SIGKILL
    folder = killed.folder
    assert steps_of_rows(folder) == list(range(1, 41))
    first, second = (f"{folder.path.name}-a{attempt}" for attempt in (1, 2))
    wait_for(lambda: is_closed(folder, first))
    run = read_offline_run(folder.path, first)
    assert sorted(set(steps_of(run.history))) == list(range(1, 41))
    assert run.summary["state"] == "killed"
    assert run.exit_code == 1

    done = run_child(config)
    assert done.exit_code == 0, done.stderr
    assert_same_run(folder, reference_run)
    runs = [read_offline_run(folder.path, wandb_id) for wandb_id in (first, second)]
    assert [run.id for run in runs] == [first, second]
    assert [run.name for run in runs] == [folder.path.name] * 2
    assert [run.group for run in runs] == ["faults"] * 2
    for run in runs:
        assert steps_of(run.history) == sorted(steps_of(run.history))
    # the second attempt began at the checkpoint of step 35
    assert sorted(set(steps_of(runs[1].history))) == list(range(36, 61))

    assert push.main([f"study={config.study.name}", f"runs={config.paths.runs}"]) == 0
    whole = read_offline_run(folder.path, folder.path.name)
    assert len(whole.history) == STEPS + EVALS
    losses = [row["train/loss"] for row in whole.history if "train/loss" in row]
    assert losses == [row["loss"] for row in read_jsonl(reference_run.metrics)]
    assert whole.summary["state"] == "completed"
    assert whole.summary["n_params"] > 0


def steps_of_rows(folder):
    return [row["step"] for row in read_jsonl(folder.metrics)]


def test_w4_control_a_trainer_that_calls_wandb_itself_leaves_an_unfinished_record(
    tmp_path, tiny, monkeypatch
):
    pytest.importorskip("wandb", reason="the extra windtunnel[wandb] is not installed")
    naive = patched(path=str(tmp_path), mode="offline", folder=str(tmp_path))
    killed = run_child(tiny(), naive, kill_after_step(40))
    assert killed.exit_code == -signal.SIGKILL
    # wandb's service process ends with its parent
    time.sleep(1.0)
    (path,) = tmp_path.glob("wandb/offline-run-*-r/run-r.wandb")
    run = parse(path)
    assert run.exit_code is None
    assert len(run.history) <= 40
    assert "state" not in run.summary


def find_nothing(name):
    """A find_spec that finds no package."""


def require_nothing(purpose):
    """A require_wandb that checks nothing."""


def test_w5_without_wandb_only_a_mirror_is_refused_and_before_a_step(tiny, calls):
    missing = Replace("train.tracking.tracker:find_spec", find_nothing)
    done = run_child(mirrored(tiny), missing)
    assert done.exit_code == 2
    assert "error: tracker=wandb needs the package wandb" in done.stderr
    assert "Traceback" not in done.stderr
    assert not done.folder.metrics.exists()
    assert run_child(tiny(), missing).exit_code == 0
    assert calls_of(calls, "init") == []


def test_w5_control_without_the_look_ahead_the_user_learns_of_it_after_the_run(
    tmp_path, tiny, monkeypatch
):
    absent = "raise ModuleNotFoundError(\"No module named 'wandb'\")"
    (tmp_path / "wandb.py").write_text(absent, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    done = run_child(
        mirrored(tiny), Replace("train.tracking.tracker:require_wandb", require_nothing)
    )
    assert done.exit_code == 0
    assert ends(done.folder)[-1]["mirror"]["reason"] == (
        "ModuleNotFoundError: No module named 'wandb'"
    )


def one_id_for_all_attempts(*words, **named):
    return build_tracker(*words, **{**named, "attempt": 1})


def test_w6_control_under_one_id_for_all_attempts_steps_would_go_back(tiny, calls, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    one_id = Replace("train.training.recording:build_tracker", one_id_for_all_attempts)
    config = mirrored(tiny)
    killed = run_child(config, one_id, kill_after_step(40))
    wait_for(lambda: calls_of(calls, "finish"))
    assert run_child(config, one_id).exit_code == 0
    ((name, rows),) = logged(calls).items()
    steps = [row["progress/step"] for row in rows]
    assert name == f"{killed.folder.path.name}-a1"
    assert steps != sorted(steps)
