"""W&B in jobs of several runs: each run has its own mirror, complete from its first step."""

import pytest

from faults.patches import At, Kill
from faults.runner import ends
from faults.shared_jobs import FORKS, HORIZONS, kill_job, two_by_three
from faults.wandb_faults import logged
from tests.builders import changed, planned
from tests.train.mirror_requests import calls_of
from tests.train.shared_runs import train_alone, train_job, with_machine, with_optimizer
from train.config.runtime import TrackerKind
from train.run_folder.run_folder import folder_of
from train.storage.records import read_jsonl


@pytest.fixture
def configs(tmp_path, calls, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    return [changed(each, {"tracker.kind": TrackerKind.wandb}) for each in two_by_three(tmp_path)]


def steps_with(rows, column):
    return [row["progress/step"] for row in rows if column in row]


def assert_complete(rows, folder):
    metrics, evals = read_jsonl(folder.metrics), read_jsonl(folder.evals)
    assert steps_with(rows, "train/loss") == [row["step"] for row in metrics]
    assert [row["train/loss"] for row in rows if "train/loss" in row] == [
        row["loss"] for row in metrics
    ]
    assert len(rows) == len(metrics) + len(evals)


def test_every_run_has_a_mirror_and_a_branch_s_carries_its_trunk_s_rows(configs, calls):
    folders = train_job(configs)
    rows = logged(calls)
    assert sorted(rows) == sorted(f"{folder.path.name}-a1" for folder in folders)
    for folder in folders:
        assert_complete(rows[f"{folder.path.name}-a1"], folder)
        (end,) = ends(folder)
        assert end["mirror"]["rows"] == len(rows[f"{folder.path.name}-a1"])
    assert len(calls_of(calls, "finish")) == 6


def test_the_mirror_of_a_branch_that_goes_on_begins_where_it_does(configs, calls):
    branch = folder_of(planned(configs[2]))
    kill_job(
        configs,
        At(
            "train.training.recording:save_checkpoint",
            Kill(),
            mentions=f"{branch.path.name}/checkpoints {HORIZONS[1]}",
        ),
    )
    train_job(configs)
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
