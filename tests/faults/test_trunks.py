"""Kills and signals in jobs of two replicas with three horizons: no record shows them."""

import random
import signal

import pytest

from faults.patches import EVERY, STEP, At, Kill, Replace, Send, Sleep, at_step
from faults.runner import ends, start_steps, starts
from faults.shared_jobs import (
    LONG,
    MIDDLE,
    OTHER_LONG,
    OTHER_MIDDLE,
    OTHER_SHORT,
    SHORT,
    TrainJob,
    command_together,
    kill_job,
    plan_study,
)
from tests.builders import planned
from tests.train.shared_runs import assert_same_records, train_job
from train.run_folder.checkpoint import committed_steps
from train.run_folder.run_folder import folder_of
from train.storage.records import read_json, read_jsonl
from train.training.resume import checkpoint_state

SAVE = "train.training.recording:save_checkpoint"


def in_checkpoint(place, step, file="optim.pt", **when):
    return place, At("torch:save", Kill(), mentions=f"step_{step:08d}.partial/{file}", **when)


def at_save(place, step, **when):
    return place, At(SAVE, Kill(), mentions=f"/checkpoints {step}", **when)


def of_run(fault, config):
    run_id = planned(config).plan.run_id
    folder = f"{run_id}/checkpoints/" if fault.target == "torch:save" else run_id
    return At(fault.target, fault.action, fault.call, f"{folder}{fault.mentions}", fault.when)


FORKED = [[9], [9], [5], [5]]
TRUNKS_AT = {step: [[0, step], [0, step], *FORKED] for step in (0, 4, 8, 12)}

KILLS = {
    "before-any-checkpoint": (LONG, at_step(2, Kill()), TRUNKS_AT[0]),
    "in-the-first-checkpoint": (*in_checkpoint(LONG, 4), TRUNKS_AT[0]),
    "between-the-first-two": (*at_save(OTHER_LONG, 4), [[0, 4], [0, 0], *FORKED]),
    "in-the-second-replica-s": (*in_checkpoint(OTHER_LONG, 8), TRUNKS_AT[4]),
    "before-a-fork": (*at_save(SHORT, 5), TRUNKS_AT[4]),
    "in-a-fork": (*in_checkpoint(SHORT, 5), TRUNKS_AT[4]),
    "between-the-forks-of-replicas": (*at_save(OTHER_SHORT, 5), TRUNKS_AT[4]),
    "after-the-forks": (*at_save(OTHER_SHORT, 5, when="after"), TRUNKS_AT[4]),
    "between-two-forks": (*at_save(LONG, 8), TRUNKS_AT[4]),
    "in-the-other-fork": (*in_checkpoint(OTHER_MIDDLE, 9, "model.pt"), TRUNKS_AT[8]),
    "in-the-trunk-s-cooldown": (*at_save(OTHER_LONG, 16), TRUNKS_AT[12]),
    "between-two-results": (
        OTHER_LONG,
        At("train.training.completion:write_json", Kill(), mentions="/result.json"),
        [[0], [0, 16], *FORKED],
    ),
    "between-stages": (
        MIDDLE,
        At("train.training.trainer:_train_longest", Kill(), call=2),
        [[0], [0], *FORKED],
    ),
    "in-a-branch": (*at_save(MIDDLE, 12), [[0], [0], [9, 9], [9, 9], [5], [5]]),
    "in-the-other-branch": (*in_checkpoint(OTHER_MIDDLE, 12), [[0], [0], [9, 9], [9, 9], [5], [5]]),
    "in-the-last-branch": (
        *at_save(OTHER_SHORT, 7, when="after"),
        [[0], [0], [9], [9], [5, 7], [5, 7]],
    ),
}
"""By place: at whose call, the fault, and by run the steps that its attempts began at.

At most two checkpoints are lost, and no fork is.
"""

OFTEN = ("between-the-first-two", "in-a-fork", "between-two-results", "in-the-other-branch")
"""Tried by default; the others are slow together."""


@pytest.mark.parametrize(
    "place", [pytest.param(each, marks=[] if each in OFTEN else pytest.mark.slow) for each in KILLS]
)
def test_a_killed_job_goes_on_to_the_records_of_runs_that_nothing_disturbed(
    configs, undisturbed, place
):
    who, fault, begun = KILLS[place]
    is_of_job = fault.target in (STEP, "train.training.trainer:_train_longest")
    kill_job(configs, fault if is_of_job else of_run(fault, configs[who]))
    folders = train_job(configs)
    assert_same_records(folders, undisturbed)
    assert [start_steps(each) for each in folders] == begun
    for folder in folders:
        assert read_json(folder.result)["replayed"]["differing"] == 0
    for folder, trunk in zip(folders[MIDDLE:], folders[:MIDDLE] * 2, strict=True):
        assert starts(folder)[0]["forked_from"] == trunk.path.name
    assert not [path for folder in folders for path in folder.path.rglob("*.partial")]


