"""The loop's promises, on real processes and real folders: resume, divergence, order, no-ops."""

import dataclasses
import json
import math
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from train import recording
from train.config import (
    BudgetConfig,
    Config,
    DataConfig,
    EvalConfig,
    MachineConfig,
    ModelConfig,
    OptimizerConfig,
    PathsConfig,
    ScheduleConfig,
    Source,
    StudyConfig,
    SyntheticConfig,
)
from train.errors import (
    DivergedError,
    InfrastructureError,
    LockedError,
    PreemptedError,
    RecordsError,
    StorageError,
)
from train.evaluate import Evaluation
from train.loop import train_run
from train.records import read_json, read_jsonl
from train.run import Run
from train.rundir import RunFolder
from train.validate import validate

STEPS = 60
TIMES = ("seconds", "tokens_per_second", "mfu", "study")
"""Columns that a clock writes, and the folder's name."""


def tiny_config(root: Path, **overrides: Any) -> Config:
    """60 steps of a 2-layer model of width 16 on synthetic text: about a second."""
    fields: dict[str, Any] = {
        "model": ModelConfig(d_model=16),
        "data": DataConfig(
            name="tiny",
            source=Source.synthetic,
            seq_len=32,
            validation_tokens=4_000,
            synthetic=SyntheticConfig(tokens=40_000, document_tokens=500),
        ),
        "optimizer": OptimizerConfig(lr=0.01, batch_tokens=256),
        "schedule": ScheduleConfig(warmup_steps=5),
        "budget": BudgetConfig(tokens=STEPS * 256),
        "eval": EvalConfig(points=3, tokens=2_048),
        "study": StudyConfig(name="tiny"),
        "machine": MachineConfig(log_every=7, checkpoint_minutes=60.0),
        "paths": PathsConfig(runs=str(root / "runs"), data=str(root / "data")),
    }
    return Config(**{**fields, **overrides})


def run_to_end(config: Config) -> RunFolder:
    plan = validate(config)
    train_run(config, plan)
    return RunFolder(Path(config.paths.runs) / config.study.name / plan.run_id)


