"""Trunks and branches: each record is, in every bit, that of the run trained from its start."""

import dataclasses
import math

import pytest
from faults.runner import start_steps, starts

from tests.builders import planned
from tests.train.shared_runs import (
    assert_same_record,
    assert_same_records,
    shared_config,
    stopped_at_save,
    train_alone,
    train_job,
    with_machine,
    with_optimizer,
    with_steps,
)
from train.config.experiment import EvalConfig, ScheduleConfig, ScheduleShape
from train.config.runtime import Dtype, OnSaveError
from train.engine.evaluate import evaluate
from train.errors import StorageError
from train.plan.grouping import group_runs
from train.plan.schedule import evaluation_steps
from train.run_folder.checkpoint import committed_steps, save_checkpoint
from train.run_folder.run_folder import folder_of
from train.storage.records import read_json, read_jsonl
from train.training.branches import find_branches
from train.training.opening import open_run

HORIZONS = (40, 24, 17)
SLOW = pytest.mark.slow


def wsd(cooldown):
    return ScheduleConfig(shape=ScheduleShape.wsd, warmup_steps=3, cooldown_fraction=cooldown)


CONSTANT = ScheduleConfig(shape=ScheduleShape.constant, warmup_steps=3)


def horizons(*configs, steps=HORIZONS):
    return [with_steps(config, each) for each in steps for config in configs]


def fork_steps(configs):
    return [planned(config).plan.schedule.fork_step or 0 for config in configs]


# The same record


@pytest.mark.parametrize(
    ("schedule", "steps", "dtype", "forks"),
    [
        (wsd(0.25), (40, 24, 17, 9), Dtype.fp32, [18, 13, 7]),
        pytest.param(wsd(0.2), (40, 24, 17), Dtype.bf16, [19, 14], marks=SLOW),
        # the tail that is judged is of 4 steps and of 2: it begins on the trunk
        pytest.param(wsd(0.05), (60, 40, 24), Dtype.fp32, [38, 23], marks=SLOW),
        (CONSTANT, (40, 24, 17), Dtype.fp32, [24, 17]),
    ],
    ids=["four-horizons", "bf16", "short-cooldown", "no-cooldown"],
)
def test_each_branch_is_in_bits_the_run_trained_from_its_start(
    tmp_path, make, schedule, steps, dtype, forks
):
    config = with_machine(make(schedule=schedule), dtype=dtype)
    configs = horizons(config, steps=steps)
    assert fork_steps(configs)[1:] == forks
    together = train_job(configs)
    trunk, *branches = together
    assert [starts(folder)[0]["start_step"] for folder in together] == [0, *forks]
    for folder, fork in zip(branches, forks, strict=True):
        (start,) = starts(folder)
        assert (start["forked_from"], start["fork_step"]) == (trunk.path.name, fork)
        evaluated = [row["step"] for row in read_jsonl(folder.evals)]
        assert evaluated[0] < fork <= evaluated[-1]  # on the trunk, and after it
        assert read_json(folder.result)["attempts"] == 1
    assert "forked_from" not in starts(trunk)[0]
    assert_same_records(together, train_alone(configs, tmp_path / "alone"))


def test_a_branch_is_not_the_run_of_another_trunk(make, tmp_path):
    """The control of the comparison: a trunk of another learning rate makes another record."""
    configs = horizons(make())
    together = train_job(configs)
    other = with_optimizer(configs[1], lr=0.011)
    (folder,) = train_alone([other], tmp_path / "alone")
    row, mine = (read_json(each.result)["row"]["loss"] for each in (folder, together[1]))
    assert row != mine
    with pytest.raises(AssertionError):
        assert_same_record(together[1], folder)


# What it costs


def test_branches_are_checkpointed_at_their_fork_alone_while_their_trunk_is_trained(
    make, monkeypatch
):
    saved = []

    def save(root, step, **parts):
        saved.append((root.parent.name, step))
        return save_checkpoint(root, step, **parts)

    monkeypatch.setattr("train.training.recording.save_checkpoint", save)
    folders = train_job(horizons(make()))
    names = [folder.path.name for folder in folders]
    on_trunk, ends = saved[:8], saved[8:]
    at = [(names[0], step) for step in (7, 14, 21, 28, 35, 40)]
    forks = [(names[2], 13), (names[1], 18)]
    assert sorted(on_trunk) == sorted(at + forks)
    assert ends == [(names[1], 21), (names[1], 24), (names[2], 14), (names[2], 17)]


