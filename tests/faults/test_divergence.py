"""N1 to N3: losses, gradients and evaluations that are not finite."""

import itertools
import json
import math
from dataclasses import replace

import pytest
import torch

from analysis.intake.study import load_study
from faults.damage import contents, names, step_name
from faults.runner import run_child, run_folder, run_here
from faults.same_run import assert_equal_state, tensors
from faults.spoil import INFINITY, NAN, SpoiltStep, gradient_times, loss_times, replace_step
from tests.builders import planned
from train.engine.evaluate import evaluate
from train.engine.optimizer import AdamW
from train.errors import DivergedError
from train.run_folder.checkpoint import _load_tensors
from train.run_folder.manifest import register_runs
from train.storage.records import read_json, read_jsonl
from train.study.study import report_unfinished

SPOILT = {
    "loss-nan": loss_times(NAN),
    "loss-inf": loss_times(INFINITY),
    "gradient-nan": gradient_times(NAN),
    "gradient-inf": gradient_times(-INFINITY),
}


def saved_tensors(folder):
    """Every tensor of every checkpoint on disk, bad ones and unfinished ones included."""
    files = list(folder.checkpoints.rglob("*.pt"))
    assert files
    for file in files:
        yield from tensors(_load_tensors(file))


def is_finite(*values):
    return all(bool(tensor.isfinite().all()) for tensor in tensors(list(values)))


def train_spoilt(config, monkeypatch, kind, *, step=30):
    spoilt = SpoiltStep(step, SPOILT[kind])
    replace_step(monkeypatch, spoilt)
    with pytest.raises(DivergedError):
        run_here(config)
    return spoilt


@pytest.mark.parametrize("kind", SPOILT)
def test_n1_n2_a_run_stops_before_the_update_that_would_spoil_it(
    tiny, monkeypatch, kind, reference_run
):
    config = tiny()
    spoilt = train_spoilt(config, monkeypatch, kind)
    assert_equal_state("state", spoilt.before, spoilt.after())
    folder = run_folder(config)
    status = folder.read_status()
    assert (status["state"], status["exit_code"]) == ("diverged", DivergedError.exit_code)
    last = read_jsonl(reference_run.metrics)[28]
    assert status["reason"].startswith("step 30: loss ")
    assert f"last finite loss {last['loss']:.6g})" in status["reason"]
    assert [row["step"] for row in read_jsonl(folder.metrics)] == list(range(1, 30))
    assert names(folder.checkpoints) == [step_name(21), step_name(28)]
    assert is_finite(*saved_tensors(folder))
    assert not folder.result.exists()
    assert read_jsonl(folder.attempts)[-1]["cause"] == "diverged"
    before = contents(folder.path)
    run_here(config)  # N6: a result, so there is nothing left to do
    assert contents(folder.path) == {**before, "run.lock": contents(folder.path)["run.lock"]}


def never_frozen(monkeypatch):
    """Let every update be taken."""

    class Unfrozen(AdamW):
        def update(self, grad_RP, loss_R, lr_R):
            return super().update(grad_RP, torch.zeros_like(loss_R), lr_R)

        def _update_segment(self, *values, **settings):
            self.frozen_R.zero_()
            super()._update_segment(*values, **settings)

    monkeypatch.setattr("train.engine.engine.AdamW", Unfrozen)


@pytest.mark.parametrize("kind", ["loss-inf", "gradient-nan"])
def test_n1_n2_control_an_update_would_have_spoilt_every_weight(tiny, monkeypatch, kind):
    never_frozen(monkeypatch)
    spoilt = train_spoilt(tiny(), monkeypatch, kind)
    assert is_finite(*spoilt.before)
    assert not is_finite(*spoilt.after())


def without_a_look_at_losses(monkeypatch):
    """Neither is the update held back nor the loss looked at."""

    def observe(run, engine, clock, segment):
        run.step = engine.step
        run.window += [(segment.losses_SR[0][0], segment.grad_norms_SR[0][0])]
        run.losses.last = 4.0  # some number, for the message

    never_frozen(monkeypatch)
    monkeypatch.setattr("train.training.loop._observe", observe)


def test_n1_the_last_look_before_a_checkpoint_is_at_what_goes_into_it(tiny, monkeypatch):
    config = tiny()
    without_a_look_at_losses(monkeypatch)
    replace_step(monkeypatch, SpoiltStep(30, SPOILT["loss-nan"]))
    with pytest.raises(DivergedError, match="step 35: a weight or moment is not finite"):
        run_here(config)
    assert is_finite(*saved_tensors(run_folder(config)))


