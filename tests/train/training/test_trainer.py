"""A run from its lock to its result, on real processes and folders: resume, ends, no-ops."""

import dataclasses
import json
import signal
import subprocess
import sys
import time

import pytest
import torch

from tests.train.tiny_runs import (
    STEPS,
    assert_same_record,
    run_to_end,
    stop_child_at,
    tiny_config,
    without_times,
)
from train.config.experiment import BudgetConfig
from train.config.runtime import Dtype, MachineConfig, StudyConfig
from train.errors import (
    DeviceMemoryError,
    InfrastructureError,
    LockedError,
    RecordsError,
    StorageError,
)
from train.plan.planning import PlannedRun
from train.plan.validate import validate
from train.run_folder.accounting import TimeKind
from train.run_folder.run_folder import RunFolder, folder_of
from train.storage.records import read_json, read_jsonl
from train.training import loop
from train.training.trainer import train_run, train_runs


def test_a_result_tells_what_the_run_cost_and_what_its_time_went_into(tmp_path):
    config = tiny_config(tmp_path, machine=MachineConfig(log_every=7, checkpoint_steps=25))
    planned = PlannedRun(overrides=[], config=config, plan=validate(config))
    began = time.perf_counter()
    train_runs([planned], startup=100.0)
    wall = time.perf_counter() - began
    cost = read_json(folder_of(planned).result)["cost"]
    spent = cost["spent"]
    assert set(spent) == set(TimeKind)
    assert 100.0 < spent["startup"] < 100.0 + wall
    for what in ("train", "data", "evaluation", "logging", "checkpoint"):
        assert 0.0 < spent[what] < wall
    assert 0.5 * wall < sum(spent.values()) - 100.0 < 1.01 * wall
    assert cost["flops"] == cost["flops_charged"] == planned.plan.flops_exact
    assert cost["seconds"] == pytest.approx(spent["train"] + spent["data"], abs=0.01)
    assert cost["seconds"] == read_json(folder_of(planned).result)["row"]["seconds"]
    assert (cost["stack"], cost["forked_from"], cost["fork_step"]) == (1, None, None)
    told = folder_of(planned).read_status()["cost"]
    assert told["flops"] == cost["flops"]
    assert sum(told["spent"].values()) >= sum(spent.values())


def test_a_finished_run_is_left_alone(tmp_path):
    config = tiny_config(tmp_path)
    folder = run_to_end(config)
    before = {path: path.stat().st_mtime_ns for path in folder.path.iterdir() if path.is_file()}
    run_to_end(config)
    after = {path: path.stat().st_mtime_ns for path in folder.path.iterdir() if path.is_file()}
    assert {p: t for p, t in after.items() if p.name != "run.lock"} == {
        p: t for p, t in before.items() if p.name != "run.lock"
    }


def test_the_same_config_trains_the_same_bits(tmp_path):
    a = run_to_end(tiny_config(tmp_path, study=StudyConfig(name="a")))
    b = run_to_end(tiny_config(tmp_path, study=StudyConfig(name="b")))
    rows_a, rows_b = read_jsonl(a.metrics), read_jsonl(b.metrics)
    assert without_times(rows_a) == without_times(rows_b)


def test_another_seed_trains_other_bits(tmp_path):
    a = run_to_end(tiny_config(tmp_path))
    b = run_to_end(tiny_config(tmp_path, seed=1))
    assert read_json(a.result)["row"]["loss"] != read_json(b.result)["row"]["loss"]


@pytest.mark.parametrize(("step", "resumes_at"), [(1, 0), (9, 7), (35, 28), (60, 56)])
def test_a_killed_run_resumes_to_the_same_record(tmp_path, step, resumes_at):
    whole = run_to_end(tiny_config(tmp_path))
    assert stop_child_at(step, "SIGKILL", tmp_path, every=7) == -signal.SIGKILL
    resumed = run_to_end(tiny_config(tmp_path, study=StudyConfig(name="killed")))
    starts = [row for row in read_jsonl(resumed.attempts) if row["event"] == "start"]
    assert [row["start_step"] for row in starts] == [0, resumes_at]
    assert_same_record(whole, resumed)


def die_with_key_error(*args, **kwargs):
    """Stands for any death at this point."""
    raise KeyError


