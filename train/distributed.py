"""The processes that train one job together, each on its own device: `torchrun -m train ...`.

They are data parallel: every rank holds the whole model and computes the gradient of its share of
each batch, and the mean over all of them is what each updates with. Rank 0 leads. It reads the
config, the checkpoints and the data's state, writes all records, and tells the others what to do
(lockstep.py), so that nothing is decided twice. A process that was started alone is a world of one,
in which nothing of this happens.

How the processes of one job find each other: by what torchrun puts into their environment.
"""

import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor, distributed
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from train.engine.device import ComputeDevice, release_memory
from train.errors import ConfigError, DeviceMemoryError, InfrastructureError, WindTunnelError
from train.signals import StopRequest

LONGEST_ORDER = timedelta(days=30)
"""Followers wait so long for the leader, which may be preparing data; its death ends the wait."""

LONGEST_STEP = timedelta(minutes=10)
"""The first one compiles. Of NCCL, which cannot always tell that a peer is gone."""

FAILURE = "failure"
"""Key under which a rank that fails leaves its reason to the others."""

Item = TypeVar("Item")


@dataclass(kw_only=True)
class World:
    """One process's place among those of its job; by default it is alone."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """Place among the processes of this machine, which is the number of its GPU."""
    store: Store | None = None
    """Where the processes found each other."""
    is_broken: bool = False
    """Whether the others may be waiting for something that will not come."""
    _devices: distributed.ProcessGroup | None = None
    """Ranks as they exchange what is on GPUs; on CPUs the default group does."""

    def share(self, batch_seqs: int) -> int:
        """Windows of a batch that each rank takes; check_batch_split refuses others."""
        assert batch_seqs % self.size == 0
        return batch_seqs // self.size

    def part(self, items: Sequence[Item]) -> Sequence[Item]:
        """Those of `items` that fall to this rank."""
        return items[self.rank :: self.size]

    def use(self, compute: ComputeDevice) -> None:
        """Exchange tensors on this device from now on; every rank calls it at the same point."""
        if self.size > 1 and compute.is_cuda:
            torch.cuda.set_device(compute.device)
            with self.lockstep():
                distributed.barrier()  # a rank may be preparing data of its own, for hours
                if self._devices is None:
                    self._devices = distributed.new_group(backend="nccl", timeout=LONGEST_STEP)

    def sum(self, tensor: Tensor) -> None:
        """Put the sum over all ranks in place of `tensor`, the same bits on each.

        On NCCL it is queued like any kernel, and can be part of a CUDA graph.
        """
        if self.size > 1:
            with self.lockstep():
                distributed.all_reduce(tensor, group=self._group(tensor))

    def copy_leader(self, tensor: Tensor) -> None:
        """Put rank 0's values in place of `tensor`."""
        if self.size > 1:
            with self.lockstep():
                distributed.broadcast(tensor, src=0, group=self._group(tensor))

    def agree(self, stop: StopRequest) -> bool:
        """Whether a signal asked any rank to stop; on all of them, or on none."""
        if self.size > 1:
            number = torch.tensor([stop.signal or 0])
            with self.lockstep():
                distributed.all_reduce(number, op=distributed.ReduceOp.MAX)
            if number.item():
                stop.signal = signal.Signals(int(number.item()))
        return bool(stop)

    def tell(self, order: str, **details: Any) -> None:  # noqa: ANN401
        """Rank 0 says what all do next; JSON values."""
        if self.size > 1:
            content = json.dumps({"order": order, **details}).encode()
            with self.lockstep():
                distributed.broadcast(torch.tensor([len(content)]), src=0)
                distributed.broadcast(torch.frombuffer(bytearray(content), dtype=torch.uint8), 0)

    def hear(self) -> dict[str, Any]:
        """What rank 0 tells next."""
        with self.lockstep():
            size = torch.zeros(1, dtype=torch.int64)
            distributed.broadcast(size, src=0)
            content = torch.zeros(int(size.item()), dtype=torch.uint8)
            distributed.broadcast(content, src=0)
        order = json.loads(content.numpy().tobytes())
        assert isinstance(order, dict)
        return order

    @contextlib.contextmanager
    def lockstep(self) -> Iterator[None]:
        """Something that all ranks do at once: whatever ends it on one leaves the others waiting.

        Raises:
            DeviceMemoryError: Another rank ran out of memory.
            InfrastructureError: Another rank failed, or is gone.
        """
        try:
            yield
        except WindTunnelError:
            self.is_broken = self.size > 1
            raise
        except BaseException as error:
            self.is_broken = self.size > 1
            if self.is_broken and _is_of_a_peer(error):
                raise self._failure() from None
            raise

    def report(self, error: BaseException) -> None:
        """Leave the reason of this rank's end to the others, unless one of them has left its own.

        The store is torchrun's own process, so it outlives this one.
        """
        if self.store is None or not self.is_broken:
            return
        with contextlib.suppress(RuntimeError):
            if not self.store.check([FAILURE]):
                is_memory = isinstance(error, DeviceMemoryError)
                reason = {"rank": self.rank, "is_memory": is_memory, "reason": in_a_line(error)}
                self.store.set(FAILURE, json.dumps(reason))

    def was_reported(self) -> bool:
        """Whether some rank has left a reason."""
        with contextlib.suppress(RuntimeError):
            return self.store is not None and bool(self.store.check([FAILURE]))
        return False

    def leave(self, exit_code: int) -> None:
        """Rank 0 is done: let the others go, too.

        Where they may hang, the process ends here: leaving in good order would wait for them.
        """
        if self.size == 1:
            return
        if not self.is_broken:
            with contextlib.suppress(InfrastructureError):
                self.tell("over")
        self.part_with(exit_code)

    def part_with(self, exit_code: int) -> None:
        """Close the connections; or end the process where that could wait for ever."""
        if self.is_broken:
            end_at_once(exit_code)
        release_memory()  # recorded graphs hold on to NCCL's connections
        distributed.destroy_process_group()

    def _group(self, tensor: Tensor) -> distributed.ProcessGroup | None:
        return self._devices if tensor.is_cuda else None

    def _failure(self) -> WindTunnelError:
        """The error that another rank's end is to this one."""
        told: Mapping[str, Any] = {}
        with contextlib.suppress(RuntimeError, ValueError):
            if self.store is not None and self.store.check([FAILURE]):
                told = json.loads(self.store.get(FAILURE))
        if not told:
            return InfrastructureError(
                f"one of the {self.size} processes is gone; the same command continues"
            )
        message = f"rank {told['rank']}: {told['reason']}"
        if told["is_memory"]:
            return DeviceMemoryError(message)
        return InfrastructureError(message)


