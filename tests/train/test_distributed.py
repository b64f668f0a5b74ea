"""A world of one does nothing; of several, a failure is told in the failing rank's words."""

import json
import re
import signal

import pytest
import torch
from torch.distributed import HashStore

from train.distributed import (
    ENVIRONMENT,
    FAILURE_KEY,
    World,
    join_world,
    this_world,
    world_of_environment,
)
from train.errors import ConfigError, DeviceMemoryError, InfrastructureError
from train.signals import StopRequest

LOST = RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed")


def of_two(rank=0):
    return World(rank=rank, size=2, local_rank=rank, store=HashStore())


def test_a_process_is_alone_until_it_joins_others():
    assert this_world() == World(rank=0, size=1, local_rank=0)


def test_alone_nothing_is_exchanged():
    world, tensor = World(), torch.tensor([1.0, 2.0])
    world.use(torch.device("cpu"))
    world.all_reduce(tensor)
    world.broadcast(tensor)
    assert world.on_rank_0(lambda: tensor) is tensor
    world.shutdown(7)
    assert tensor.tolist() == [1.0, 2.0]
    assert not torch.distributed.is_initialized()


def test_alone_a_stop_is_what_this_process_was_sent():
    stop = StopRequest()
    assert World().any_stop(stop) is False
    stop.signal = signal.SIGTERM
    assert World().any_stop(stop) is True


def test_alone_an_error_passes_as_it_is_and_breaks_nothing():
    world = World()
    with pytest.raises(RuntimeError, match="Connection closed"), world.collective():
        raise LOST
    assert not world.is_broken


@pytest.mark.parametrize(("size", "share"), [(1, 12), (2, 6), (3, 4), (12, 1)])
def test_each_rank_takes_an_equal_share_of_a_batch(size, share):
    assert World(size=size).split(12) == share


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_the_parts_of_all_ranks_are_all_items_once(size):
    items = list(range(5))
    parts = [World(rank=rank, size=size).part(items) for rank in range(size)]
    assert sorted(item for part in parts for item in part) == items
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_an_error_between_ranks_without_a_reason_says_that_one_is_gone():
    world = of_two()
    message = "^one of the 2 processes is gone; the same command continues$"
    with pytest.raises(InfrastructureError, match=message), world.collective():
        raise LOST
    assert world.is_broken


@pytest.mark.parametrize(
    ("reason", "kind"),
    [(DeviceMemoryError("8 do not fit"), DeviceMemoryError), (ValueError(), InfrastructureError)],
)
def test_an_error_between_ranks_takes_the_reason_that_another_left(reason, kind):
    world, other = of_two(), World(rank=1, size=2, is_broken=True)
    other.store = world.store
    other.report(reason)
    told = str(reason) or "ValueError"
    with pytest.raises(kind, match=f"^rank 1: {told}$"), world.collective():
        raise LOST


def test_an_error_of_its_own_passes_as_it_is_and_breaks_the_world():
    for error in (ConfigError("x"), ValueError("y"), RuntimeError("CUDA error: z")):
        world = of_two()
        with pytest.raises(type(error), match=str(error)), world.collective():
            raise error
        assert world.is_broken


def test_the_first_reason_stays():
    world = of_two()
    world.is_broken = True
    assert not world.has_failed()
    world.report(ValueError("first\nsecond line"))
    world.report(ValueError("later"))
    assert world.has_failed()
    assert json.loads(world.store.get(FAILURE_KEY)) == {
        "rank": 0,
        "is_memory": False,
        "reason": "first",
    }


def test_what_ends_a_rank_between_steps_is_no_reason_for_the_others():
    world = of_two()
    world.report(ConfigError("unknown key"))
    assert not world.has_failed()


TORCHRUN = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
}


@pytest.fixture
def environment(monkeypatch):
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def set_all(environment, **changes):
    for name, value in {**TORCHRUN, **changes}.items():
        environment.setenv(name, value)


def test_torchrun_s_environment_is_a_world(environment):
    set_all(environment)
    assert world_of_environment() == World(rank=3, size=4, local_rank=1)


def test_without_it_a_process_is_alone(environment):
    assert world_of_environment() == World()
    set_all(environment, WORLD_SIZE="1", RANK="0", LOCAL_RANK="0")
    assert world_of_environment() == World()
    assert join_world() == World() == this_world()


def test_a_part_of_it_is_refused(environment):
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
def test_what_cannot_be_is_refused(environment, changes, message):
    set_all(environment, **changes)
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}"):
        world_of_environment()
