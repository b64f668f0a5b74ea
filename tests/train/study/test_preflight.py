"""Before any run's first update: the device, room for checkpoints, every dataset, enough tokens."""

import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.train.planned_runs import planned
from train.config.experiment import BudgetConfig, ModelConfig
from train.config.runtime import (
    Device,
    MachineConfig,
    OnSaveError,
    PathsConfig,
    TrackerConfig,
    TrackerKind,
)
from train.errors import ConfigError, DataError, MissingExtraError, StorageError
from train.run_folder.run_folder import folder_of
from train.study.preflight import bytes_to_write, preflight, refuse_full_disk

LONG = BudgetConfig(tokens=256 * 400)  # 102,400 tokens of a source of 40,000

PARAMS = 2 * 12 * 32**2 + 2 * 64 * 32 + 2 * 96 + 32
ONE = 12 * PARAMS
"""Bytes of a checkpoint of the tiny model."""


def test_data_is_prepared_once_for_every_run(make_config):
    config = make_config()
    preflight([planned(config), planned(make_config(seed=1))])
    folders = [path for path in Path(config.paths.data).iterdir() if path.is_dir()]
    assert [folder.name.split("-")[0] for folder in folders] == ["tiny"]


def test_the_longest_run_decides_whether_the_data_suffices(make_config):
    long = planned(make_config(budget=LONG))
    with pytest.raises(ConfigError, match=rf"run {re.escape(long.plan.run_id)} asks for 102400"):
        preflight([planned(make_config()), long])
    repeated = make_config(budget=LONG)
    repeated.data.allow_repeat = True
    preflight([planned(repeated)])


