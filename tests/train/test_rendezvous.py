"""A world is what torchrun's environment says, all of it; joining is tested by whole jobs."""

import re

import pytest

from train.distributed import ENVIRONMENT, World, join_world, this_world, world_of_environment
from train.errors import ConfigError

TORCHRUN = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def set_all(environment: pytest.MonkeyPatch, **changes: str) -> None:
    for name, value in {**TORCHRUN, **changes}.items():
        environment.setenv(name, value)


def test_torchrun_s_environment_is_a_world(environment: pytest.MonkeyPatch) -> None:
    set_all(environment)
    assert world_of_environment() == World(rank=3, size=4, local_rank=1)


def test_without_it_a_process_is_alone(environment: pytest.MonkeyPatch) -> None:
    assert world_of_environment() == World()
    set_all(environment, WORLD_SIZE="1", RANK="0", LOCAL_RANK="0")
    assert world_of_environment() == World()
    assert join_world() == World() == this_world()


def test_a_part_of_it_is_refused(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("WORLD_SIZE", "8")
    environment.setenv("RANK", "0")
    message = (
        "WORLD_SIZE=8 is set and LOCAL_RANK, MASTER_ADDR, MASTER_PORT is not; start several "
        "processes by torchrun --nproc-per-node N -m train, or unset WORLD_SIZE"
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        world_of_environment()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"RANK": "4"}, "RANK=4: must be below WORLD_SIZE=4, at most 3"),
        ({"RANK": "-1"}, "RANK=-1: must be a whole number from 0 on; torchrun sets it"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE=two: must be a whole number from 1 on"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE=0: must be a whole number from 1 on"),
        ({"LOCAL_RANK": "a"}, "LOCAL_RANK=a: must be a whole number from 0 on"),
    ],
)
def test_what_cannot_be_is_refused(
    environment: pytest.MonkeyPatch, changes: dict[str, str], message: str
) -> None:
    set_all(environment, **changes)
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}"):
        world_of_environment()
