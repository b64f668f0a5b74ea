"""A whole study on the synthetic source, through the commands a user types."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from train.config.experiment import SyntheticConfig
from train.data.synthetic import markov_source
from train.run_folder.manifest import read_manifest
from train.storage.records import read_json, read_jsonl
from train.study.run_status import study_status

REPO = Path(__file__).resolve().parents[2]

STUDY = """
# @package _global_
# Five sizes at three budgets on synthetic text: seconds, not science.
study:
  name: tiny
  grid:
    - {model.d_model: [4, 8, 12, 16, 20], budget.flops: [2.0e9]}
    - {model.d_model: [8, 12, 16, 20, 24], budget.flops: [4.0e9]}
    - {model.d_model: [8, 12, 16, 24, 32], budget.flops: [8.0e9]}
data:
  source: synthetic
  name: tiny
  vocab_size: 64
  seq_len: 16
  validation_tokens: 20000
  synthetic: {tokens: 2000000}
optimizer: {lr: 0.01, batch_tokens: 512}
eval: {points: 2, tokens: 8192}
"""


GRID = {2e9: (4, 8, 12, 16, 20), 4e9: (8, 12, 16, 20, 24), 8e9: (8, 12, 16, 24, 32)}


def command(*words, root, timeout=300):
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    return subprocess.run(
        [sys.executable, "-m", *words],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def train(*words, root):
    return command("train", "--config-dir", str(root / "conf"), *words, root=root)


def start_launcher(*words, root):
    return subprocess.Popen(
        [sys.executable, "-m", "train", "--config-dir", str(root / "conf"), "-m", *words],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(REPO)},
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    root = tmp_path_factory.mktemp("study")
    (root / "conf" / "study").mkdir(parents=True)
    (root / "conf" / "study" / "tiny.yaml").write_text(STUDY, encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def killed_and_finished(workplace):
    """The study's folder, after a job was killed mid-sweep: its launcher starts it again."""
    study = workplace / "runs" / "tiny"
    first = start_launcher("study=tiny", root=workplace)
    victim = _wait_for_a_job(study, first)
    os.kill(victim, signal.SIGKILL)
    _, errors = first.communicate(timeout=240)
    assert first.returncode == 0, errors
    assert "killed by SIGKILL; starting it again (1 of 2)" in errors
    assert "15 completed; attempts cut short: 1 killed" in errors
    return study


