"""A world of one does nothing; of several, a failure is told in the failing rank's words."""

import json
import signal

import pytest
import torch
from torch.distributed import HashStore

from train.distributed import FAILURE, World, this_world
from train.engine.device import ComputeDevice
from train.errors import ConfigError, DeviceMemoryError, InfrastructureError
from train.signals import StopRequest

LOST = RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed")


def of_two(rank: int = 0) -> World:
    return World(rank=rank, size=2, local_rank=rank, store=HashStore())


def test_a_process_is_alone_until_it_joins_others() -> None:
    assert this_world() == World(rank=0, size=1, local_rank=0)


def test_alone_nothing_is_exchanged() -> None:
    world, tensor = World(), torch.tensor([1.0, 2.0])
    world.use(ComputeDevice(torch.device("cpu"), "cpu"))
    world.sum(tensor)
    world.copy_leader(tensor)
    world.tell("advance", n_steps=1)
    world.leave(7)
    assert tensor.tolist() == [1.0, 2.0]
    assert not torch.distributed.is_initialized()


def test_alone_a_stop_is_what_this_process_was_sent() -> None:
    stop = StopRequest()
    assert World().agree(stop) is False
    stop.signal = signal.SIGTERM
    assert World().agree(stop) is True


def test_alone_an_error_passes_as_it_is_and_breaks_nothing() -> None:
    world = World()
    with pytest.raises(RuntimeError, match="Connection closed"), world.lockstep():
        raise LOST
    assert not world.is_broken


@pytest.mark.parametrize(("size", "share"), [(1, 12), (2, 6), (3, 4), (12, 1)])
def test_each_rank_takes_an_equal_share_of_a_batch(size: int, share: int) -> None:
    assert World(size=size).share(12) == share


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_the_parts_of_all_ranks_are_all_items_once(size: int) -> None:
    items = list(range(5))
    parts = [World(rank=rank, size=size).part(items) for rank in range(size)]
    assert sorted(item for part in parts for item in part) == items
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_an_error_between_ranks_without_a_reason_says_that_one_is_gone() -> None:
    world = of_two()
    message = "^one of the 2 processes is gone; the same command continues$"
    with pytest.raises(InfrastructureError, match=message), world.lockstep():
        raise LOST
    assert world.is_broken


@pytest.mark.parametrize(
    ("reason", "kind"),
    [(DeviceMemoryError("8 do not fit"), DeviceMemoryError), (ValueError(), InfrastructureError)],
)
def test_an_error_between_ranks_takes_the_reason_that_another_left(
    reason: Exception, kind: type[Exception]
) -> None:
    world, other = of_two(), World(rank=1, size=2, is_broken=True)
    other.store = world.store
    other.report(reason)
    told = str(reason) or "ValueError"
    with pytest.raises(kind, match=f"^rank 1: {told}$"), world.lockstep():
        raise LOST


def test_an_error_of_its_own_passes_as_it_is_and_breaks_the_world() -> None:
    for error in (ConfigError("x"), ValueError("y"), RuntimeError("CUDA error: z")):
        world = of_two()
        with pytest.raises(type(error), match=str(error)), world.lockstep():
            raise error
        assert world.is_broken


def test_the_first_reason_stays() -> None:
    world = of_two()
    world.is_broken = True
    assert not world.was_reported()
    world.report(ValueError("first\nsecond line"))
    world.report(ValueError("later"))
    assert world.was_reported()
    assert world.store is not None
    assert json.loads(world.store.get(FAILURE)) == {
        "rank": 0,
        "is_memory": False,
        "reason": "first",
    }


def test_what_ends_a_rank_between_steps_is_no_reason_for_the_others() -> None:
    world = of_two()
    world.report(ConfigError("unknown key"))
    assert not world.was_reported()