def test_an_absent_device_is_found_before_data_is_made(make_config, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = make_config(machine=MachineConfig(device=Device.cuda))
    with pytest.raises(ConfigError, match=r"machine\.device=cuda"):
        preflight([planned(config)])
    assert not Path(config.paths.data).exists()


def test_a_damaged_shard_is_found(make_config):
    run = planned(make_config())
    preflight([run])
    shard = next(Path(run.config.paths.data).rglob("train*.bin"))
    shard.write_bytes(shard.read_bytes()[:-2])
    with pytest.raises(DataError, match=re.escape(shard.name)):
        preflight([run])


def test_a_missing_mirror_is_found_before_data_is_made(make_config, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    config = make_config(tracker=TrackerConfig(kind=TrackerKind.wandb))
    with pytest.raises(MissingExtraError, match=r"-e '\.\[wandb\]'"):
        preflight([planned(config)])
    assert not Path(config.paths.data).exists()


def test_validation_text_shorter_than_a_window_is_found(make_config):
    config = make_config()
    config.data.seq_len = 16_384
    config.optimizer.batch_tokens = 16_384
    config.budget.tokens = 16_384
    message = "validation has 4000 tokens, fewer than one window of 16385; use data.seq_len=3999 or"
    with pytest.raises(DataError, match=message):
        preflight([planned(config)])


# room for checkpoints


@pytest.fixture
def disk(monkeypatch):
    """A disk whose `free` can be set; `asked` is where it was looked at."""
    fake = SimpleNamespace(free=0, asked=[])

    def usage(place):
        fake.asked.append(place)
        return SimpleNamespace(free=fake.free)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    return fake


def suffices(disk, free, runs):
    disk.free = free
    try:
        refuse_full_disk(runs)
    except StorageError:
        return False
    return True


def test_one_run_needs_what_it_keeps_and_one_more(make_config, disk):
    for keep in (2, 5):
        runs = [planned(make_config(machine=MachineConfig(checkpoint_keep=keep)))]
        assert bytes_to_write(runs) == (keep + 1) * ONE
        assert suffices(disk, (keep + 1) * ONE, runs)
        assert not suffices(disk, (keep + 1) * ONE - 1, runs)


def test_a_study_needs_what_all_keep_and_one_more_of_those_at_a_time(make_config, disk):
    for workers, spare in ((1, 1), (2, 2), (9, 3)):
        machine = MachineConfig(workers=workers)
        runs = [planned(make_config(seed=seed, machine=machine)) for seed in range(3)]
        assert bytes_to_write(runs) == (3 * 2 + spare) * ONE
        assert suffices(disk, (6 + spare) * ONE, runs)
        assert not suffices(disk, (6 + spare) * ONE - 1, runs)


def test_the_spare_ones_are_those_of_the_largest_models(make_config):
    machine = MachineConfig(workers=1)
    runs = [
        planned(make_config(model=ModelConfig(d_model=width), machine=machine))
        for width in (32, 64)
    ]
    one, large = (12 * run.plan.params.total for run in runs)
    assert large > 2 * one
    assert bytes_to_write(runs) == 2 * one + 3 * large


def test_finished_runs_need_nothing_and_a_restarted_one_all(make_config, disk):
    runs = [planned(make_config(seed=seed)) for seed in range(3)]
    for run, state in zip(runs, ("completed", "diverged", "failed"), strict=True):
        folder_of(run).path.mkdir(parents=True)
        folder_of(run).write_status(state)
    assert suffices(disk, 3 * ONE, runs)
    assert not suffices(disk, 3 * ONE - 1, runs)
    assert suffices(disk, 0, runs[:2])
    again = planned(make_config(seed=1, restart=True))
    assert again.plan.run_id == runs[1].plan.run_id
    assert not suffices(disk, 3 * ONE - 1, [again])


def test_what_an_interrupted_run_has_on_disk_is_not_needed_again(make_config, disk):
    run = planned(make_config())
    root = folder_of(run).checkpoints
    for name, size in (
        ("step_00000007", 1_000),
        ("step_00000014", 2_000),
        ("step_00000021.partial", 4_000),  # deleted before the next is written
        ("bad", 8_000),
    ):
        (root / name).mkdir(parents=True)
        (root / name / "model.pt").write_bytes(bytes(size))
    assert bytes_to_write([run]) == 3 * ONE - 3_000
    (root / "step_00000014" / "optim.pt").write_bytes(bytes(9 * ONE))
    assert bytes_to_write([run]) == ONE  # the one being written still comes on top
    disk.free = ONE - 1
    with pytest.raises(StorageError, match=r"\), besides the \S+ MB that are there; \S+ kB are"):
        refuse_full_disk([run])
    folder_of(run).write_status("diverged")
    archived = planned(make_config(restart=True))
    assert bytes_to_write([archived]) == 3 * ONE


def test_a_checkpoint_pruned_while_it_is_counted_is_left_out(make_config, monkeypatch):
    run = planned(make_config())
    checkpoint = folder_of(run).checkpoints / "step_00000007"
    checkpoint.mkdir(parents=True)
    (checkpoint / "model.pt").write_bytes(bytes(1_000))
    real = Path.glob

    def glob_and_prune(path, pattern):
        found = list(real(path, pattern))
        if path == checkpoint.parent:
            shutil.rmtree(checkpoint)
        return found

    monkeypatch.setattr(Path, "glob", glob_and_prune)
    assert bytes_to_write([run]) == 3 * ONE


def test_the_nearest_folder_that_exists_is_asked(make_config, disk, tmp_path):
    disk.free = 3 * ONE
    refuse_full_disk([planned(make_config(paths=PathsConfig(runs=str(tmp_path / "a" / "b"))))])
    assert disk.asked == [tmp_path]
    (tmp_path / "a" / "b").mkdir(parents=True)
    refuse_full_disk([planned(make_config(paths=PathsConfig(runs=str(tmp_path / "a" / "b"))))])
    assert disk.asked[1:] == [tmp_path / "a" / "b"]


def test_disks_are_added_up_apart(make_config, disk, tmp_path):
    runs = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        runs.append(planned(make_config(paths=PathsConfig(runs=str(tmp_path / name)))))
    assert suffices(disk, 3 * ONE, runs)


def test_a_run_that_goes_on_without_checkpoints_needs_no_room(make_config, disk):
    warns = planned(make_config(machine=MachineConfig(on_save_error=OnSaveError.warn)))
    assert suffices(disk, 0, [warns])
    assert not suffices(disk, 0, [warns, planned(make_config(seed=1))])


def test_the_message_says_what_is_needed_for_what_and_what_is_free(make_config, disk, tmp_path):
    run = planned(make_config())
    disk.free = 123_456
    message = (
        f"paths.runs={tmp_path / 'runs'}: needs {3 * ONE / 1e6:.3g} MB for 3 checkpoints of 12 "
        f"bytes a parameter of {run.plan.run_id} (machine.checkpoint_keep=2, and one more while it "
        f"is written); 123 kB are free in {tmp_path}; free some, or use another paths.runs"
    )
    with pytest.raises(StorageError, match=f"^{re.escape(message)}$"):
        refuse_full_disk([run])
    machine = MachineConfig(workers=2)
    study = [planned(make_config(seed=seed, machine=machine)) for seed in range(5)]
    message = (
        f"needs {12 * ONE / 1e6:.3g} MB for 12 checkpoints of 12 bytes a parameter of 5 unfinished "
        f"runs (machine.checkpoint_keep=2 of each run, and one more of each of the 2 at a time); "
    )
    with pytest.raises(StorageError, match=re.escape(message)):
        refuse_full_disk(study)


def test_gigabytes_are_called_so(make_config, disk):
    big = planned(make_config(model=ModelConfig(d_model=1024)))
    disk.free = 2_000_000_000
    with pytest.raises(StorageError, match=r"needs 7\.\d+ GB for .*; 2 GB are free"):
        refuse_full_disk([big])