@pytest.mark.parametrize("n_replicas", [1, pytest.param(2, marks=SLOW)])
def test_shared_steps_are_charged_once_and_each_run_keeps_its_own_compute(make, n_replicas):
    configs = horizons(*[dataclasses.replace(make(), seed=seed) for seed in range(n_replicas)])
    runs = [planned(config) for config in configs]
    (group,) = group_runs(runs, best_stack=lambda run, n: n)
    folders = train_job(configs)
    results = [read_json(folder.result) for folder in folders]
    assert sum(result["cost"]["flops_charged"] for result in results) == group.shared_flops
    assert sum(result["cost"]["flops"] for result in results) == group.own_flops
    assert group.shared_flops < 0.75 * group.own_flops
    for run, result in zip(runs, results, strict=True):
        assert result["row"]["flops_exact"] == run.plan.flops_exact
        assert result["row"]["flops"] == run.plan.flops


def test_a_run_that_waits_at_its_fork_has_cost_nothing_yet(make):
    configs = horizons(make())
    with stopped_at_save(configs[0], 21):
        train_job(configs)
    waiting = folder_of(planned(configs[1]))
    status = waiting.read_status()
    assert (waiting.state(), status["step"]) == ("preempted", 18)
    assert status["reason"].startswith("its first 18 steps are those of ")
    assert status["cost"]["flops"] == 18 * planned(configs[1]).plan.flops_exact // 24
    assert (status["cost"]["flops_charged"], status["cost"]["seconds_charged"]) == (0, 0)


# Going on


@pytest.mark.parametrize(
    ("who", "step", "after", "expected"),
    [
        (0, 7, True, [[0, 7], [18], [13]]),
        (2, 13, False, [[0, 7], [18], [13]]),
        (1, 18, False, [[0, 14], [18], [13]]),
        (0, 40, True, [[0, 40], [18], [13]]),
    ],
)
def test_a_job_that_stops_anywhere_goes_on_to_the_same_records(
    make, tmp_path, undisturbed, who, step, after, expected
):
    configs = horizons(make())
    with stopped_at_save(configs[who], step, after=after):
        train_job(configs)
    together = train_job(configs)
    assert_same_records(together, undisturbed)
    assert [start_steps(each) for each in together] == expected
    for folder in together:
        assert read_json(folder.result)["replayed"]["differing"] == 0


@pytest.fixture(scope="module")
def undisturbed(data):
    return train_alone(horizons(shared_config(data)), data / "undisturbed")


@pytest.mark.parametrize("schedule", [wsd(0.25), CONSTANT], ids=["wsd", "no-cooldown"])
def test_a_fork_at_the_very_step_of_the_trunk_s_checkpoint_that_was_cut_off_is_made_up(
    tmp_path, make, schedule
):
    """The trunk goes on from the fork step itself: no step leads there any more."""
    steps = (40, 28) if schedule is not CONSTANT else (40, 21)
    configs = horizons(make(schedule=schedule), steps=steps)
    assert fork_steps(configs)[1] == 21
    with stopped_at_save(configs[0], 21):
        train_job(configs)
    assert not committed_steps(folder_of(planned(configs[1])).checkpoints)
    together = train_job(configs)
    assert starts(together[0])[-1]["start_step"] == 21
    assert start_steps(together[1]) == [21]
    assert starts(together[1])[0]["forked_from"] == together[0].path.name
    assert_same_records(together, train_alone(configs, tmp_path / "alone"))


def test_a_run_whose_trunk_went_on_without_it_is_trained_from_its_start(make, undisturbed):
    """A horizon that is added later: the checkpoints of the trunk do not know of it."""
    configs = horizons(make())
    with stopped_at_save(configs[0], 14):
        train_job(configs[:1])
    together = train_job(configs)
    assert [row["start_step"] for folder in together for row in starts(folder)] == [0, 14, 0, 13]
    assert "forked_from" not in starts(together[1])[0]
    assert starts(together[2])[0]["forked_from"] == together[1].path.name  # a trunk that is new
    assert_same_records(together, undisturbed)


def test_a_run_that_has_begun_alone_goes_on_from_its_own_checkpoint(make, undisturbed):
    configs = horizons(make())
    with stopped_at_save(configs[1], 7):
        train_job(configs[1:2])
    together = train_job(configs)
    assert [start_steps(each) for each in together] == [[0], [0, 7], [13]]
    assert_same_records(together, undisturbed)


def test_a_run_that_waits_at_its_fork_goes_on_alone(make, undisturbed):
    configs = horizons(make())
    with stopped_at_save(configs[0], 21):
        train_job(configs)
    for config, folder in zip(configs[1:], undisturbed[1:], strict=True):
        assert_same_records(train_job([config]), [folder])
    assert_same_records(train_job(configs), undisturbed)