def test_a_run_killed_after_its_last_step_is_completed_without_another(tmp_path, monkeypatch):
    whole = run_to_end(tiny_config(tmp_path))
    late = tiny_config(tmp_path, study=StudyConfig(name="late"))
    with monkeypatch.context() as patched:
        patched.setattr("train.training.loop.complete", die_with_key_error)
        with pytest.raises(KeyError):
            run_to_end(late)
    monkeypatch.setattr("train.engine.engine.Engine._step", die_with_key_error)
    assert_same_record(whole, run_to_end(late))


def test_a_run_killed_after_its_result_is_not_trained_again(tmp_path):
    config = tiny_config(tmp_path)
    folder = run_to_end(config)
    folder.write_status("running", step=56, total_steps=STEPS)
    before = folder.result.read_bytes()
    run_to_end(config)
    assert folder.state() == "completed"
    assert folder.result.read_bytes() == before
    assert folder.attempt_number() == 1


def test_epochs_are_recorded_when_repetition_is_allowed(tmp_path):
    config = tiny_config(tmp_path, budget=BudgetConfig(tokens=200 * 256))
    config.data.allow_repeat = True
    folder = run_to_end(config)
    facts = read_json(folder.run)["data"]
    windows = (facts["train_tokens"] - 1) // 32
    assert facts["epochs"] == 200 * 256 / (windows * 32)
    assert facts["epochs"] > 1.3
    assert read_json(folder.result)["epochs"] == facts["epochs"]


def test_rows_after_the_checkpoint_are_set_aside(tmp_path):
    assert stop_child_at(13, "SIGKILL", tmp_path) == -signal.SIGKILL
    folder = run_to_end(tiny_config(tmp_path, study=StudyConfig(name="killed")))
    replayed = read_jsonl(folder.replayed)
    # no checkpoint was due: the row of step 7 and the evaluations of steps 1 and 4 come again
    assert [(row["file"], row["step"]) for row in replayed] == [
        ("metrics.jsonl", 7),
        ("evals.jsonl", 1),
        ("evals.jsonl", 4),
    ]
    assert replayed[0]["loss"] == read_jsonl(folder.metrics)[0]["loss"]


def test_a_second_process_is_refused_while_the_first_trains(tmp_path):
    config = tiny_config(tmp_path)
    plan = validate(config)
    folder = RunFolder(tmp_path / "runs" / "tiny" / plan.run_id)
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time; from pathlib import Path\n"
            "from train.run_folder.run_folder import RunFolder\n"
            "folder = RunFolder(Path(sys.argv[1]))\n"
            "with folder.locked():\n"
            "    folder.log_attempt('start', attempt=1)\n"
            "    print('held', flush=True); time.sleep(60)",
            str(folder.path),
        ],
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        began = time.monotonic()
        with pytest.raises(LockedError, match=f"process {holder.pid} on .* is training this run"):
            train_run(config, plan)
        assert time.monotonic() - began < 2.0
    finally:
        holder.kill()
        holder.communicate()
    train_run(config, plan)
    assert folder.state() == "completed"


@pytest.mark.parametrize(("dtype", "tolerance"), [(Dtype.fp32, 1e-5), (Dtype.bf16, 1e-3)])
def test_micro_batches_change_nothing_beyond_rounding(tmp_path, dtype, tolerance):
    machine = MachineConfig(log_every=7, dtype=dtype)
    whole = run_to_end(tiny_config(tmp_path, machine=machine))
    machine = dataclasses.replace(machine, micro_batch_seqs=2)
    split = run_to_end(tiny_config(tmp_path, machine=machine, study=StudyConfig(name="split")))
    assert whole.path.name == split.path.name  # plumbing is not identity
    losses = [read_json(folder.result)["row"]["loss"] for folder in (whole, split)]
    cut = [read_jsonl(folder.attempts)[0]["arithmetic"] for folder in (whole, split)]
    assert [each["micro_batch_seqs"] for each in cut] == [8, 2]
    assert losses[0] == pytest.approx(losses[1], abs=tolerance)


def test_config_and_facts_are_plain_yaml_and_json(tmp_path):
    folder = run_to_end(tiny_config(tmp_path))
    text = folder.config.read_text(encoding="utf-8")
    assert "d_model: 16" in text
    assert json.dumps(read_json(folder.run))  # no NaN, no infinity