def _wait_for_a_job(study, launcher, jobs=1):
    """Wait until jobs have logged their first rows; return the pid of one."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and launcher.poll() is None:
        pids = []
        for metrics in study.glob("*/metrics.jsonl"):
            status = read_json(metrics.parent / "status.json")
            if status["state"] == "running":
                pids.append(int(read_jsonl(metrics.parent / "attempts.jsonl")[-1]["pid"]))
        if len(pids) >= jobs:
            return pids[0]
        time.sleep(0.02)
    launcher.kill()
    raise AssertionError(f"no job of {study} started to train: {launcher.communicate()[1]}")


def test_a_killed_job_costs_no_other_and_is_started_again(killed_and_finished):
    runs = study_status(killed_and_finished)
    assert [run.state for run in runs] == ["completed"] * 15
    attempts = [read_jsonl(killed_and_finished / run.run_id / "attempts.jsonl") for run in runs]
    starts = [sum(row["event"] == "start" for row in rows) for rows in attempts]
    assert sorted(starts) == [1] * 14 + [2]  # only the killed run was started again


def test_the_grid_is_the_union_of_its_blocks(killed_and_finished):
    manifest = read_manifest(killed_and_finished)
    assert manifest is not None
    points = {
        (run["science"]["model"]["d_model"], run["science"]["budget"]["flops"])
        for run in manifest["runs"]
    }
    assert points == {(d_model, flops) for flops, sizes in GRID.items() for d_model in sizes}
    for run in manifest["runs"]:
        d_model, flops = run["science"]["model"]["d_model"], run["science"]["budget"]["flops"]
        n_params = 2 * 12 * d_model**2 + 64 * d_model  # two layers of 12 d^2, and the head
        assert run["plan"]["n_params"] == n_params
        assert run["plan"]["tokens"] == round(flops / 6 / n_params / 512) * 512
        assert run["plan"]["flops"] == 6 * n_params * run["plan"]["tokens"]


def test_no_loss_beats_the_source_s_entropy(killed_and_finished):
    folder = next((killed_and_finished.parents[1] / "data").glob("tiny-*/manifest.json"))
    entropy_rate = read_json(folder)["source"]["entropy_rate"]
    losses = [run.loss for run in study_status(killed_and_finished)]
    assert all(loss is not None and loss > entropy_rate for loss in losses)
    source = markov_source(SyntheticConfig(tokens=2_000_000), 64)
    unigram = -sum(p * math.log(p) for p in source.stationary_V)
    assert min(loss for loss in losses if loss is not None) < unigram  # it learned the order


def test_a_finished_study_is_a_no_op(killed_and_finished, workplace):
    before = {path: path.read_bytes() for path in killed_and_finished.glob("*/result.json")}
    assert len(before) == 15
    again = train("-m", "study=tiny", root=workplace)
    assert again.returncode == 0, again.stderr
    assert "15 completed" in again.stderr
    assert {path: path.read_bytes() for path in killed_and_finished.glob("*/result.json")} == before
    attempts = [len(read_jsonl(path)) for path in killed_and_finished.glob("*/attempts.jsonl")]
    assert sorted(attempts) == [2] * 14 + [3]


def test_another_grid_under_the_name_is_refused(killed_and_finished, workplace):
    manifest = (killed_and_finished / "manifest.json").read_bytes()
    refused = train("-m", "study=tiny", "optimizer.lr=0.02", root=workplace)
    assert refused.returncode == 2
    assert "was planned with another grid; 15 of 15 runs are not in it" in refused.stderr
    assert "study.extend=true" in refused.stderr
    assert (killed_and_finished / "manifest.json").read_bytes() == manifest


def test_the_plan_prices_every_run_and_trains_nothing(workplace):
    words = ("-m", "study=tiny", "study.name=priced", "dry_run=true")
    plan = train(*words, root=workplace)
    assert plan.returncode == 0, plan.stderr
    assert plan.stdout.count("planned") == 15
    assert "15 runs on" in plan.stdout
    assert "d8l2-326k-lr1.00e-02-s0" in plan.stdout
    assert not (workplace / "runs" / "priced").exists()


def test_status_prints_every_run(killed_and_finished, workplace):
    status = command("train.status", "study=tiny", root=workplace)
    assert status.returncode == 0, status.stderr
    assert (
        "15 runs: 15 completed; 100% of 7.01e+10 FLOPs; 16 attempts, cut short: 1 killed"
        in status.stdout
    )


def test_the_analysis_fits_the_study(killed_and_finished, workplace):
    done = command("analysis", "study=tiny", "bootstrap=200", root=workplace)
    assert done.returncode == 0, done.stderr
    assert "(isoflop)" in done.stdout
    out = killed_and_finished / "analysis"
    fits = json.loads((out / "fits.json").read_text(encoding="utf-8"))
    assert fits["schema"] == 1
    assert fits["inputs"]["rows"] == fits["inputs"]["used"] == 15
    valleys = fits["isoflop"]["valleys"]
    assert [valley["flops"] for valley in valleys] == pytest.approx([2e9, 4e9, 8e9], rel=5e-3)
    assert all(valley["bracketed"] for valley in valleys)
    low, high = fits["isoflop"]["a_ci"]
    assert low <= fits["isoflop"]["a"] <= high
    for name in ("report.html", "runs.csv", "runs.parquet", "figures/isoflop_curves.png"):
        assert (out / name).stat().st_size > 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("study=tinny",), "study=tinny: there is no such config; did you mean tiny?"),
        (("study=tiny", "budget.flops=8e12"), "or allow repetition with data.allow_repeat=true"),
    ],
)
def test_a_study_that_cannot_be_meant_trains_nothing(workplace, words, message):
    refused = train("-m", *words, "study.name=refused", root=workplace)
    assert refused.returncode == 2, refused.stderr
    assert message in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not (workplace / "runs" / "refused").exists()


def test_a_stop_is_passed_on_and_the_command_continues(workplace, killed_and_finished):
    """A scheduler's SIGTERM reaches the jobs through their launcher, and none is left running."""
    del killed_and_finished  # the data it prepared is used again
    study = workplace / "runs" / "stopped"
    words = ["study=tiny", "study.name=stopped", "budget.flops=8e9", "model.d_model=8,12"]
    launcher = start_launcher(*words, root=workplace)
    _wait_for_a_job(study, launcher)
    launcher.send_signal(signal.SIGTERM)
    _, errors = launcher.communicate(timeout=120)
    assert launcher.returncode == 75, errors
    assert "stopped by SIGTERM with jobs under way; the same command continues" in errors
    stopped = study_status(study)
    assert "preempted" in {run.state for run in stopped}
    assert not {"running", "stale", "failed"} & {run.state for run in stopped}
    again = train("-m", *words, root=workplace)
    assert again.returncode == 0, again.stderr
    assert [run.state for run in study_status(study)] == ["completed"] * 2


def test_jobs_of_a_killed_launcher_go_on_and_the_command_waits_for_them(
    workplace, killed_and_finished
):
    del killed_and_finished  # the data it prepared is used again
    study = workplace / "runs" / "orphaned"
    words = ["study=tiny", "study.name=orphaned", "budget.flops=8e9", "model.d_model=8,12"]
    words.append("machine.workers=2")
    launcher = start_launcher(*words, root=workplace)
    _wait_for_a_job(study, launcher, jobs=2)
    launcher.kill()
    launcher.communicate()
    again = train("-m", *words, root=workplace)
    assert again.returncode == 0, again.stderr
    runs = study_status(study)
    assert [(run.state, run.attempts, dict(run.stops)) for run in runs] == [
        ("completed", 1, {})
    ] * 2


def test_a_folder_that_cannot_be_written_is_a_storage_error(workplace):
    refused = train("-m", "study=tiny", "paths.runs=/proc/nowhere", root=workplace)
    assert refused.returncode == 3, refused.stderr
    assert refused.stderr.startswith("error: ")
    assert "/proc/nowhere" in refused.stderr
    assert "Traceback" not in refused.stderr
