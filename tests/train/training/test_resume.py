"""A run goes on from its newest checkpoint with everything in place, or not at all."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from train.config.runtime import AttentionKernel, Compile, Dtype, MachineConfig
from train.config.schema import Config
from train.errors import CheckpointError
from train.plan.planning import PlannedRun
from train.plan.validate import validate
from train.run_folder.accounting import RunClock
from train.run_folder.run_folder import folder_of
from train.storage.records import read_jsonl
from train.training.opening import open_run
from train.training.recording import log_evaluation, log_row, open_records, save, write_running
from train.training.resume import checkpoint_state, find_checkpoint, identity_facts
from train.training.run_state import Run
from train.training.stack import Stack, build_stack


@pytest.fixture(autouse=True)
def _no_peak_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.engine.peak_flops.measure_peak_flops", lambda compute, dtype: 1e11)


def machine(**changes: Any) -> MachineConfig:
    fields: dict[str, Any] = {
        "dtype": Dtype.fp32,
        "attention": AttentionKernel.sdpa,
        "compile": Compile.never,
    }
    return MachineConfig(**{**fields, **changes})


def open_stack(config: Config) -> Stack:
    """The run where its checkpoint left it, and what would train it."""
    planned = PlannedRun(overrides=[], config=config, plan=validate(config))
    folder_of(planned).path.mkdir(parents=True, exist_ok=True)
    run = open_run(planned)
    return build_stack([run], [], RunClock(run.step))


def step_once(stack: Stack) -> tuple[float, float]:
    """What the loop does between boundaries."""
    segment, run = stack.engine.advance(1), stack.runs[0]
    loss, grad_norm = segment.losses_SR[0][0], segment.grad_norms_SR[0][0]
    run.step = stack.engine.step
    run.window.append((loss, grad_norm))
    run.losses.observe(run.step, loss)
    return loss, grad_norm


@pytest.fixture
def stopped(make_config: Callable[..., Config]) -> Stack:
    """A run after four steps, a row and an evaluation at the third, and a checkpoint at the end."""
    stack = open_stack(make_config(machine=machine()))
    (run,) = stack.runs
    open_records(run, stack)
    for _ in range(3):
        step_once(stack)
    run.seconds = 0.1 + 0.2
    log_row(run, stack, tokens_per_second=1.0)
    log_evaluation(run, stack.evaluate()[0])
    step_once(stack)
    save(run, stack)
    return stack


def test_everything_that_training_reads_comes_back(stopped: Stack) -> None:
    random_before = torch.get_rng_state()
    again = open_stack(stopped.runs[0].config)
    (old,), (run,) = stopped.runs, again.runs
    assert run.step == again.engine.step == 4
    assert run.seconds == old.seconds
    assert run.window == old.window
    assert len(run.window) == 1
    assert run.losses == old.losses
    assert (run.loss_train, run.val_loss) == (old.loss_train, old.val_loss)
    assert run.bits_per_byte == old.bits_per_byte
    assert run.checkpoint is None  # its tensors are not held twice
    assert step_once(again) == step_once(stopped)  # weights, moments, and the data's position
    assert torch.equal(again.engine.rows_RP, stopped.engine.rows_RP)
    assert torch.equal(torch.get_rng_state(), random_before)  # nothing of a run is drawn


def test_the_state_is_json(stopped: Stack) -> None:
    (run,) = stopped.runs
    spent = stopped.clock.spent(run.spent)
    state = checkpoint_state(run, stopped.engine, spent=spent)
    assert json.loads(json.dumps(state, allow_nan=False)) == json.loads(json.dumps(state))
    assert state["tracker"] == {"attempt_id": None, "step": 4}
    assert state["arithmetic"] == stopped.engine.arithmetic.facts()
    assert state["spent"] == spent
    assert state["riders"] == {}
    assert "forked_from" not in state


def test_what_was_spent_comes_back_with_what_the_stop_undid(stopped: Stack) -> None:
    (old,) = stopped.runs
    old.spent["train"] = 100.0  # spent by earlier attempts, and told after the checkpoint
    write_running(old, stopped)
    (run,) = open_stack(old.config).runs
    assert run.spent["train"] < 50.0
    assert run.spent["undone"] == pytest.approx(100.0, abs=10.0)
    total = old.folder.read_status()["cost"]["spent"]
    assert sum(run.spent.values()) == pytest.approx(sum(total.values()))


def test_a_fresh_run_has_no_checkpoint_and_starts_at_zero(
    make_config: Callable[..., Config],
) -> None:
    stack = open_stack(make_config(machine=machine()))
    assert find_checkpoint(stack.runs[0]) is None
    assert stack.runs[0].step == stack.engine.step == 0
    assert stack.runs[0].spent == {"undone": 0.0}


def test_what_was_spent_before_the_first_checkpoint_is_undone(
    make_config: Callable[..., Config],
) -> None:
    config = make_config(machine=machine())
    stack = open_stack(config)
    write_running(stack.runs[0], stack)  # and killed
    total = sum(stack.runs[0].folder.read_status()["cost"]["spent"].values())
    assert total > 0.0
    assert open_stack(config).runs[0].spent == {"undone": pytest.approx(total)}


@pytest.mark.parametrize(
    "cost", [None, "much", {"spent": 3.0}, {"spent": {"train": "long", "data": None}}]
)
def test_a_status_that_was_edited_stops_no_run(
    make_config: Callable[..., Config], cost: object
) -> None:
    config = make_config(machine=machine())
    folder = open_stack(config).runs[0].folder
    folder.write_status("running", step=3, total_steps=40, cost=cost)
    assert open_stack(config).runs[0].spent == {"undone": 0.0}


def test_rows_that_the_checkpoint_does_not_vouch_for_are_set_aside(stopped: Stack) -> None:
    step_once(stopped)
    log_row(stopped.runs[0], stopped, tokens_per_second=1.0)
    (run,) = open_stack(stopped.runs[0].config).runs
    assert [row["step"] for row in read_jsonl(run.folder.metrics)] == [3]
    assert [row["step"] for row in read_jsonl(run.folder.evals)] == [3]
    assert [row["step"] for row in read_jsonl(run.folder.replayed)] == [5]


def set_arithmetic(stack: Stack, **facts: Any) -> None:
    """Save again, as if it had computed so."""
    arithmetic = type(stack.engine.arithmetic).from_facts(
        {**stack.engine.arithmetic.facts(), **facts}
    )
    assert arithmetic is not None
    stack.engine.arithmetic = arithmetic
    save(stack.runs[0], stack)


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
    stopped: Stack, asked: dict[str, Any], micro_batch_seqs: int, dtype: Dtype
) -> None:
    set_arithmetic(stopped, micro_batch_seqs=2, dtype="bf16")
    config = stopped.runs[0].config
    config.machine = machine(**asked)
    arithmetic = open_stack(config).engine.arithmetic
    assert (arithmetic.micro_batch_seqs, arithmetic.dtype) == (micro_batch_seqs, dtype)


def test_what_was_compiled_goes_on_where_nothing_can_compile(
    stopped: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_arithmetic(stopped, compiled=True, micro_batch_seqs=2)
    config = stopped.runs[0].config
    config.machine = machine(compile=Compile.auto)
    monkeypatch.setattr("train.training.stack.can_compile", lambda compute: False)
    arithmetic = open_stack(config).engine.arithmetic
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
    make_config: Callable[..., Config],
    row: dict[str, Any],
    facts: dict[str, Any],
    sizes: tuple[int, int],
) -> None:
    config = make_config(machine=machine())
    fresh = open_stack(config)
    device = fresh.engine.compute.name
    start = {"device": device, "arithmetic": {**FACTS, **facts}, **row}
    fresh.runs[0].folder.log_attempt("start", attempt=1, **start)
    fresh.runs[0].folder.log_attempt("end", attempt=1)
    stack = open_stack(config)
    arithmetic = stack.engine.arithmetic
    assert (arithmetic.micro_batch_seqs, arithmetic.eval_seqs) == sizes
    assert len(stack.lockstep.validation[0]) == min(sizes[1], config.eval.tokens // 32)
    config.machine = machine(micro_batch_seqs=8)
    assert open_stack(config).engine.arithmetic.micro_batch_seqs == 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"numerics_version": 99}, "numerics_version: 99 in the checkpoint, 2 asked for"),
        ({"n_params": 5}, r"n_params: 5 in the checkpoint, \d+ asked for"),
        ({"data_sha256": "ab"}, r"data_sha256: 'ab' in the checkpoint, '[0-9a-f]{64}' asked for"),
        ({"tokenizer_sha256": "ab"}, "tokenizer_sha256: 'ab' in the checkpoint"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_by_field_and_left_in_place(
    stopped: Stack, monkeypatch: pytest.MonkeyPatch, change: dict[str, object], message: str
) -> None:
    (run,) = stopped.runs
    facts = {**identity_facts(run), **change}
    with monkeypatch.context() as patched:
        patched.setattr("train.training.resume.identity_facts", lambda run: facts)
        save(run, stopped)
    with pytest.raises(CheckpointError, match=message) as refused:
        find_checkpoint(run)
    assert refused.value.exit_code == 4
    assert "restart=true" in str(refused.value)
    names = [path.name for path in run.folder.checkpoints.iterdir()]
    assert names == ["step_00000004"]


def opened_at_start(config: Config) -> Run:
    return open_stack(config).runs[0]


def test_every_field_of_another_config_is_named(
    stopped: Stack, make_config: Callable[..., Config]
) -> None:
    other = make_config(seed=7, machine=machine(log_every=3))
    other.optimizer.lr = 0.5
    run = opened_at_start(other)
    stopped.runs[0].folder.checkpoints.rename(run.folder.checkpoints)
    with pytest.raises(CheckpointError) as refused:
        find_checkpoint(run)
    assert "  optimizer.lr: 0.01 in the checkpoint, 0.5 asked for\n" in str(refused.value)
    assert "  seed: 0 in the checkpoint, 7 asked for\n" in str(refused.value)
    assert "log_every" not in str(refused.value)  # plumbing is free to change


def spoil(checkpoints: Path, step: int) -> None:
    (checkpoints / f"step_{step:08d}" / "model.pt").unlink()


def test_a_damaged_checkpoint_is_told(stopped: Stack) -> None:
    (run,) = stopped.runs
    step_once(stopped)
    save(run, stopped)
    spoil(run.folder.checkpoints, 5)
    words = r"damaged checkpoint is in bad/ now \(step_00000005: .*\); going on from step 4"
    with pytest.warns(UserWarning, match=words):
        found = find_checkpoint(run)
    assert found is not None
    assert found.step == 4


def test_checkpoints_beyond_a_step_are_passed_over_for_good(stopped: Stack) -> None:
    (run,) = stopped.runs
    step_once(stopped)
    save(run, stopped)
    found = find_checkpoint(run, at_most=4)
    assert found is not None
    assert found.step == 4
    assert [path.name for path in run.folder.checkpoints.iterdir()] == ["step_00000004"]


def test_what_a_run_cost_before_it_was_started_anew_is_not_forgotten(stopped: Stack) -> None:
    (run,) = stopped.runs
    write_running(run, stopped)
    before = sum(run.folder.read_status()["cost"]["spent"].values())
    assert before > 0
    run.folder.archive()
    (again,) = open_stack(run.config).runs
    assert again.step == 0
    assert again.spent["undone"] == pytest.approx(before)


def test_on_another_device_a_run_is_computed_in_that_device_s_way(
    stopped: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(stopped.runs[0].config, machine=MachineConfig())
    kept = open_stack(config)  # the config asks for nothing: what the run began with stays
    assert kept.engine.arithmetic == stopped.engine.arithmetic
    elsewhere = dataclasses.replace(kept.engine.compute, name="another machine")
    monkeypatch.setattr("train.training.stack.select_device", lambda machine: elsewhere)
    monkeypatch.setattr("train.engine.compute_policy.has_native_bf16", lambda compute: True)
    chosen = open_stack(config)
    assert chosen.runs[0].step == 4
    assert chosen.engine.arithmetic.dtype is Dtype.bf16