def forget_branches(*words, **named):
    return {**checkpoint_state(*words, **named), "branches": {}}


def test_a_trunk_s_checkpoint_that_knows_no_branches_goes_on_without_them(configs, undisturbed):
    """The longest of them is trained from its start, and is the trunk of the others."""
    kill_job(
        configs,
        Replace("train.training.recording:checkpoint_state", forget_branches),
        of_run(at_save(SHORT, 5)[1], configs[SHORT]),
    )
    folders = train_job(configs)
    begun = [start_steps(folder) for folder in folders]
    assert begun == [[0, 4], [0, 4], [0], [0], [5], [5]]
    assert starts(folders[SHORT])[0]["forked_from"] == folders[MIDDLE].path.name
    assert_same_records(folders, undisturbed)


def keep_all_rows(folder, sizes):
    del folder, sizes
    return 0


def test_control_without_the_rewind_a_trunk_s_rows_are_there_twice(
    configs, undisturbed, monkeypatch
):
    kill_job(configs, of_run(at_save(LONG, 8)[1], configs[LONG]))
    monkeypatch.setattr("train.training.resume.set_aside", keep_all_rows)
    folders = train_job(configs)
    with pytest.raises(AssertionError, match="metrics differ"):
        assert_same_records(folders[LONG:OTHER_LONG], undisturbed[LONG:OTHER_LONG])


# Signals


@pytest.mark.parametrize(
    ("number", "call", "expected"),
    [
        (signal.SIGTERM, 2, [[0, 2], [0, 2], *FORKED]),
        (signal.SIGUSR2, 5, [[0, 5], [0, 5], *FORKED]),  # where two fork,
    ],
)
def test_a_signal_in_the_trunk_saves_all_that_train_and_the_same_command_continues(
    configs, undisturbed, number, call, expected
):
    folders = plan_study(configs)
    stopped = command_together(configs, at_step(call, Send(number)))
    assert stopped.exit_code == 75, stopped
    step = expected[0][-1]
    message = f"error: stopped by {number.name} after step {step}; the same command continues"
    assert stopped.stderr.splitlines()[-1] == message
    for folder in folders[:2]:
        assert folder.state() == "preempted"
        assert committed_steps(folder.checkpoints)[-1] == step
        assert [(row["cause"], row["step"]) for row in ends(folder)] == [("preempted", step)]
    for folder, fork in zip(folders[2:], (9, 9, 5, 5), strict=True):
        assert not folder.attempts.exists()
        assert committed_steps(folder.checkpoints) == ([fork] if step == fork else [])
    assert_same_records(train_job(configs), undisturbed)
    assert [start_steps(each) for each in folders] == expected


def test_a_signal_in_a_branch_leaves_the_trunk_s_result_and_the_other_branches_waiting(
    configs, undisturbed
):
    folders = plan_study(configs)
    fault = of_run(at_save(MIDDLE, 12)[1], configs[MIDDLE])
    stopped = command_together(
        configs, At(fault.target, Send(signal.SIGTERM), fault.call, fault.mentions, fault.when)
    )
    assert stopped.exit_code == 75, stopped
    states = [folder.state() for folder in folders]
    assert states == ["completed"] * 4 + ["preempted"] * 2
    assert_same_records(train_job(configs), undisturbed)


# Storm


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_a_storm_of_kills_leaves_no_trace_in_any_record(configs, undisturbed, started, seed):
    moments, kills = random.Random(seed), 0
    while True:
        slowly = at_step(EVERY, Sleep(0.03))
        child = started(configs[0], slowly, command=TrainJob(tuple(configs)))
        if not child.ends_within(moments.uniform(0.1, 0.4 + 0.02 * kills)):
            child.kill()
        outcome = child.wait()
        if outcome.exit_code == 0:
            break
        assert outcome.exit_code == -signal.SIGKILL, outcome
        kills += 1
        assert kills < 200
    folders = [folder_of(planned(config)) for config in configs]
    assert kills >= 5
    assert_same_records(folders, undisturbed)
    for folder in folders:
        assert read_json(folder.result)["replayed"]["differing"] == 0
        steps = [row["step"] for row in read_jsonl(folder.metrics)]
        assert steps == sorted(set(steps))
