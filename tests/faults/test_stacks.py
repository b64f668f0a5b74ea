"""Jobs of several runs of which one is damaged, foreign, taken over or deleted; a full memory.

The others are completed, with the records of runs that nothing disturbed.
"""

import dataclasses
import shutil
import warnings
from functools import partial

import pytest

from faults.damage import flip_bit
from faults.patches import Hold, at_step
from faults.runner import ends, start_steps, starts
from faults.shared_jobs import (
    LONG,
    MIDDLE,
    OTHER_LONG,
    OTHER_MIDDLE,
    TrainJob,
    command_together,
    plan_study,
)
from faults.small_memory import CUDA_FULL, Memory
from faults.spoil import replace_step
from tests.builders import planned
from tests.train.shared_runs import (
    assert_same_records,
    stopped_at_save,
    train_alone,
    train_job,
    with_optimizer,
)
from train.config.experiment import EvalConfig
from train.errors import CheckpointError, ConfigError, DivergedError, RecordsError, StorageError
from train.run_folder.checkpoint import committed_steps, save_checkpoint
from train.run_folder.run_folder import folder_of
from train.storage.records import read_jsonl
from train.study.job_members import plan_together
from train.training.trainer import train_runs


def stopped_in_the_cooldown_of_the_trunk(configs):
    """All have checkpoints by then: the trunks of steps 8 and 12, the others of their forks."""
    with stopped_at_save(configs[OTHER_LONG], 12):
        train_job(configs)
    return [folder_of(planned(config)) for config in configs]


def with_warnings(action):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = action()
    return result, [str(warning.message) for warning in caught]


def assert_all_but(who, folders, undisturbed):
    others = [place for place in range(len(folders)) if place != who]
    assert_same_records(
        [folders[place] for place in others], [undisturbed[place] for place in others]
    )


# Damage


def damage_checkpoints(folder):
    for checkpoint in folder.checkpoints.glob("step_*"):
        flip_bit(checkpoint / "model.pt")


def shorten_records(folder):
    content = folder.metrics.read_bytes()
    folder.metrics.write_bytes(content[: content.index(b"\n") + 1])


@pytest.mark.parametrize(
    ("who", "damage", "error", "exit_code"),
    [
        (LONG, damage_checkpoints, CheckpointError, 4),
        (MIDDLE, damage_checkpoints, CheckpointError, 4),
        (LONG, shorten_records, RecordsError, 3),
    ],
)
def test_a_run_whose_files_are_damaged_fails_alone_and_starts_again_when_asked(
    configs, undisturbed, who, damage, error, exit_code
):
    folders = stopped_in_the_cooldown_of_the_trunk(configs)
    damage(folders[who])
    with pytest.raises(error) as raised:
        with_warnings(lambda: train_job(configs))
    assert raised.value.exit_code == exit_code
    assert folders[who].path.name in str(raised.value)
    assert folders[who].state() == "failed"
    assert folders[who].read_status()["exit_code"] == exit_code
    assert_all_but(who, folders, undisturbed)
    again = [dataclasses.replace(config, restart=True) for config in configs]
    train_job(again)
    assert_same_records([_without_archive(folders[who])], [undisturbed[who]])


def _without_archive(folder):
    shutil.rmtree(folder.path / "archive")
    return folder


def test_a_run_one_of_whose_checkpoints_is_damaged_goes_back_with_its_stack(configs, undisturbed):
    folders = stopped_in_the_cooldown_of_the_trunk(configs)
    flip_bit(folders[OTHER_LONG].checkpoints / "step_00000012" / "optim.pt")
    with pytest.warns(UserWarning, match="a damaged checkpoint is in bad/ now"):
        train_job(configs)
    assert [starts(folder)[-1]["start_step"] for folder in folders[:2]] == [8, 8]
    assert_same_records(folders, undisturbed)


def test_a_run_with_another_s_checkpoints_is_refused_alone(configs, undisturbed):
    folders = stopped_in_the_cooldown_of_the_trunk(configs)
    shutil.rmtree(folders[OTHER_MIDDLE].checkpoints)
    shutil.copytree(folders[MIDDLE].checkpoints, folders[OTHER_MIDDLE].checkpoints)
    with pytest.raises(CheckpointError, match="is of another run") as raised:
        train_job(configs)
    assert "seed: 0 in the checkpoint, 1 asked for" in str(raised.value)
    assert folders[OTHER_MIDDLE].state() == "failed"
    assert_all_but(OTHER_MIDDLE, folders, undisturbed)


# Folders that are not this job's any more


def other_start(start, configs, gate, who, *patches):
    held = at_step(6, Hold(gate))
    child = start(configs[0], *patches, held, command=TrainJob(tuple(configs)))
    child.wait_for(gate.exists)
    shutil.rmtree(folder_of(planned(configs[who])).path)
    return child


@pytest.mark.parametrize("who", [OTHER_LONG, MIDDLE])
def test_a_run_that_another_process_took_over_is_left_to_it_and_the_others_go_on(
    configs, undisturbed, started, tmp_path, who
):
    gate = tmp_path / "gate"
    child = other_start(started, configs, gate, who)
    train_job([configs[who]])
    gate.unlink()
    outcome = child.wait()
    assert "its lock was deleted while this process trained the run" in outcome.stderr
    assert "LockedError" in outcome.stderr
    folders = [folder_of(planned(config)) for config in configs]
    assert_same_records(folders, undisturbed)
    assert [row["event"] for row in read_jsonl(folders[who].attempts)] == ["start", "end"]