@pytest.mark.parametrize(
    ("error", "kind", "cause", "words"),
    [
        (
            torch.AcceleratorError("CUDA error: GPU is lost\nmore"),
            InfrastructureError,
            "infrastructure",
            r"the device failed \(CUDA error: GPU is lost\); the same command continues",
        ),
        (OSError(28, "No space left on device", "x"), StorageError, "storage", "x: cannot be"),
        (ZeroDivisionError("ours"), ZeroDivisionError, "bug", "ours"),
    ],
)
def test_an_attempt_s_end_is_recorded_with_its_cause(
    tmp_path, monkeypatch, error, kind, cause, words
):
    def fail(*args, **kwargs):
        raise error

    config = tiny_config(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr("train.engine.engine.Engine._step", fail)
        with pytest.raises(kind, match=words):
            run_to_end(config)
    folder = RunFolder(next((tmp_path / "runs" / "tiny").iterdir()))
    end = read_jsonl(folder.attempts)[-1]
    assert (end["event"], end["attempt"], end["step"]) == ("end", 1, 0)
    assert (end["state"], end["cause"]) == ("failed", cause)
    assert folder.state() == "failed"
    run_to_end(config)  # again continues
    assert folder.state() == "completed"
    assert read_jsonl(folder.attempts)[-1]["cause"] is None


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
    config = tiny_config(tmp_path, machine=MachineConfig(micro_batch_seqs=2))
    with (
        pytest.warns(UserWarning, match="2 windows at a time do not fit .* with 1, the batch"),
        pytest.raises(DeviceMemoryError, match="one window of 32 tokens"),
    ):
        run_to_end(config)
    assert told[0] == ("preempted", "out of memory", 1)
    assert told[1][0] == "failed"
    assert "one window of 32 tokens of this model does not fit" in told[1][1]
    assert told[1][2] == DeviceMemoryError.exit_code
    assert len(told) == 2


def test_rows_that_are_lost_stop_a_run_until_it_may_start_again(tmp_path):
    assert stop_child_at(30, "SIGTERM", tmp_path) == 75
    config = tiny_config(tmp_path, study=StudyConfig(name="killed"))
    folder = RunFolder(tmp_path / "runs" / "killed" / validate(config).run_id)
    folder.metrics.write_text("", encoding="utf-8")
    with pytest.raises(RecordsError, match=r"rows are lost\. .* restart=true"):
        run_to_end(config)
    assert folder.state() == "failed"
    assert read_jsonl(folder.attempts)[-1]["cause"] == "storage"
    assert run_to_end(dataclasses.replace(config, restart=True)) == folder
    assert_same_record(folder, run_to_end(tiny_config(tmp_path)))
    assert (folder.path / "archive" / "1" / "checkpoints").exists()
    assert read_jsonl(folder.attempts)[0]["start_step"] == 0


def test_replayed_rows_are_compared_and_reported(tmp_path):
    assert stop_child_at(30, "SIGKILL", tmp_path) == -signal.SIGKILL
    folder = run_to_end(tiny_config(tmp_path, study=StudyConfig(name="killed")))
    expected = {"rows": 4 + 3, "differing": 0, "largest": 0.0, "first_step": None}
    assert read_json(folder.result)["replayed"] == expected
    assert read_jsonl(folder.attempts)[-1]["replayed"] == expected


def test_a_replay_that_differs_is_told(tmp_path, monkeypatch):
    assert stop_child_at(30, "SIGKILL", tmp_path) == -signal.SIGKILL
    real = loop.evaluate

    def drifted(*args, **kwargs):
        (found,) = real(*args, **kwargs)
        return [dataclasses.replace(found, loss=found.loss + 0.5)]

    monkeypatch.setattr("train.training.loop.evaluate", drifted)
    with pytest.warns(UserWarning, match=r"3 of 7 rows that were computed twice differ, first at"):
        folder = run_to_end(tiny_config(tmp_path, study=StudyConfig(name="killed")))
    assert read_json(folder.result)["replayed"]["differing"] == 3
    assert read_json(folder.result)["replayed"]["largest"] == pytest.approx(0.5)
