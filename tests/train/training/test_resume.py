"""A run goes on from its newest checkpoint with everything in place, or not at all."""

import dataclasses
import json

import pytest
import torch

from train.config.experiment import EvalConfig
from train.config.runtime import AttentionKernel, Compile, Dtype, MachineConfig
from train.engine.engine import Engine
from train.engine.evaluate import evaluate
from train.plan.planning import PlannedRun
from train.plan.validate import validate
from train.run_folder.accounting import RunClock
from train.run_folder.run_folder import folder_of
from train.storage.records import read_jsonl
from train.training.opening import load_engine, open_run
from train.training.recording import (
    log_evaluation,
    log_metrics,
    open_records,
    save,
    write_running,
)
from train.training.resume import checkpoint_state, find_checkpoint, identity_facts
from train.training.run_state import RunState


def machine(**changes):
    fields = {"dtype": Dtype.fp32, "attention": AttentionKernel.sdpa, "compile": Compile.never}
    return MachineConfig(**{**fields, **changes})


@dataclasses.dataclass
class Opened:
    """A run that was opened, its engine and its clock."""

    run: RunState
    engine: Engine
    clock: RunClock

    def step(self):
        segment, run = self.engine.advance(1), self.run
        loss, grad_norm = segment.losses_SR[0][0], segment.grad_norms_SR[0][0]
        run.step = self.engine.step
        run.window.append((loss, grad_norm))
        run.losses.observe(run.step, loss)
        return loss, grad_norm

    def log(self):
        return log_metrics(self.run, self.engine, self.clock)

    def save(self):
        save(self.run, self.engine, self.clock)

    def write_running(self):
        write_running(self.run, self.engine, self.clock)


def opened(config):
    planned = PlannedRun(overrides=[], config=config, plan=validate(config))
    folder_of(planned).path.mkdir(parents=True, exist_ok=True)
    run = open_run(planned)
    clock = RunClock(run.step)
    return Opened(run, load_engine([run], clock, None), clock)


@pytest.fixture
def stopped(make_config):
    """A run after four steps, a row and an evaluation at the third, and a checkpoint at the end."""
    job = opened(make_config(machine=machine(), eval=EvalConfig(points=13, tokens=2_048)))
    open_records(job.run, job.engine, stacked_with=[])
    for _ in range(3):
        job.step()
    job.run.seconds = 0.1 + 0.2
    job.log()
    log_evaluation(job.run, evaluate(job.engine)[0])
    job.step()
    job.save()
    return job


def test_everything_that_training_reads_comes_back(stopped):
    random_before = torch.get_rng_state()
    again = opened(stopped.run.config)
    old, run = stopped.run, again.run
    assert run.step == again.engine.step == 4
    assert run.seconds == old.seconds
    assert run.window == old.window
    assert len(run.window) == 1
    assert run.losses == old.losses
    assert (run.loss_train, run.val_loss) == (old.loss_train, old.val_loss)
    assert run.bits_per_byte == old.bits_per_byte
    assert run.checkpoint is None  # its tensors are not held twice
    assert again.step() == stopped.step()  # weights, moments, and the data's position
    assert torch.equal(again.engine.rows_RP, stopped.engine.rows_RP)
    assert torch.equal(torch.get_rng_state(), random_before)  # nothing of a run is drawn


def test_the_state_is_json(stopped):
    run = stopped.run
    spent = stopped.clock.spent(run.spent)
    state = checkpoint_state(run, stopped.engine, spent=spent)
    assert json.loads(json.dumps(state, allow_nan=False)) == json.loads(json.dumps(state))
    assert state["identity"] == identity_facts(run)
    assert state["tracker"] == {"attempt_id": None, "step": 4}
    assert state["arithmetic"] == stopped.engine.policy.to_json()
    assert state["spent"] == spent
    assert state["branches"] == {}
    assert "forked_from" not in state


def test_what_was_spent_comes_back_and_what_the_stop_threw_away_does_not(stopped):
    stopped.run.spent["train"] = 100.0  # after the checkpoint
    stopped.write_running()
    assert opened(stopped.run.config).run.spent["train"] < 50.0


def test_a_fresh_run_has_no_checkpoint_and_starts_at_zero(make_config):
    stack = opened(make_config(machine=machine()))
    assert find_checkpoint(stack.run) is None
    assert stack.run.step == stack.engine.step == 0
    assert stack.run.spent == {}


