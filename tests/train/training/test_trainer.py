"""A run from its lock to its result: what it cost, starts that change nothing, lost rows."""

import dataclasses
import time

import pytest
import torch
from faults.runner import run_here
from faults.same_run import without_clock
from faults.spoil import crash

from tests.builders import TRAINED, changed, planned, tiny_config
from train.config.runtime import Dtype
from train.errors import DeviceMemoryError, RecordsError
from train.run_folder.accounting import TimeKind
from train.run_folder.run_folder import RunFolder, folder_of
from train.storage.records import read_json, read_jsonl
from train.training import loop
from train.training.trainer import train_runs


def test_a_result_tells_what_the_run_cost_and_what_its_time_went_into(tmp_path):
    config = tiny_config(tmp_path, TRAINED, machine__checkpoint_steps=25)
    run = planned(config)
    began = time.perf_counter()
    train_runs([run], startup=100.0)
    wall = time.perf_counter() - began
    cost = read_json(folder_of(run).result)["cost"]
    spent = cost["spent"]
    assert set(spent) == set(TimeKind)
    assert 100.0 < spent["startup"] < 100.0 + wall
    for what in ("train", "data", "evaluation", "logging", "checkpoint"):
        assert 0.0 < spent[what] < wall
    assert 0.5 * wall < sum(spent.values()) - 100.0 < 1.01 * wall
    assert cost["flops"] == cost["flops_charged"] == run.plan.flops_exact
    assert cost["seconds"] == pytest.approx(spent["train"] + spent["data"], abs=0.01)
    assert cost["seconds"] == read_json(folder_of(run).result)["row"]["seconds"]
    assert (cost["stack"], cost["forked_from"], cost["fork_step"]) == (1, None, None)
    told = folder_of(run).read_status()["cost"]
    assert told["flops"] == cost["flops"]
    assert sum(told["spent"].values()) >= sum(spent.values())


def test_a_finished_run_is_left_alone(tmp_path):
    config = tiny_config(tmp_path, TRAINED)
    folder = run_here(config)
    before = {path: path.stat().st_mtime_ns for path in folder.path.iterdir() if path.is_file()}
    run_here(config)
    after = {path: path.stat().st_mtime_ns for path in folder.path.iterdir() if path.is_file()}
    assert {p: t for p, t in after.items() if p.name != "run.lock"} == {
        p: t for p, t in before.items() if p.name != "run.lock"
    }


def test_another_seed_trains_other_bits(tmp_path):
    a = run_here(tiny_config(tmp_path, TRAINED))
    b = run_here(tiny_config(tmp_path, TRAINED, seed=1))
    assert read_json(a.result)["row"]["loss"] != read_json(b.result)["row"]["loss"]


def test_micro_batches_in_bfloat16_change_nothing_beyond_rounding(tmp_path):
    config = tiny_config(tmp_path, TRAINED, machine__dtype=Dtype.bf16)
    whole = run_here(config)
    split = run_here(changed(config, {"machine.micro_batch_seqs": 2, "study.name": "split"}))
    # plumbing is not identity
    assert whole.path.name == split.path.name
    losses = [read_json(folder.result)["row"]["loss"] for folder in (whole, split)]
    cut = [read_jsonl(folder.attempts)[0]["arithmetic"] for folder in (whole, split)]
    assert [each["micro_batch_seqs"] for each in cut] == [8, 2]
    assert losses[0] == pytest.approx(losses[1], abs=1e-3)


def test_a_micro_batch_that_does_not_fit_is_told_as_it_was_until_none_does(tmp_path, monkeypatch):
    told = []
    real = RunFolder.write_status

    def write_status(folder, state, **facts):
        if "reason" in facts:
            told.append((state, facts["reason"], facts["exit_code"]))
        real(folder, state, **facts)

    def never_fits(*args):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(RunFolder, "write_status", write_status)
    monkeypatch.setattr("train.engine.engine.Engine._step", never_fits)
    config = tiny_config(tmp_path, TRAINED, machine__micro_batch_seqs=2)
    with (
        pytest.warns(UserWarning, match="2 windows at a time do not fit .* with 1, the batch"),
        pytest.raises(DeviceMemoryError, match="one window of 32 tokens"),
    ):
        run_here(config)
    assert told[0] == ("preempted", "out of memory", 1)
    assert told[1][0] == "failed"
    assert "one window of 32 tokens of this model does not fit" in told[1][1]
    assert told[1][2] == DeviceMemoryError.exit_code
    assert len(told) == 2


def test_rows_that_are_lost_stop_a_run_until_it_may_start_again(tmp_path):
    config = tiny_config(tmp_path, TRAINED, machine__checkpoint_steps=7)
    folder = crash(config, after=30)
    folder.metrics.write_text("", encoding="utf-8")
    with pytest.raises(RecordsError, match=r"rows are lost\. .* restart=true"):
        run_here(config)
    assert folder.state() == "failed"
    assert read_jsonl(folder.attempts)[-1]["cause"] == "storage"
    assert run_here(dataclasses.replace(config, restart=True)) == folder
    whole = run_here(changed(config, {"study.name": "whole"}))
    assert without_clock(read_jsonl(folder.metrics)) == without_clock(read_jsonl(whole.metrics))
    assert (folder.path / "archive" / "1" / "checkpoints").exists()
    assert read_jsonl(folder.attempts)[0]["start_step"] == 0


def test_a_replay_that_differs_is_told(tmp_path, monkeypatch):
    config = tiny_config(tmp_path, TRAINED)
    crash(config, after=30)
    real = loop.evaluate

    def drifted(*args, **kwargs):
        (found,) = real(*args, **kwargs)
        return [dataclasses.replace(found, loss=found.loss + 0.5)]

    monkeypatch.setattr("train.training.loop.evaluate", drifted)
    with pytest.warns(UserWarning, match=r"3 of 7 rows that were computed twice differ, first at"):
        folder = run_here(config)
    replayed = read_json(folder.result)["replayed"]
    assert replayed == read_jsonl(folder.attempts)[-1]["replayed"]
    assert replayed["differing"] == 3
    assert replayed["largest"] == pytest.approx(0.5)
