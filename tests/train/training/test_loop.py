"""The training loop: what is due when, stops at the next step, and divergence at the next look."""

import itertools
import json
import math
import signal

import pytest
from faults.damage import names
from faults.runner import run_folder, run_here
from faults.same_run import without_clock

from tests.builders import TRAINED, changed, tiny_config
from tests.train.shared_runs import with_machine
from train.engine.engine import Engine
from train.engine.optimizer import AdamW
from train.errors import DivergedError, PreemptedError
from train.run_folder.accounting import RunClock, TimeKind
from train.storage.records import read_json, read_jsonl
from train.training import recording


def test_a_run_writes_its_whole_record(tmp_path):
    folder = run_here(tiny_config(tmp_path, TRAINED))
    metrics, evals = read_jsonl(folder.metrics), read_jsonl(folder.evals)
    assert [row["step"] for row in metrics] == [7, 14, 21, 28, 35, 42, 49, 56, 60]
    assert [row["step"] for row in evals] == [1, 4, 15, 60]  # 60/60, 60 * 60**-(2/3), ...
    assert metrics[0]["loss"] > metrics[-1]["loss"]
    assert evals[0]["n_tokens"] == 2_048
    result = read_json(folder.result)
    assert result["state"] == folder.state() == "completed"
    assert result["row"]["loss"] == evals[-1]["loss"]
    assert result["row"]["tokens"] == 60 * 256
    assert result["row"]["loss_train"] == metrics[-1]["loss"]
    # synthetic text has one byte per token
    assert result["row"]["bits_per_byte"] == pytest.approx(result["row"]["loss"] / math.log(2))
    facts = read_json(folder.run)
    assert facts["n_params"]["standard"] == result["row"]["n_params"]
    assert facts["data"]["sha256"] == result["data_sha256"] == evals[0]["data_sha256"]
    assert json.dumps(facts)  # no NaN, no infinity
    assert "d_model: 16" in folder.config.read_text(encoding="utf-8")
    events = [row["event"] for row in read_jsonl(folder.attempts)]
    assert events == ["start", "end"]


def test_steps_are_taken_up_to_where_something_is_due(tmp_path, monkeypatch):
    ends, real = [], Engine.advance

    def advance(engine, n_steps, **settings):
        segment = real(engine, n_steps, **settings)
        ends.append(engine.step)
        return segment

    monkeypatch.setattr(Engine, "advance", advance)
    run_here(tiny_config(tmp_path, TRAINED, machine__log_every=14, machine__checkpoint_steps=25))
    assert ends == [1, 4, 14, 15, 25, 28, 42, 50, 56, 60]  # 1, 4, 15 and 60 are evaluated


def test_what_compiles_before_the_first_step_is_start_up(tmp_path, monkeypatch):
    doing = []
    clocks = []

    def clock(*words, **more):
        clocks.append(RunClock(*words, **more))
        return clocks[-1]

    monkeypatch.setattr("train.training.trainer.RunClock", clock)
    monkeypatch.setattr(
        Engine, "warm_up", lambda engine: doing.append((clocks[0]._doing, engine.step))
    )
    run_here(tiny_config(tmp_path, TRAINED))
    assert doing == [(TimeKind.startup, 0)]


def test_a_row_is_the_mean_over_the_steps_since_the_last(tmp_path):
    each, seventh = (
        run_here(tiny_config(tmp_path, TRAINED, machine__log_every=every, study__name=f"{every}"))
        for every in (1, 7)
    )
    one, seven = read_jsonl(each.metrics), read_jsonl(seventh.metrics)
    for name in ("loss", "grad_norm"):
        means = [math.fsum(row[name] for row in one[i : i + 7]) / 7 for i in range(0, 56, 7)]
        means.append(math.fsum(row[name] for row in one[56:]) / 4)
        assert [row[name] for row in seven] == pytest.approx(means, rel=1e-12)
    assert [row["lr"] for row in seven] == [one[row["step"] - 1]["lr"] for row in seven]
    assert without_clock(read_jsonl(each.evals)) == without_clock(read_jsonl(seventh.evals))


def test_the_first_evaluation_is_near_a_uniform_guess(tmp_path):
    folder = run_here(tiny_config(tmp_path, TRAINED, optimizer__lr=1e-9))
    assert read_jsonl(folder.evals)[0]["loss"] == pytest.approx(math.log(256), abs=1e-4)


def test_a_signal_after_the_last_look_is_honoured_at_the_next_boundary(tmp_path, monkeypatch):
    """The stop must not be reported before the step whose state was saved."""
    real = recording.write_running

    def signalled(run, *words):
        real(run, *words)
        if run.step == 21:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("train.training.loop.write_running", signalled)
    config = tiny_config(tmp_path, TRAINED)
    with pytest.raises(PreemptedError, match="after step 22"):
        run_here(config)
    folder = run_folder(config)
    assert folder.read_status()["step"] == 22
    assert names(folder.checkpoints) == ["step_00000022"]


@pytest.mark.parametrize(
    "machine",
    [
        {"checkpoint_steps": 25},
        # by minutes, at the next logged step
        {"checkpoint_minutes": 1e-9, "log_every": 25},
    ],
)
def test_checkpoints_are_written_when_due_and_at_the_end(tmp_path, monkeypatch, machine):
    monkeypatch.setattr("train.run_folder.accounting.LARGEST_SAVE_SHARE", 1e9)
    config = with_machine(tiny_config(tmp_path, TRAINED), checkpoint_keep=9, **machine)
    folder = run_here(config)
    assert names(folder.checkpoints) == ["step_00000025", "step_00000050", "step_00000060"]


def diverged_at_31(config, monkeypatch):
    real, calls = AdamW.update, itertools.count(1)

    def update(optimizer, grad_RP, loss_R, lr_R):
        if next(calls) == 31:
            loss_R.mul_(math.nan)
        return real(optimizer, grad_RP, loss_R, lr_R)

    with monkeypatch.context() as patched:
        patched.setattr(AdamW, "update", update)
        with pytest.raises(DivergedError):
            run_here(config)
    return run_folder(config)


def test_divergence_between_two_looks_is_recorded_as_if_seen_at_once(tmp_path, monkeypatch):
    """The steps that were taken after it are no part of the run."""
    config = tiny_config(tmp_path, TRAINED, machine__checkpoint_steps=10)
    at_once, later = (
        diverged_at_31(
            changed(config, {"machine.log_every": every, "study.name": f"{every}"}), monkeypatch
        )
        for every in (1, 30)  # seen at step 31, and at the checkpoint of step 40
    )
    for folder in (at_once, later):
        assert folder.state() == "diverged"
        assert folder.read_status()["step"] == 31
        assert folder.read_status()["reason"].startswith("step 31: loss nan, gradient norm ")
        assert read_jsonl(folder.attempts)[-1]["step"] == 31
        assert [row["step"] for row in read_jsonl(folder.evals)] == [1, 4, 15]
        assert names(folder.checkpoints) == ["step_00000020", "step_00000030"]
    assert at_once.read_status()["reason"] == later.read_status()["reason"]
    assert [row["step"] for row in read_jsonl(at_once.metrics)] == list(range(1, 31))
    assert [row["step"] for row in read_jsonl(later.metrics)] == [30]
