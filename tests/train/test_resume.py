"""A run goes on from its newest checkpoint with everything in place, or not at all."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from train.config import Config, MachineConfig
from train.errors import CheckpointError
from train.recording import describe, log_evaluation, log_row, open_records, save
from train.records import read_jsonl
from train.resume import checkpoint_state, find_checkpoint, identity_facts, restore
from train.run import Run, build_run
from train.rundir import RunFolder
from train.step import train_step
from train.validate import validate


def build(config: Config) -> Run:
    plan = validate(config)
    folder = RunFolder(Path(config.paths.runs) / config.study.name / plan.run_id)
    folder.path.mkdir(parents=True, exist_ok=True)
    return build_run(config, plan, folder, attempt=1)


def step_once(run: Run) -> tuple[float, float]:
    losses = train_step(
        run.model,
        run.optimizer,
        run.batches.train(run.step),
        run.compute,
        lr=0.01,
        micro_batch_seqs=run.micro_batch_seqs,
        grad_clip=1.0,
    )
    run.step += 1
    loss, grad_norm = (float(value) for value in losses)
    run.window.append((loss, grad_norm))
    run.losses.observe(run.step, loss)
    return loss, grad_norm


@pytest.fixture
def stopped(make_config: Callable[..., Config]) -> Run:
    """A run after four steps, a row and an evaluation at the third, and a checkpoint at the end."""
    run = build(make_config())
    open_records(run, *describe(run))
    for _ in range(3):
        step_once(run)
    run.seconds = 0.1 + 0.2
    log_row(run, lr=0.01, tokens_per_second=1.0)
    log_evaluation(run)
    step_once(run)
    torch.manual_seed(1234)
    save(run)
    return run


def test_everything_that_training_reads_comes_back(stopped: Run) -> None:
    random_before = torch.get_rng_state()
    run = build(stopped.config)
    torch.manual_seed(0)
    restore(run, find_checkpoint(run), may_choose_micro_batch=True)
    assert run.step == 4
    assert run.seconds == stopped.seconds
    assert run.window == stopped.window
    assert len(run.window) == 1
    assert run.losses == stopped.losses
    assert (run.loss_train, run.val_loss) == (stopped.loss_train, stopped.val_loss)
    assert run.bits_per_byte == stopped.bits_per_byte
    assert torch.equal(torch.get_rng_state(), random_before)
    assert step_once(run) == step_once(stopped)  # weights, moments, and the data's position
    for mine, its in zip(run.model.parameters(), stopped.model.parameters(), strict=True):
        assert torch.equal(mine, its)


def test_the_state_is_json(stopped: Run) -> None:
    state = checkpoint_state(stopped)
    assert json.loads(json.dumps(state, allow_nan=False)) == json.loads(json.dumps(state))
    assert state["tracker"] == {"attempt_id": None, "step": 4}


def test_a_fresh_run_has_no_checkpoint_and_starts_at_zero(
    make_config: Callable[..., Config],
) -> None:
    run = build(make_config())
    assert find_checkpoint(run) is None
    restore(run, None, may_choose_micro_batch=True)
    assert run.step == 0


def test_rows_that_the_checkpoint_does_not_vouch_for_are_set_aside(stopped: Run) -> None:
    step_once(stopped)
    log_row(stopped, lr=0.01, tokens_per_second=1.0)
    run = build(stopped.config)
    restore(run, find_checkpoint(run), may_choose_micro_batch=True)
    assert [row["step"] for row in read_jsonl(run.folder.metrics)] == [3]
    assert [row["step"] for row in read_jsonl(run.folder.evals)] == [3]
    assert [row["step"] for row in read_jsonl(run.folder.replayed)] == [5]


@pytest.mark.parametrize(("may_choose", "micro_batch_seqs"), [(True, 2), (False, 8)])
def test_the_micro_batch_is_the_checkpoint_s_unless_one_is_asked_for(
    stopped: Run, may_choose: bool, micro_batch_seqs: int
) -> None:
    stopped.micro_batch_seqs = 2
    save(stopped)
    run = build(stopped.config)
    assert run.micro_batch_seqs == 8
    restore(run, find_checkpoint(run), may_choose_micro_batch=may_choose)
    assert run.micro_batch_seqs == micro_batch_seqs


@pytest.mark.parametrize(
    ("row", "sizes"),
    [
        ({}, (2, 4)),
        ({"device": "another"}, (8, 256)),
        ({"micro_batch_seqs": 3}, (8, 256)),  # no divisor of the batch
        ({"micro_batch_seqs": "2"}, (8, 256)),
        ({"eval_seqs": None}, (8, 256)),
    ],
)
def test_before_the_first_checkpoint_batches_are_cut_as_by_the_last_start(
    make_config: Callable[..., Config], row: dict[str, Any], sizes: tuple[int, int]
) -> None:
    run = build(make_config())
    start = {"device": run.compute.name, "micro_batch_seqs": 2, "eval_seqs": 4, **row}
    run.folder.log_attempt("start", attempt=1, **start)
    run.folder.log_attempt("end", attempt=1)
    restore(run, None, may_choose_micro_batch=True)
    assert (run.micro_batch_seqs, run.eval_seqs) == sizes
    assert len(run.validation[0][0]) == min(sizes[1], run.config.eval.tokens // 32)
    asked = build(make_config())
    restore(asked, None, may_choose_micro_batch=False)
    assert asked.micro_batch_seqs == 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"numerics_version": 99}, "numerics_version: 99 in the checkpoint, 1 asked for"),
        ({"n_params": 5}, r"n_params: 5 in the checkpoint, \d+ asked for"),
        ({"data_sha256": "ab"}, r"data_sha256: 'ab' in the checkpoint, '[0-9a-f]{64}' asked for"),
        ({"tokenizer_sha256": "ab"}, "tokenizer_sha256: 'ab' in the checkpoint"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_by_field_and_left_in_place(
    stopped: Run, monkeypatch: pytest.MonkeyPatch, change: dict[str, object], message: str
) -> None:
    facts = {**identity_facts(stopped), **change}
    with monkeypatch.context() as patched:
        patched.setattr("train.resume.identity_facts", lambda run: facts)
        save(stopped)
    with pytest.raises(CheckpointError, match=message) as refused:
        find_checkpoint(stopped)
    assert refused.value.exit_code == 4
    assert "restart=true" in str(refused.value)
    names = [path.name for path in stopped.folder.checkpoints.iterdir()]
    assert names == ["step_00000004"]


def test_every_field_of_another_config_is_named(
    stopped: Run, make_config: Callable[..., Config]
) -> None:
    other = make_config(seed=7, machine=MachineConfig(log_every=3))
    other.optimizer.lr = 0.5
    run = build(other)
    stopped.folder.checkpoints.rename(run.folder.checkpoints)
    with pytest.raises(CheckpointError) as refused:
        find_checkpoint(run)
    assert "  optimizer.lr: 0.01 in the checkpoint, 0.5 asked for\n" in str(refused.value)
    assert "  seed: 0 in the checkpoint, 7 asked for\n" in str(refused.value)
    assert "log_every" not in str(refused.value)  # plumbing is free to change


def test_a_damaged_checkpoint_is_told(stopped: Run) -> None:
    step_once(stopped)
    save(stopped)
    (stopped.folder.checkpoints / "step_00000005" / "model.pt").unlink()
    words = r"damaged checkpoint is in bad/ now \(step_00000005: .*\); going on from step 4"
    with pytest.warns(UserWarning, match=words):
        found = find_checkpoint(stopped)
    assert found is not None
    assert found.step == 4