def end_at_once(exit_code: int) -> NoReturn:
    """End the process without waiting for anything but what it has to say."""
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(exit_code)


def _is_of_a_peer(error: BaseException) -> bool:
    """Whether a collective failed because of what happened elsewhere; gloo says it in words."""
    if isinstance(error, distributed.DistError):
        return True
    return isinstance(error, RuntimeError) and "gloo" in str(error)


def in_a_line(error: BaseException) -> str:
    """What an error of another library says first."""
    return (str(error) or type(error).__name__).splitlines()[0]


_joined = World()


def this_world() -> World:
    """The world that this process joined; alone before that. One a process, as in torch."""
    return _joined


def join(world: World) -> None:
    """Make `world` this process's, once its ranks have found each other at its store."""
    global _joined
    if world.size > 1:
        distributed.init_process_group(
            "gloo", store=world.store, rank=world.rank, world_size=world.size, timeout=LONGEST_ORDER
        )
    _joined = world


ENVIRONMENT = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun tells each process."""

JOIN_SECONDS = 300.0
"""How long the processes wait for each other at the start."""


def join_world() -> World:
    """Find the other processes of this job, as torchrun's environment tells.

    Raises:
        ConfigError: Part of that environment is missing or cannot be.
        InfrastructureError: They did not all come within JOIN_SECONDS.
    """
    world = world_of_environment()
    if world.size > 1:
        world.store = _meet(world)
    join(world)
    return world


def world_of_environment() -> World:
    """What torchrun's environment says; a world of one without it. Nothing is connected.

    Raises:
        ConfigError: Part of it is missing or cannot be.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return World()
    missing = [name for name in ENVIRONMENT if not os.environ.get(name)]
    if missing:
        raise ConfigError(
            f"WORLD_SIZE={os.environ['WORLD_SIZE']} is set and {', '.join(missing)} is not; start "
            f"several processes by torchrun --nproc-per-node N -m train, or unset WORLD_SIZE"
        )
    size, rank = _number("WORLD_SIZE", 1), _number("RANK", 0)
    if rank >= size:
        raise ConfigError(f"RANK={rank}: must be below WORLD_SIZE={size}, at most {size - 1}")
    return World(rank=rank, size=size, local_rank=_number("LOCAL_RANK", 0))


def _number(name: str, least: int) -> int:
    text = os.environ[name]
    if not text.isdecimal() or int(text) < least:
        raise ConfigError(
            f"{name}={text}: must be a whole number from {least} on; torchrun sets it"
        )
    return int(text)


def _meet(world: World) -> Store:
    """Wait until every rank is there."""
    address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    patience = timedelta(seconds=JOIN_SECONDS)
    missing = set(range(world.size)) - {world.rank}
    try:
        found = next(rendezvous("env://", world.rank, world.size, timeout=patience))
        # torchrun's own store outlives a restart of its processes: each has a part for itself
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = PrefixStore(f"windtunnel {attempt}", found[0])
        store.set(f"rank {world.rank}", "here")
        for rank in sorted(missing):
            store.wait([f"rank {rank}"], patience)
            missing.remove(rank)
    except (RuntimeError, ValueError, OSError) as error:
        listed = ", ".join(str(rank) for rank in sorted(missing))
        raise InfrastructureError(
            f"rank {world.rank} of {world.size} waited {JOIN_SECONDS:g} s at {address} for rank "
            f"{listed} ({in_a_line(error)}); see to it that every process is started and reaches "
            f"that address, and the same command continues"
        ) from None
    return store
