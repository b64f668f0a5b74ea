"""K1: SIGKILL after any step costs at most the work since the last checkpoint, and nothing else.

No control takes the random numbers away: training draws none. The kill storm, K2, is in
test_kill_storm.py.
"""

import pytest

from faults.conftest import CHECKPOINT_STEPS, STEPS
from faults.patches import At, Kill, kill_after_step
from faults.runner import killed, run_child, run_here, start_steps
from faults.same_run import assert_same_run
from train.engine.batches import Batches
from train.run_folder.run_folder import RunFolder
from train.storage.records import read_json, read_jsonl

BEFORE_THE_RESULT = At("train.training.loop:complete", Kill())
BEFORE_THE_STATUS = At(
    "train.run_folder.run_folder:RunFolder.write_status", Kill(), mentions="completed"
)


@pytest.mark.parametrize(
    "step",
    [0, 1, CHECKPOINT_STEPS - 1, CHECKPOINT_STEPS, CHECKPOINT_STEPS + 1, STEPS // 2, STEPS - 1],
)
def test_k1_a_run_killed_after_any_step_ends_as_if_it_had_not_been(tiny, reference_run, step):
    folder = killed(tiny(), kill_after_step(step))
    assert [row["step"] for row in read_jsonl(folder.metrics)] == list(range(1, step + 1))
    committed = step - step % CHECKPOINT_STEPS
    assert_same_run(reference_run, run_here(tiny()))
    assert start_steps(folder) == [0, committed]
    assert read_json(folder.result)["replayed"]["differing"] == 0
    evals = sum(committed < row["step"] <= step for row in read_jsonl(folder.evals))
    assert read_json(folder.result)["replayed"]["rows"] == step - committed + evals
    run_here(tiny())  # finished: nothing more happens
    assert start_steps(folder) == [0, committed]


def test_k1_the_same_command_is_enough_to_go_on(tiny, reference_run):
    folder = killed(tiny(), kill_after_step(31))
    again = run_child(tiny())
    assert again.exit_code == 0, again.stderr
    assert f"{folder.path}: completed" in again.stdout
    assert_same_run(reference_run, folder)


def test_k1_a_run_killed_after_its_last_step_repeats_none(tiny, reference_run):
    folder = killed(tiny(), BEFORE_THE_RESULT)
    assert not folder.result.exists()
    assert_same_run(reference_run, run_here(tiny()))
    assert start_steps(folder) == [0, STEPS]


def test_k1_a_run_killed_between_result_and_status_is_not_trained_again(tiny, reference_run):
    folder = killed(tiny(), BEFORE_THE_STATUS)
    assert folder.state() == "running"
    result = folder.result.read_bytes()
    assert_same_run(reference_run, run_here(tiny()))
    assert folder.result.read_bytes() == result
    assert start_steps(folder) == [0]


def test_k1_control_without_a_look_at_the_result_the_run_starts_again(tiny, monkeypatch):
    folder = killed(tiny(), BEFORE_THE_STATUS)
    monkeypatch.setattr(vars(RunFolder)["result"], "name", "elsewhere.json")
    run_here(tiny())
    assert start_steps(folder) == [0, STEPS]


def read_from_the_start(batches, step, n_steps, *, real=Batches.starts):
    return real(batches, step - CHECKPOINT_STEPS, n_steps)


@pytest.mark.parametrize(
    ("target", "by", "steps", "message"),
    [
        ("train.training.resume.set_aside", lambda *_: 0, [8, 9, 10, 8, 9, 10], "holds steps"),
        # step 8 is measured before its update
        ("train.engine.optimizer.AdamW.load_replica", lambda *_: None, [], "metrics of step 9"),
        ("train.engine.batches.Batches.starts", read_from_the_start, [], "metrics of step 8"),
    ],
    ids=["rewind", "optimizer", "data"],
)
@pytest.mark.filterwarnings("ignore:.*rows that were computed twice differ")
def test_k1_control_without_what_a_resume_brings_back_the_record_is_another(
    tiny, reference_run, monkeypatch, target, by, steps, message
):
    killed(tiny(), kill_after_step(10))
    monkeypatch.setattr(target, by)
    folder = run_here(tiny())
    logged = [row["step"] for row in read_jsonl(folder.metrics)]
    assert [step for step in logged if logged.count(step) == 2] == steps
    with pytest.raises(AssertionError, match=message):
        assert_same_run(reference_run, folder)
