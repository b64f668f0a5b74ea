"""S1, S2, S3 and S6: a signal to stop saves at the next step and costs nothing. S5 is in
test_preemption_of_groups.py, S4 in test_submitit.py, S7 in tests/scripts/test_slurm_job.py.
"""

import contextlib
import signal

import pytest

from faults.conftest import CHECKPOINT_STEPS
from faults.patches import At, Hold, Replace, Send, at_step
from faults.runner import run_child, run_here, start_steps
from faults.same_run import assert_same_run
from faults.unsafe import load_unverified, save_in_place
from train.run_folder.checkpoint import load_newest
from train.signals import StopRequest
from train.storage.records import read_jsonl

TERM = Send(signal.SIGTERM)
AT_STEP_11 = at_step(11, TERM)


def ended_by(folder, *, step, cause="preempted"):
    """The folder says that its run was stopped after `step`, and holds a checkpoint of it."""
    assert folder.state() == "preempted"
    assert f"after step {step}" in folder.read_status()["reason"]
    end = read_jsonl(folder.attempts)[-1]
    assert (end["event"], end["cause"], end["step"]) == ("end", cause, step)
    assert load_newest(folder.checkpoints).step == step


def install_nothing(handler):
    del handler
    return {}


@pytest.mark.parametrize(
    ("number", "exit_code", "cause"),
    [
        (signal.SIGTERM, 75, "preempted"),
        (signal.SIGUSR2, 75, "preempted"),
        (signal.SIGHUP, 75, "preempted"),
        (signal.SIGINT, 130, "interrupted"),
    ],
)
def test_s1_s6_a_signal_saves_at_the_next_step(
    tiny, started, reference_run, tmp_path, number, exit_code, cause
):
    hold = tmp_path / "hold"
    child = started(tiny(), at_step(11, Hold(hold)))
    child.wait_for(hold.exists)
    child.send(number)
    hold.unlink()
    outcome = child.wait()
    assert outcome.exit_code == exit_code
    assert outcome.stderr.splitlines()[-1] == (
        f"error: stopped by {number.name} after step 11; the same command continues"
    )
    assert "Traceback" not in outcome.stderr
    ended_by(outcome.folder, step=11, cause=cause)
    assert_same_run(reference_run, run_here(tiny()))
    assert start_steps(outcome.folder) == [0, 11]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_s1_s6_control_without_handlers_the_work_since_the_checkpoint_is_lost(tiny, number):
    outcome = run_child(
        tiny(), Replace("train.signals:_install", install_nothing), at_step(11, Send(number))
    )
    assert outcome.exit_code in (-number, 130)
    run_here(tiny())
    assert start_steps(outcome.folder) == [0, CHECKPOINT_STEPS]


MOMENTS = {
    "start-up": ([At("train.engine.engine:initial_values", TERM)], 1),
    "first-step": ([at_step(1, TERM)], 1),
    "evaluation": ([At("train.training.loop:log_evaluation", TERM, call=3)], 16),
    "checkpoint": ([At("torch:save", TERM, mentions="step_00000014.partial/optim.pt")], 15),
    "twice": ([AT_STEP_11, AT_STEP_11], 11),
    "again-while-saving": ([AT_STEP_11, At("torch:save", TERM, call=4)], 11),
    "again-after-saving": ([AT_STEP_11, At("train.training.completion:close_attempt", TERM)], 11),
}
"""The faults, and the step after which the run has stopped."""


@pytest.mark.parametrize("moment", MOMENTS)
def test_s2_a_signal_at_any_moment_is_honoured_at_the_next_step(tiny, reference_run, moment):
    faults, step = MOMENTS[moment]
    outcome = run_child(tiny(), *faults)
    assert outcome.exit_code == 75, outcome.stderr
    ended_by(outcome.folder, step=step)
    assert_same_run(reference_run, run_here(tiny()))
    assert start_steps(outcome.folder) == [0, step]


def test_s2_a_signal_during_data_preparation_loses_nothing(tiny, reference_run, tmp_path):
    config = tiny(paths__data=str(tmp_path / "fresh"))
    outcome = run_child(config, At("train.training.resume:prepare", TERM, when="after"))
    assert outcome.exit_code == 75, outcome.stderr
    assert_same_run(reference_run, run_here(config))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_s2_a_signal_before_the_run_is_touched_ends_the_command_at_once(tiny, number, code):
    outcome = run_child(tiny(), At("train.__main__:preflight", Send(number)))
    assert outcome.exit_code == code
    assert "outside the training loop" in outcome.stderr
    assert not outcome.folder.path.exists()


def test_s2_control_without_the_commands_handler_a_signal_before_the_run_is_a_death(tiny):
    unheard = Replace("train.__main__:stops_at_once", contextlib.nullcontext)
    outcome = run_child(tiny(), unheard, At("train.__main__:preflight", TERM))
    assert outcome.exit_code == -signal.SIGTERM  # a scheduler would not start it again


@contextlib.contextmanager
def deaf():
    """The loop hears no signal; the command's own handler, which raises, stays in place."""
    yield StopRequest()


def test_s2_control_a_handler_that_raises_at_once_breaks_the_checkpoint_under_way(tiny):
    outcome = run_child(
        tiny(),
        Replace("train.training.trainer:stop_requests", deaf),
        At("torch:save", TERM, mentions="step_00000014.partial/optim.pt"),
    )
    assert outcome.exit_code == 75
    run_here(tiny())
    assert start_steps(outcome.folder) == [0, CHECKPOINT_STEPS]  # step 14 was never committed


def killed_while_saving(start, config, hold, *patches):
    """SIGTERM after step 10, a slow save of step 11, and SIGKILL when the grace is over."""
    child = start(
        config,
        *patches,
        AT_STEP_11,
        At("torch:save", Hold(hold), mentions="optim.pt", call=2),  # the first was of step 7
    )
    child.wait_for(hold.exists)
    child.send(signal.SIGKILL)
    assert child.wait().exit_code == -signal.SIGKILL
    return child.folder


def test_s3_a_save_that_outlasts_the_grace_leaves_the_checkpoint_before_it(
    tiny, started, reference_run, tmp_path
):
    folder = killed_while_saving(started, tiny(), tmp_path / "hold")
    assert (folder.checkpoints / "step_00000011.partial").exists()
    assert_same_run(reference_run, run_here(tiny()))
    assert start_steps(folder) == [0, CHECKPOINT_STEPS]


def test_s3_control_a_save_in_place_that_outlasts_the_grace_is_a_mixture(
    tiny, started, reference_run, tmp_path, monkeypatch
):
    unsafe = Replace("train.training.recording:save_checkpoint", save_in_place)
    folder = killed_while_saving(started, tiny(), tmp_path / "hold", unsafe)
    monkeypatch.setattr("train.training.resume.load_newest", load_unverified)
    with pytest.warns(UserWarning, match="computed twice differ, first at step 8"):
        run_here(tiny())
    with pytest.raises(AssertionError, match="metrics of step 8"):
        assert_same_run(reference_run, folder)
