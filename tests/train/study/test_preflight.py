"""Before any run's first update: the device, room, every dataset, and enough tokens."""

import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from train.config.experiment import BudgetConfig
from train.config.runtime import Device, MachineConfig, TrackerConfig, TrackerKind
from train.config.schema import Config
from train.errors import ConfigError, DataError, MissingExtraError, StorageError
from train.plan.planning import PlannedRun, plan_run
from train.study.preflight import preflight

MakeConfig = Callable[..., Config]
LONG = BudgetConfig(tokens=256 * 400)  # 102,400 tokens of a source of 40,000


def planned(config: Config) -> PlannedRun:
    return PlannedRun(overrides=[], config=config, plan=plan_run(config))


def test_data_is_prepared_once_for_every_run(make_config: MakeConfig) -> None:
    config = make_config()
    preflight([planned(config), planned(make_config(seed=1))])
    folders = [path for path in Path(config.paths.data).iterdir() if path.is_dir()]
    assert [folder.name.split("-")[0] for folder in folders] == ["tiny"]


def test_the_longest_run_decides_whether_the_data_suffices(make_config: MakeConfig) -> None:
    long = planned(make_config(budget=LONG))
    with pytest.raises(ConfigError, match=rf"run {re.escape(long.plan.run_id)} asks for 102400"):
        preflight([planned(make_config()), long])
    repeated = make_config(budget=LONG)
    repeated.data.allow_repeat = True
    preflight([planned(repeated)])


def test_an_absent_device_is_found_before_data_is_made(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = make_config(machine=MachineConfig(device=Device.cuda))
    with pytest.raises(ConfigError, match=r"machine\.device=cuda"):
        preflight([planned(config)])
    assert not Path(config.paths.data).exists()


def test_a_damaged_shard_is_found(make_config: MakeConfig) -> None:
    run = planned(make_config())
    preflight([run])
    shard = next(Path(run.config.paths.data).rglob("train*.bin"))
    shard.write_bytes(shard.read_bytes()[:-2])
    with pytest.raises(DataError, match=re.escape(shard.name)):
        preflight([run])


def test_a_missing_mirror_is_found_before_data_is_made(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    config = make_config(tracker=TrackerConfig(kind=TrackerKind.wandb))
    with pytest.raises(MissingExtraError, match=r"-e '\.\[wandb\]'"):
        preflight([planned(config)])
    assert not Path(config.paths.data).exists()


def test_a_disk_without_room_is_found_before_data_is_made(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1_000))
    config = make_config()
    with pytest.raises(
        StorageError, match=r"needs \S+ MB for 3 checkpoints .*; 0\.001 MB are free"
    ):
        preflight([planned(config)])
    assert not Path(config.paths.data).exists()


def test_validation_text_shorter_than_a_window_is_found(make_config: MakeConfig) -> None:
    config = make_config()
    config.data.seq_len = 16_384
    config.optimizer.batch_tokens = 16_384
    config.budget.tokens = 16_384
    message = "validation has 4000 tokens, fewer than one window of 16385; use data.seq_len=3999 or"
    with pytest.raises(DataError, match=message):
        preflight([planned(config)])