def without_times(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows less what the clock wrote; empty rows would compare nothing."""
    assert rows
    return [{key: row[key] for key in row if key not in TIMES} for row in rows]


def assert_same_record(a: RunFolder, b: RunFolder) -> None:
    for name in ("metrics", "evals"):
        rows_a, rows_b = read_jsonl(getattr(a, name)), read_jsonl(getattr(b, name))
        assert without_times(rows_a) == without_times(rows_b)
    row_a, row_b = read_json(a.result)["row"], read_json(b.result)["row"]
    assert without_times([row_a]) == without_times([row_b])


def test_a_run_writes_its_whole_record(tmp_path: Path) -> None:
    folder = run_to_end(tiny_config(tmp_path))
    metrics, evals = read_jsonl(folder.metrics), read_jsonl(folder.evals)
    assert [row["step"] for row in metrics] == [7, 14, 21, 28, 35, 42, 49, 56, 60]
    assert [row["step"] for row in evals] == [1, 4, 15, 60]  # 60/60, 60 * 60**-(2/3), ...
    assert metrics[0]["loss"] > metrics[-1]["loss"]
    assert evals[0]["n_tokens"] == 2_048
    result = read_json(folder.result)
    assert result["state"] == folder.state() == "completed"
    assert result["row"]["loss"] == evals[-1]["loss"]
    assert result["row"]["tokens"] == STEPS * 256
    assert result["row"]["loss_train"] == metrics[-1]["loss"]
    # synthetic text has one byte per token
    assert result["row"]["bits_per_byte"] == pytest.approx(result["row"]["loss"] / math.log(2))
    facts = read_json(folder.run)
    assert facts["n_params"]["standard"] == result["row"]["n_params"]
    assert facts["data"]["sha256"] == result["data_sha256"] == evals[0]["data_sha256"]
    events = [row["event"] for row in read_jsonl(folder.attempts)]
    assert events == ["start", "end"]


def test_the_first_evaluation_is_near_a_uniform_guess(tmp_path: Path) -> None:
    folder = run_to_end(tiny_config(tmp_path, optimizer=OptimizerConfig(lr=1e-9, batch_tokens=256)))
    assert read_jsonl(folder.evals)[0]["loss"] == pytest.approx(math.log(256), abs=1e-4)


def test_a_finished_run_is_left_alone(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    folder = run_to_end(config)
    before = {path: path.stat().st_mtime_ns for path in folder.path.iterdir() if path.is_file()}
    run_to_end(config)
    after = {path: path.stat().st_mtime_ns for path in folder.path.iterdir() if path.is_file()}
    assert {p: t for p, t in after.items() if p.name != "run.lock"} == {
        p: t for p, t in before.items() if p.name != "run.lock"
    }


def test_the_same_config_trains_the_same_bits(tmp_path: Path) -> None:
    a = run_to_end(tiny_config(tmp_path, study=StudyConfig(name="a")))
    b = run_to_end(tiny_config(tmp_path, study=StudyConfig(name="b")))
    rows_a, rows_b = read_jsonl(a.metrics), read_jsonl(b.metrics)
    assert without_times(rows_a) == without_times(rows_b)


def test_another_seed_trains_other_bits(tmp_path: Path) -> None:
    a = run_to_end(tiny_config(tmp_path))
    b = run_to_end(tiny_config(tmp_path, seed=1))
    assert read_json(a.result)["row"]["loss"] != read_json(b.result)["row"]["loss"]


CHILD = """
import os, sys, signal
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_loop import tiny_config
from train import loop
from train.config import MachineConfig, StudyConfig
from train.validate import validate
config = tiny_config(Path({root!r}), study=StudyConfig(name="killed"),
                     machine=MachineConfig(log_every=7, checkpoint_steps={every}))
real = loop.train_step
calls = 0
def train_step(*args, **kwargs):
    global calls
    calls += 1
    if calls == {step}:
        os.kill(os.getpid(), signal.{name})
    return real(*args, **kwargs)
loop.train_step = train_step
try:
    loop.train_run(config, validate(config))
except Exception as error:
    sys.exit(error.exit_code)
"""


def stop_child_at(step: int, name: str, root: Path, *, every: int | None = None) -> int:
    """Train in a child that sends itself a signal at its `step`-th update; return its exit code."""
    code = CHILD.format(
        tests=str(Path(__file__).parent), root=str(root), step=step, name=name, every=every
    )
    return subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode


@pytest.mark.parametrize(("step", "resumes_at"), [(1, 0), (9, 7), (35, 28), (60, 56)])
def test_a_killed_run_resumes_to_the_same_record(
    tmp_path: Path, step: int, resumes_at: int
) -> None:
    whole = run_to_end(tiny_config(tmp_path))
    assert stop_child_at(step, "SIGKILL", tmp_path, every=7) == -signal.SIGKILL
    resumed = run_to_end(tiny_config(tmp_path, study=StudyConfig(name="killed")))
    starts = [row for row in read_jsonl(resumed.attempts) if row["event"] == "start"]
    assert [row["start_step"] for row in starts] == [0, resumes_at]
    assert_same_record(whole, resumed)


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 75), ("SIGINT", 130)])
def test_a_stopped_run_saves_and_resumes_where_it_was(tmp_path: Path, name: str, code: int) -> None:
    whole = run_to_end(tiny_config(tmp_path))
    assert stop_child_at(11, name, tmp_path) == code
    folder = RunFolder(next((tmp_path / "runs" / "killed").iterdir()))
    assert folder.state() == "preempted"
    assert "after step 11" in folder.read_status()["reason"]
    resumed = run_to_end(tiny_config(tmp_path, study=StudyConfig(name="killed")))
    assert [r["start_step"] for r in read_jsonl(resumed.attempts) if r["event"] == "start"] == [
        0,
        11,
    ]
    assert_same_record(whole, resumed)


def test_a_signal_after_the_last_look_is_honoured_at_the_next_boundary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stop must not be reported before the step whose state was saved."""
    real = recording.write_running

    def signalled(run: Run) -> None:
        real(run)
        if run.step == 21:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("train.loop.write_running", signalled)
    with pytest.raises(PreemptedError, match="after step 22"):
        run_to_end(tiny_config(tmp_path))
    folder = RunFolder(next((tmp_path / "runs" / "tiny").iterdir()))
    assert folder.read_status()["step"] == 22
    assert [path.name for path in folder.checkpoints.iterdir()] == ["step_00000022"]


def die_with_key_error(*args: object, **kwargs: object) -> None:
    """Stands for any death at this point."""
    raise KeyError


def test_checkpoints_are_written_by_steps_and_at_the_end(tmp_path: Path) -> None:
    machine = MachineConfig(log_every=7, checkpoint_steps=25, checkpoint_keep=9)
    folder = run_to_end(tiny_config(tmp_path, machine=machine))
    names = sorted(path.name for path in folder.checkpoints.iterdir())
    assert names == ["step_00000025", "step_00000050", "step_00000060"]


def test_checkpoints_are_written_by_minutes_at_logged_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train.clock.LARGEST_SAVE_SHARE", 1e9)
    machine = MachineConfig(log_every=25, checkpoint_minutes=1e-9, checkpoint_keep=9)
    folder = run_to_end(tiny_config(tmp_path, machine=machine))
    names = sorted(path.name for path in folder.checkpoints.iterdir())
    assert names == ["step_00000025", "step_00000050", "step_00000060"]


def test_a_run_killed_after_its_last_step_is_completed_without_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run_to_end(tiny_config(tmp_path))
    late = tiny_config(tmp_path, study=StudyConfig(name="late"))
    with monkeypatch.context() as patched:
        patched.setattr("train.loop.complete", die_with_key_error)
        with pytest.raises(KeyError):
            run_to_end(late)
    monkeypatch.setattr("train.loop.train_step", die_with_key_error)
    assert_same_record(whole, run_to_end(late))


def test_a_run_killed_after_its_result_is_not_trained_again(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    folder = run_to_end(config)
    folder.write_status("running", step=56, total_steps=STEPS)
    before = folder.result.read_bytes()
    run_to_end(config)
    assert folder.state() == "completed"
    assert folder.result.read_bytes() == before
    assert folder.attempt_number() == 1


def test_epochs_are_recorded_when_repetition_is_allowed(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, budget=BudgetConfig(tokens=200 * 256))
    config.data.allow_repeat = True
    folder = run_to_end(config)
    facts = read_json(folder.run)["data"]
    windows = (facts["train_tokens"] - 1) // 32
    assert facts["epochs"] == 200 * 256 / (windows * 32)
    assert facts["epochs"] > 1.3
    assert read_json(folder.result)["epochs"] == facts["epochs"]


def test_rows_after_the_checkpoint_are_set_aside(tmp_path: Path) -> None:
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


def test_a_non_finite_loss_ends_the_run_as_diverged(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, optimizer=OptimizerConfig(lr=1e30, batch_tokens=256))
    with pytest.raises(DivergedError, match=r"step 2: loss .* gradient norm nan"):
        run_to_end(config)
    folder = RunFolder(next((tmp_path / "runs" / "tiny").iterdir()))
    assert folder.state() == "diverged"
    assert folder.read_status()["exit_code"] == 5
    assert not folder.result.exists()
    run_to_end(config)  # a diverged run is finished: again is a no-op
    assert folder.attempt_number() == 1


def test_a_second_process_is_refused_while_the_first_trains(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    plan = validate(config)
    folder = RunFolder(tmp_path / "runs" / "tiny" / plan.run_id)
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time; from pathlib import Path; from train.rundir import RunFolder\n"
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


def test_micro_batches_change_nothing_beyond_rounding(tmp_path: Path) -> None:
    whole = run_to_end(tiny_config(tmp_path))
    machine = MachineConfig(log_every=7, micro_batch_seqs=2)
    split = run_to_end(tiny_config(tmp_path, machine=machine, study=StudyConfig(name="split")))
    assert whole.path.name == split.path.name  # plumbing is not identity
    losses = [read_json(folder.result)["row"]["loss"] for folder in (whole, split)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def test_config_and_facts_are_plain_yaml_and_json(tmp_path: Path) -> None:
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
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    kind: type[Exception],
    cause: str,
    words: str,
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise error

    config = tiny_config(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr("train.loop.train_step", fail)
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


def test_rows_that_are_lost_stop_a_run_until_it_may_start_again(tmp_path: Path) -> None:
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


def test_replayed_rows_are_compared_and_reported(tmp_path: Path) -> None:
    assert stop_child_at(30, "SIGKILL", tmp_path) == -signal.SIGKILL
    folder = run_to_end(tiny_config(tmp_path, study=StudyConfig(name="killed")))
    expected = {"rows": 4 + 3, "differing": 0, "largest": 0.0, "first_step": None}
    assert read_json(folder.result)["replayed"] == expected
    assert read_jsonl(folder.attempts)[-1]["replayed"] == expected


def test_a_replay_that_differs_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert stop_child_at(30, "SIGKILL", tmp_path) == -signal.SIGKILL
    real = recording.evaluate

    def drifted(*args: Any, **kwargs: Any) -> Evaluation:
        found = real(*args, **kwargs)
        return dataclasses.replace(found, loss=found.loss + 0.5)

    monkeypatch.setattr("train.recording.evaluate", drifted)
    with pytest.warns(UserWarning, match=r"3 of 7 rows that were computed twice differ, first at"):
        folder = run_to_end(tiny_config(tmp_path, study=StudyConfig(name="killed")))
    assert read_json(folder.result)["replayed"]["differing"] == 3
    assert read_json(folder.result)["replayed"]["largest"] == pytest.approx(0.5)
