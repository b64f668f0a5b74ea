"""A study whose runs share stacks and trunks, through the commands a user types.

Two learning rates at three horizons are one job; whatever becomes of the job, each run ends with
the record of the run trained alone.
"""

import dataclasses
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from tests.train.shared_runs import assert_same_record, planned, train_job
from train.config.compose import to_config
from train.config.schema import Config
from train.plan.grouping import group_runs
from train.run_folder.manifest import read_manifest
from train.run_folder.run_folder import RunFolder
from train.storage.records import read_json, read_jsonl

REPO = Path(__file__).resolve().parents[2]

STUDY = """
# @package _global_
study:
  name: shared
  grid:
    - {optimizer.lr: [0.01, 0.02], budget.tokens: [7680, 5120, 3840]}
data:
  source: synthetic
  name: shared
  vocab_size: 64
  seq_len: 16
  validation_tokens: 4000
  synthetic: {tokens: 40000, document_tokens: 500}
model: {d_model: 16, head_dim: 8}
optimizer: {batch_tokens: 128}
schedule: {warmup_tokens_per_param: null, warmup_steps: 3, cooldown_fraction: 0.25}
eval: {points: 3, tokens: 1024}
machine: {device: cpu, stack: 2, workers: 1, log_every: 7, checkpoint_steps: 10}
"""
STEPS = (60, 40, 30)
FORKS = {40: 30, 30: 22}


class Workplace:
    """A folder with the study's file, in which commands run."""

    def __init__(self, root):
        self.root, self.study = root, root / "runs" / "shared"
        (root / "conf" / "study").mkdir(parents=True)
        (root / "conf" / "study" / "shared.yaml").write_text(STUDY, encoding="utf-8")

    def words(self, *words):
        """A command line, from its module on."""
        options = ["--config-dir", str(self.root / "conf")] if words[0] == "train" else []
        return [sys.executable, "-m", words[0], *options, *words[1:]]

    def start(self, *words):
        """Begin a command."""
        return subprocess.Popen(
            self.words(*words),
            cwd=self.root,
            env={**os.environ, "PYTHONPATH": str(REPO)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *words):
        """Run a command that succeeds; return what it printed."""
        process = self.start(*words)
        output, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors
        return output

    def launch(self, *words):
        """Launch the study."""
        return self.run("train", "-m", "study=shared", "schedule=wsd", *words)

    def folders(self, steps=STEPS):
        """The folders of the runs by steps and learning rate, in the manifest's order."""
        manifest = read_manifest(self.study)
        assert manifest is not None
        found = {}
        for entry in manifest["runs"]:
            key = (int(entry["plan"]["steps"]), float(entry["plan"]["lr"]))
            found[key] = RunFolder(self.study / entry["run_id"])
        assert sorted({key[0] for key in found}) == sorted(steps)
        return found

    def alone(self, folder):
        """The run of a folder trained alone, in this process."""
        config = config_of(folder)
        data = str(self.root / config.paths.data)
        paths = dataclasses.replace(config.paths, runs=str(self.root / "alone"), data=data)
        return train_job([dataclasses.replace(config, paths=paths)])[0]


def config_of(folder):
    """What a run was trained by."""
    tree = OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.load(folder.config))
    return to_config(tree)


def starts(folder):
    return [row for row in read_jsonl(folder.attempts) if row["event"] == "start"]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """Where the study is."""
    return Workplace(tmp_path_factory.mktemp("shared"))


@pytest.fixture(scope="module")
def finished(workplace):
    """The study, trained to its end."""
    workplace.launch()
    return workplace


def test_a_study_of_replicas_and_horizons_is_one_job_of_records_as_if_alone(finished):
    folders = finished.folders()
    assert len(folders) == 6
    for (steps, lr), folder in folders.items():
        (start,) = starts(folder)
        assert len(start["stacked_with"]) == 1
        assert start["start_step"] == FORKS.get(steps, 0)
        assert start.get("forked_from") == (folders[60, lr].path.name if steps in FORKS else None)
        assert_same_record(folder, finished.alone(folder))
    pids = {row["pid"] for folder in folders.values() for row in read_jsonl(folder.attempts)}
    assert len(pids) == 1


def test_the_status_charges_what_is_shared_once(finished):
    told = finished.run("train.status", "study=shared")
    folders = finished.folders()
    runs = [planned(config_of(folder)) for folder in folders.values()]
    (group,) = group_runs(runs, best_stack=lambda run, n: n)
    costs = [read_json(folder.result)["cost"] for folder in folders.values()]
    assert sum(cost["flops_charged"] for cost in costs) == group.shared_flops
    share = group.shared_flops / group.own_flops
    line = next(line for line in told.splitlines() if line.startswith("cost: "))
    assert f"cost: {group.own_flops:.3g} FLOPs of 6 runs" in line
    assert f"for {group.shared_flops:.3g} computed ({share:.0%})" in line
    assert 0.5 < share < 0.7


@pytest.mark.slow
def test_a_second_launch_trains_nothing(finished):
    before = {path: path.read_bytes() for path in finished.study.glob("*/*.jsonl")}
    finished.launch()
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.slow
def test_horizons_that_are_added_later_are_trained_from_their_start_to_the_same_bits(finished):
    """The shorter finds no checkpoint at its fork any more; the longer has never had a trunk."""
    grid = "optimizer.lr=0.01,0.02", "budget.tokens=10240,7680,5120,3840,2560"
    before = {path: path.read_bytes() for path in finished.study.glob("*/result.json")}
    finished.launch("study.extend=true", "study.grid=[]", *grid)
    folders = finished.folders((80, *STEPS, 20))
    for (steps, lr), folder in folders.items():
        if steps in (80, 20):
            (start,) = starts(folder)
            # the two are one job: the new shorter one branches off the new longer one
            assert start.get("forked_from") == (folders[80, lr].path.name if steps == 20 else None)
            assert_same_record(folder, finished.alone(folder))
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.slow
def test_a_study_that_was_stopped_goes_on_by_any_command(tmp_path):
    """One of its runs by its own command, then the rest by a launch."""
    place = Workplace(tmp_path)
    data = "data.synthetic.tokens=100000", "machine.checkpoint_steps=25"
    grid = "optimizer.lr=0.01,0.02", "budget.tokens=64000,44800,25600", "study.grid=[]"
    launcher = place.start("train", "-m", "study=shared", "schedule=wsd", *data, *grid)
    stop_when_training(place.study, launcher)
    folders = place.folders((500, 350, 200))
    assert {folder.state() for folder in folders.values()} <= {"preempted", "planned"}
    middle = folders[350, 0.01]
    begun = middle.checkpoints.exists()  # it may have come to its fork
    own = "optimizer.lr=0.01", "budget.tokens=44800", "study.grid=[]"
    place.run("train", "study=shared", "schedule=wsd", *data, *own)
    assert middle.state() == "completed"
    assert starts(middle)[0]["start_step"] == (262 if begun else 0)
    place.launch(*data, *grid)
    for key in ((500, 0.02), (350, 0.01), (200, 0.02)):
        assert folders[key].state() == "completed"
        assert_same_record(folders[key], place.alone(folders[key]))


def stop_when_training(study, launcher):
    """SIGTERM to a launcher once its job logs rows; it passes it on."""
    deadline = time.monotonic() + 120
    while not any(path.stat().st_size for path in study.glob("*/metrics.jsonl")):
        assert launcher.poll() is None, launcher.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    launcher.send_signal(signal.SIGTERM)
    _, errors = launcher.communicate(timeout=120)
    assert launcher.returncode == 75, errors
    assert re.search("same command", errors)