def test_a_folder_that_was_deleted_ends_the_job_and_the_same_command_continues(
    configs, undisturbed, started, tmp_path
):
    gate = tmp_path / "gate"
    child = other_start(started, configs, gate, OTHER_LONG)
    gate.unlink()
    outcome = child.wait()
    assert "StorageError" in outcome.stderr
    folders = [folder_of(planned(config)) for config in configs]
    assert folders[LONG].state() == "failed"
    assert_same_records(train_job(configs), undisturbed)
    assert start_steps(folders[OTHER_LONG]) == [0]


# A full disk


def full_for(who, step):
    target = folder_of(planned(who)).checkpoints

    def save(root, at, **parts):
        if (root, at) == (target, step):
            raise StorageError("the disk is full")
        return save_checkpoint(root, at, **parts)

    return save


def test_a_disk_that_is_full_at_one_replica_s_checkpoint_costs_no_row_of_any(
    configs, undisturbed, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr("train.training.recording.save_checkpoint", full_for(configs[OTHER_LONG], 8))
        with pytest.raises(StorageError, match="the disk is full"):
            train_job(configs)
    folders = [folder_of(planned(config)) for config in configs]
    assert [ends(folder)[-1]["cause"] for folder in folders[:2]] == ["storage"] * 2
    assert [committed_steps(folder.checkpoints)[-1] for folder in folders[:2]] == [8, 4]
    assert_same_records(train_job(configs), undisturbed)
    assert [starts(folder)[-1]["start_step"] for folder in folders[:2]] == [4, 4]


# A full memory


def test_a_stack_that_does_not_fit_goes_on_with_half_of_it(configs, tmp_path, monkeypatch):
    """In bits as each run alone that meets a full memory at the same step."""
    room = {1: 8, 7: 4}
    memory = Memory(room)
    with monkeypatch.context() as patch:
        replace_step(patch, memory)
        folders, messages = with_warnings(lambda: train_job(configs))
    assert sum("8 windows at a time do not fit the memory" in text for text in messages) == 2
    assert memory.batches[-1] == [4, 4]  # eight windows a step, as ever
    # the shorter forked at 5 and the trunk failed at 7, which goes on from 4
    begun = [start_steps(folder) for folder in folders]
    assert begun == [[0, 4], [0, 4], [9], [9], [5, 5], [5, 5]]
    assert [[row["cause"] for row in ends(folder)] for folder in folders[:2]] == [
        ["out_of_memory", None]
    ] * 2
    alone = []
    for config in configs[:4]:
        with monkeypatch.context() as patch:
            replace_step(patch, Memory(room))
            alone += with_warnings(partial(train_alone, [config], tmp_path / "alone"))[0]
    assert_same_records(folders[:4], alone)


def test_a_run_that_diverged_before_the_memory_was_full_is_the_job_s_error_all_the_same(
    configs, monkeypatch
):
    configs = [configs[LONG], with_optimizer(configs[OTHER_LONG], lr=1e30)]
    plan_study(configs)
    replace_step(monkeypatch, Memory({1: 8, 7: 4}, error=CUDA_FULL))
    runs = [planned(config) for config in configs]
    with pytest.raises(DivergedError):
        with_warnings(lambda: train_runs(runs))
    folders = [folder_of(planned(config)) for config in configs]
    assert [folder.state() for folder in folders] == ["completed", "diverged"]
    assert [len(starts(folder)) for folder in folders] == [2, 1]


# The command


def test_the_command_says_of_each_run_how_it_ended_and_exits_5(configs):
    rates = (0.01, 1e30)
    configs = [with_optimizer(config, lr=lr) for config, lr in zip(configs, rates * 3, strict=True)]
    folders = plan_study(configs)
    ended = command_together(configs)
    assert ended.exit_code == 5, ended
    assert [folder.state() for folder in folders] == ["completed", "diverged"] * 3
    lines = ended.stdout.splitlines()
    assert len(lines) == 6
    for folder, line in zip(folders, lines, strict=True):
        assert line.startswith(f"{folder.path}: {folder.state()}")
    assert command_together(configs).exit_code == 0  # nothing is left to do


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["nobody"], "together: nobody is not in "),
        (["d16l2-2.05k-lr1.00e-02-s7-00000000"], "together: d16l2-2.05k-lr1.00e-02-s7-00000000 is"),
        (["{1}", "{1}"], "together: {1} is there twice; leave one out"),
        (["{0}"], "together: {0} is the job's own run; leave it out"),
        (["{stranger}"], "together: {stranger} differs from {0} in eval; one job trains runs that"),
    ],
)
def test_a_job_of_runs_that_cannot_be_trained_together_is_refused(configs, ids, message):
    stranger = dataclasses.replace(configs[1], eval=EvalConfig(points=2, tokens=1_024))
    names = [folder.path.name for folder in plan_study([*configs[:2], stranger])]
    ids = [each.format(*names, stranger=names[2]) for each in ids]
    with pytest.raises(ConfigError) as refused:
        plan_together(planned(dataclasses.replace(configs[0], together=ids)))
    assert str(refused.value).startswith(message.format(*names, stranger=names[2]))
