"""W&B in jobs of several runs: each run has its own mirror, complete from its first step."""

import dataclasses

import pytest

from faults.patches import At, Kill
from faults.runner import ends
from faults.shared_jobs import FORKS, HORIZONS, TrainJob, kill_job, two_by_three
from faults.wandb_faults import leave_no_key, of_kind, use_fake
from tests.builders import planned
from tests.train.shared_runs import train_alone, train_job, with_machine, with_optimizer
from train.config.runtime import TrackerConfig, TrackerKind
from train.run_folder.run_folder import folder_of
from train.storage.records import read_jsonl


@pytest.fixture
def calls(tmp_path, monkeypatch):
    leave_no_key(tmp_path / "home", monkeypatch)
    monkeypatch.setenv("WANDB_MODE", "offline")
    return use_fake(tmp_path / "calls", monkeypatch)


@pytest.fixture
def configs(tmp_path):
    return [_mirrored(config) for config in two_by_three(tmp_path)]


def _mirrored(config):
    return dataclasses.replace(config, tracker=TrackerConfig(kind=TrackerKind.wandb))


def train(start, configs):
    child = start(configs[0], command=TrainJob(tuple(configs)))
    outcome = child.wait()
    assert outcome.exit_code == 0, outcome
    return [folder_of(planned(config)) for config in configs]


def logged(calls):
    ids = {call["pid"]: call["words"]["id"] for call in of_kind(calls, "init")}
    rows = {name: [] for name in ids.values()}
    for call in of_kind(calls, "log"):
        rows[ids[call["pid"]]].append(call["values"])
    return rows


def steps_with(rows, column):
    return [row["progress/step"] for row in rows if column in row]


def assert_complete(rows, folder):
    """Check that the W&B run has every row of the run folder once."""
    metrics, evals = read_jsonl(folder.metrics), read_jsonl(folder.evals)
    assert steps_with(rows, "train/loss") == [row["step"] for row in metrics]
    assert [row["train/loss"] for row in rows if "train/loss" in row] == [
        row["loss"] for row in metrics
    ]
    assert len(rows) == len(metrics) + len(evals)


def test_every_run_has_a_mirror_and_a_branch_s_carries_its_trunk_s_rows(configs, calls, started):
    folders = train(started, configs)
    rows = logged(calls)
    assert sorted(rows) == sorted(f"{folder.path.name}-a1" for folder in folders)
    for folder in folders:
        assert_complete(rows[f"{folder.path.name}-a1"], folder)
        (end,) = ends(folder)
        assert end["mirror"]["rows"] == len(rows[f"{folder.path.name}-a1"])
    assert len(of_kind(calls, "finish")) == 6


def test_the_mirror_of_a_branch_that_goes_on_begins_where_it_does(configs, calls, started):
    branch = folder_of(planned(configs[2]))
    kill_job(
        configs,
        At(
            "train.training.recording:save_checkpoint",
            Kill(),
            mentions=f"{branch.path.name}/checkpoints {HORIZONS[1]}",
        ),
    )
    train(started, configs)
    rows = logged(calls)
    again = rows[f"{branch.path.name}-a2"]
    assert min(row["progress/step"] for row in again) > FORKS[HORIZONS[1]]
    assert steps_with(again, "train/loss")[-1] == HORIZONS[1]


def test_a_run_that_diverges_on_another_s_trunk_is_mirrored_to_its_end(configs, calls, tmp_path):
    configs = [with_machine(with_optimizer(each, lr=3e6), log_every=1) for each in configs[::2]]
    folders = train_job(configs)
    assert [folder.state() for folder in folders] == ["diverged"] * 3
    rows = logged(calls)
    for folder, alone in zip(folders, train_alone(configs, tmp_path / "alone"), strict=True):
        assert read_jsonl(alone.metrics)
        assert_complete(rows[f"{folder.path.name}-a1"], alone)