def test_n1_control_without_it_a_spoilt_state_is_committed(tiny, monkeypatch):
    config = tiny()
    without_a_look_at_losses(monkeypatch)
    monkeypatch.setattr("train.training.recording._refuse_non_finite", lambda *values: None)
    train_spoilt(config, monkeypatch, "loss-nan")
    assert not is_finite(*saved_tensors(run_folder(config)))


@pytest.mark.parametrize(
    ("lr", "reason"),
    [
        (300.0, r"step 14: loss nan, gradient norm nan \(.*, last finite loss 4\.57471\)"),
        (1e4, r"step 8: loss nan, gradient norm nan \(.*, last finite loss 4\.57471\)"),
        (1e10, r"step 3: loss nan, gradient norm nan \(.*, last finite loss [\d.e+]+\)"),
        (1e30, r"step 2: a weight or moment is not finite \(.*, last loss 4\.57471\)"),
    ],
)
def test_n1_learning_rates_far_too_large_end_as_diverged(tiny, lr, reason):
    """Nothing is spoilt by the test; a checkpoint is due at every step."""
    config = tiny(optimizer__lr=lr, machine__checkpoint_steps=1)
    with pytest.raises(DivergedError, match=reason):
        run_here(config)
    assert run_folder(config).state() == "diverged"
    assert is_finite(*saved_tensors(run_folder(config)))


def test_n1_a_study_goes_on_and_its_analysis_says_what_it_left_out(tiny, tmp_path):
    runs = [planned(tiny(optimizer__lr=lr)) for lr in (0.01, 1e30, 0.02)]
    folder = tmp_path / "runs" / "faults"
    register_runs(folder, "faults", runs, extend=False)
    run_here(runs[0].config)
    outcome = run_child(runs[1].config)
    assert outcome.exit_code == DivergedError.exit_code == 5
    assert "error: step 3: loss" in outcome.stderr
    run_here(runs[2].config)
    assert run_child(runs[1].config).exit_code == 0  # N6, through the command
    report_unfinished(folder, runs, {})  # which raises unless the study is done
    table = load_study(tmp_path / "runs", "faults", where=None, allow_incomplete=False)
    assert len(table.frame) == 2
    assert [item.run_id for item in table.excluded] == [runs[1].plan.run_id]
    assert table.excluded[0].reason == "diverged"
    assert table.excluded[0].detail.startswith("step 3: loss")


def spoil_evaluation(monkeypatch, number):
    """The evaluation of this number, of four, is not finite."""
    calls = itertools.count(1)

    def spoilt(*args, **kwargs):
        measured = evaluate(*args, **kwargs)
        if next(calls) != number:
            return measured
        return [replace(one, loss=math.inf, bits_per_byte=math.inf) for one in measured]

    monkeypatch.setattr("train.training.loop.evaluate", spoilt)


def test_n3_a_run_whose_final_evaluation_is_not_finite_is_not_completed(
    tiny, monkeypatch, tmp_path
):
    config = tiny()
    spoil_evaluation(monkeypatch, 4)
    register_runs(tmp_path / "runs" / "faults", "faults", [planned(config)], extend=False)
    with pytest.raises(DivergedError, match="step 60: the validation loss is inf"):
        run_here(config)
    folder = run_folder(config)
    assert folder.state() == "diverged"
    assert not folder.result.exists()
    row = read_jsonl(folder.evals)[-1]
    assert (row["step"], row["loss"], row["bits_per_byte"]) == (60, None, None)
    assert row["nonfinite"] == {"loss": "inf", "bits_per_byte": "inf"}
    assert max(int(name[5:]) for name in names(folder.checkpoints)) < 60


def test_n3_one_on_the_way_ends_the_run_too(tiny, monkeypatch):
    config = tiny()
    spoil_evaluation(monkeypatch, 3)
    with pytest.raises(DivergedError, match=r"step \d+: the validation loss is inf"):
        run_here(config)
    folder = run_folder(config)
    rows = read_jsonl(folder.evals)
    assert [row["loss"] is None for row in rows] == [False, False, True]
    assert rows[2]["nonfinite"] == {"loss": "inf", "bits_per_byte": "inf"}
    assert folder.state() == "diverged"


def test_n3_control_json_of_the_standard_library_would_write_no_json(tmp_path):
    line = json.dumps({"loss": math.inf})
    with pytest.raises(ValueError, match="Infinity"):
        json.loads(line, parse_constant=lambda name: (_ for _ in ()).throw(ValueError(name)))


def test_n3_control_unchecked_it_is_a_completed_run_without_a_loss(tiny, monkeypatch):
    config = tiny()
    spoil_evaluation(monkeypatch, 4)
    monkeypatch.setattr("train.training.loop.refuse_diverged_evaluation", lambda run: None)
    folder = run_here(config)
    assert folder.state() == "completed"
    assert read_json(folder.result)["row"]["loss"] is None