def test_rows_that_the_checkpoint_does_not_vouch_for_are_set_aside(stopped):
    stopped.step()
    stopped.log()
    run = opened(stopped.run.config).run
    assert [row["step"] for row in read_jsonl(run.folder.metrics)] == [3]
    assert [row["step"] for row in read_jsonl(run.folder.evals)] == [3]
    assert [row["step"] for row in read_jsonl(run.folder.replayed)] == [5]


def set_policy(job, **facts):
    policy = type(job.engine.policy).from_json({**job.engine.policy.to_json(), **facts})
    job.engine.policy = policy
    job.save()


@pytest.mark.parametrize(
    ("asked", "micro_batch_seqs", "dtype"),
    [
        ({"dtype": Dtype.auto}, 2, Dtype.bf16),
        ({"dtype": Dtype.bf16}, 2, Dtype.bf16),
        ({"dtype": Dtype.fp32}, 8, Dtype.fp32),  # another start, chosen anew
        ({"dtype": Dtype.auto, "micro_batch_seqs": 2}, 2, Dtype.bf16),
        ({"dtype": Dtype.bf16, "micro_batch_seqs": 4}, 4, Dtype.bf16),
    ],
)
def test_the_arithmetic_is_the_checkpoint_s_unless_another_is_asked_for(
    stopped, asked, micro_batch_seqs, dtype
):
    set_policy(stopped, micro_batch_seqs=2, dtype="bf16")
    config = stopped.run.config
    config.machine = machine(**asked)
    arithmetic = opened(config).engine.policy
    assert (arithmetic.micro_batch_seqs, arithmetic.dtype) == (micro_batch_seqs, dtype)


def test_what_was_compiled_goes_on_where_nothing_can_compile(stopped, monkeypatch):
    set_policy(stopped, compiled=True, micro_batch_seqs=2)
    config = stopped.run.config
    config.machine = machine(compile=Compile.auto)
    monkeypatch.setattr("train.engine.build.can_compile", lambda compute: False)
    arithmetic = opened(config).engine.policy
    assert (arithmetic.compiled, arithmetic.micro_batch_seqs) == (False, 2)


FACTS = {
    "dtype": "fp32",
    "attention": "sdpa",
    "compiled": False,
    "micro_batch_seqs": 2,
    "eval_seqs": 4,
}


@pytest.mark.parametrize(
    ("row", "facts", "sizes"),
    [
        ({}, {}, (2, 4)),
        ({"device": "another"}, {}, (8, 256)),
        ({}, {"micro_batch_seqs": 3}, (8, 256)),  # no divisor of the batch
        ({}, {"micro_batch_seqs": "2"}, (8, 256)),
        ({}, {"eval_seqs": None}, (8, 256)),
        ({"arithmetic": None}, {}, (8, 256)),  # as versions before wrote it
    ],
)
def test_before_the_first_checkpoint_a_run_computes_as_at_its_last_start(
    make_config, row, facts, sizes
):
    config = make_config(machine=machine())
    fresh = opened(config)
    device = fresh.engine.compute.name
    start = {"device": device, "arithmetic": {**FACTS, **facts}, **row}
    fresh.run.folder.log_attempt("start", attempt=1, **start)
    fresh.run.folder.log_attempt("end", attempt=1)
    stack = opened(config)
    arithmetic = stack.engine.policy
    assert (arithmetic.micro_batch_seqs, arithmetic.eval_seqs) == sizes
    assert len(stack.engine.batches.validation[0]) == min(sizes[1], config.eval.tokens // 32)
    config.machine = machine(micro_batch_seqs=8)
    assert opened(config).engine.policy.micro_batch_seqs == 8


def test_checkpoints_beyond_a_step_are_passed_over_for_good(stopped):
    run = stopped.run
    stopped.step()
    stopped.save()
    found = find_checkpoint(run, at_most=4)
    assert found.step == 4
    assert [path.name for path in run.folder.checkpoints.iterdir()] == ["step_00000004"]


@pytest.mark.filterwarnings("ignore:.*changed since its last attempt")
def test_on_another_device_a_run_is_computed_in_that_device_s_way(stopped, monkeypatch):
    config = dataclasses.replace(stopped.run.config, machine=MachineConfig())
    kept = opened(config)  # the config asks for nothing: what the run began with stays
    assert kept.engine.policy == stopped.engine.policy
    elsewhere = dataclasses.replace(kept.engine.compute, name="another machine")
    monkeypatch.setattr("train.training.opening.select_device", lambda machine, index=0: elsewhere)
    monkeypatch.setattr("train.engine.compute_policy.has_native_bf16", lambda compute: True)
    chosen = opened(config)
    assert chosen.run.step == 4
    assert chosen.engine.policy.dtype is Dtype.bf16
