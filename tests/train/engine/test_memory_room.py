"""A run that cannot fit is refused before its weights are made; one that can is not."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from train.config.experiment import ModelConfig
from train.config.runtime import Device, MachineConfig
from train.config.schema import Config
from train.engine import memory as memory_room
from train.engine.device import select_device
from train.engine.memory import least_bytes, refuse_too_large, total_bytes
from train.errors import ConfigError
from train.plan.planning import PlannedRun, plan_run
from train.study.dry_run import memory_bytes
from train.study.preflight import preflight

Make = Callable[..., Config]


def planned(config: Config) -> PlannedRun:
    return PlannedRun(overrides=[], config=config, plan=plan_run(config))


def test_the_largest_run_is_named_with_what_there_is(
    make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, large = planned(make_config()), planned(make_config(model=ModelConfig(d_model=64)))
    need = least_bytes(large.plan)
    monkeypatch.setattr(memory_room, "total_bytes", lambda compute: need)
    refuse_too_large([small, large])
    monkeypatch.setattr(memory_room, "total_bytes", lambda compute: need - 1)
    refuse_too_large([small])
    with pytest.raises(ConfigError, match=r"model\.d_model=64 with 2 layers: .* need at least"):
        refuse_too_large([small, large])


def test_a_model_far_beyond_the_machine_is_refused_before_data_is_made(make_config: Make) -> None:
    config = make_config(model=ModelConfig(d_model=1_048_576))
    with pytest.raises(ConfigError, match=r"parameters.* need at least .* GB, and .* has .* GB"):
        preflight([planned(config)])
    assert not Path(config.paths.data).exists()


def test_what_a_run_needs_at_least_is_below_the_estimate_of_dry_run(make_config: Make) -> None:
    run = planned(make_config())
    assert 16 * run.plan.params.total < least_bytes(run.plan) < memory_bytes(run)


def test_the_whole_memory_is_the_machine_s() -> None:
    compute = select_device(MachineConfig(device=Device.cpu))
    assert 10**9 < total_bytes(compute) < 10**14


@pytest.mark.gpu
def test_a_gpu_has_its_own_memory() -> None:
    compute = select_device(MachineConfig(device=Device.cuda))
    assert total_bytes(compute) == torch.cuda.mem_get_info()[1]