def test_with_trunks_off_no_run_is_a_branch(make, undisturbed):
    configs = [with_machine(config, trunks=False) for config in horizons(make())]
    trunk, *later = [planned(config) for config in configs]
    for run in (trunk, *later):
        run.path.mkdir(parents=True)
    opened = open_run(trunk)
    find_branches([opened], later)
    assert opened.branches == []
    together = train_job(configs)
    assert [row["start_step"] for folder in together for row in starts(folder)] == [0, 0, 0]
    for folder, alone in zip(together, undisturbed, strict=True):
        rows = [[row["loss"] for row in read_jsonl(each.metrics)] for each in (folder, alone)]
        assert rows[0] == rows[1]


# A disk that refuses a fork


def full_at_fork(root, step, **parts):
    if step == 18:
        raise StorageError("the disk is full")
    return save_checkpoint(root, step, **parts)


def test_a_fork_that_cannot_be_written_stops_the_job_which_continues(
    make, monkeypatch, undisturbed
):
    configs = horizons(make())
    with monkeypatch.context() as patch:
        patch.setattr("train.training.recording.save_checkpoint", full_at_fork)
        with pytest.raises(StorageError, match="the disk is full; free some, and the same command"):
            train_job(configs)
    together = train_job(configs)
    assert [row["start_step"] for folder in together for row in starts(folder)] == [0, 14, 18, 13]
    assert_same_records(together, undisturbed)


def test_a_fork_that_may_fail_costs_the_shared_steps_and_no_bit(make, monkeypatch, undisturbed):
    monkeypatch.setattr("train.training.recording.save_checkpoint", full_at_fork)
    word = OnSaveError.warn
    configs = [with_machine(config, on_save_error=word) for config in horizons(make())]
    with pytest.warns(UserWarning, match="training goes on without this checkpoint"):
        together = train_job(configs)
    assert [row["start_step"] for folder in together for row in starts(folder)] == [0, 0, 13]
    for folder, alone in zip(together, undisturbed, strict=True):
        assert read_json(folder.result)["row"]["loss"] == read_json(alone.result)["row"]["loss"]


# Trunks that end early


@pytest.mark.parametrize("lr", [1e30, pytest.param(1e12, marks=SLOW)])
def test_runs_end_diverged_with_their_trunk_as_each_alone(tmp_path, make, lr):
    config = with_machine(make(eval=EvalConfig(points=0, tokens=1_024)), log_every=1)
    configs = horizons(config, with_optimizer(config, lr=lr))
    together = train_job(configs)
    assert [folder.state() for folder in together] == ["completed", "diverged"] * 3
    alone = train_alone(configs, tmp_path / "alone")
    assert_same_records(together, alone)
    for folder in together[3::2]:
        events = read_jsonl(folder.attempts)
        assert [row["event"] for row in events] == ["start", "end"]
        assert events[0]["forked_from"] == together[1].path.name
        assert events[0]["fork_step"] == folder.read_status()["step"]
        assert folder.read_status()["cost"]["flops_charged"] == 0


def test_a_branch_whose_validation_loss_is_not_finite_diverges_as_alone(
    tmp_path, make, monkeypatch
):
    """Measured where only the branch is evaluated, so its trunk goes on."""
    config = make(eval=EvalConfig(points=2, tokens=1_024))
    configs = horizons(config, steps=(40, 17))

    def spoilt(engine):
        measured = evaluate(engine)
        if engine.step not in evaluation_steps(17, 2) or engine.step in evaluation_steps(40, 2):
            return measured
        return [dataclasses.replace(one, loss=math.nan) for one in measured]

    monkeypatch.setattr("train.training.loop.evaluate", spoilt)
    together = train_job(configs)
    assert [folder.state() for folder in together] == ["completed", "diverged"]
    assert "forked_from" not in starts(together[1])[0]
    assert_same_records(together, train_alone(configs, tmp_path / "alone"))


@pytest.mark.parametrize("schedule", [wsd(0.25), CONSTANT], ids=["wsd", "no-cooldown"])
def test_a_branch_that_ends_above_its_start_is_diverged_as_alone(tmp_path, make, schedule):
    configs = horizons(with_optimizer(make(schedule=schedule), lr=3.0))
    together = train_job(configs)
    assert "diverged" in [folder.state() for folder in together]
    assert_same_records(together, train_alone(configs, tmp_path / "alone"))
