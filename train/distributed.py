"""The processes that train one job together, each on its own device: `torchrun -m train ...`.

Data parallel: every rank holds the whole model, computes the gradient of its part of each batch,
and updates with the mean over all ranks. All ranks run the same training code; rank 0 alone reads
the config, the checkpoints and the run folders, and writes to them (`World.on_rank_0`). A process
that was started alone is a world of one, in which no collective is called.

The protocol: at any time rank 0 works inside `on_rank_0` while the others wait there for its value,
or all ranks are in the same collective. An error anywhere else marks the world as broken
(`is_broken`): its process ends at once, and the others learn the reason from the store.
"""

import contextlib
import gc
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor, distributed
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from train.errors import ConfigError, DeviceMemoryError, InfrastructureError, WindTunnelError
from train.signals import StopRequest

ENVIRONMENT = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""Variables that torchrun sets for each process."""

JOIN_SECONDS = 300.0
"""Timeout for all ranks to appear."""

GLOO_TIMEOUT = timedelta(days=30)
"""Timeout for rank 0's next value (it may be tokenising); if rank 0 dies, gloo fails at once."""

NCCL_TIMEOUT = timedelta(minutes=10)
"""Timeout of a collective on GPUs, where a dead peer may go unnoticed. The first step compiles."""

FAILURE_KEY = "failure"
"""Key of the store under which the first rank that fails leaves its reason."""

Item = TypeVar("Item")
Value = TypeVar("Value")


class ReleasedError(Exception):
    """Rank 0 has ended, with an error or without one; the other ranks end with exit code 0."""


@dataclass(kw_only=True)
class World:
    """This process's rank among those of its job; by default it is alone."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """Rank on this machine, which is the index of its GPU."""
    store: Store | None = None
    """torchrun's key-value store, which outlives this process."""
    is_broken: bool = False
    """Whether other ranks may be waiting in a collective that this one never reaches."""
    is_awaited: bool = True
    """Whether the other ranks wait for rank 0's next value, and for nothing else."""
    _nccl: distributed.ProcessGroup | None = None

    def split(self, batch_seqs: int) -> int:
        """Windows of a batch that each rank takes; validate.check_batch_split refused a rest."""
        assert batch_seqs % self.size == 0
        return batch_seqs // self.size

    def part(self, items: Sequence[Item]) -> Sequence[Item]:
        """This rank's items."""
        return items[self.rank :: self.size]

    def use(self, device: torch.device) -> None:
        """Make `device` the one whose tensors are reduced; every rank calls it."""
        if self.size > 1 and device.type == "cuda":
            torch.cuda.set_device(device)
            with self.collective():
                # a rank may prepare data of its own for hours, and NCCL would not wait so long
                distributed.barrier()
                if self._nccl is None:
                    self._nccl = distributed.new_group(backend="nccl", timeout=NCCL_TIMEOUT)

    def all_reduce(self, tensor: Tensor) -> None:
        """Replace `tensor` by its sum over all ranks, the same bits on each.

        With NCCL it is queued like any kernel, and can be part of a CUDA graph.
        """
        if self.size > 1:
            with self.collective():
                distributed.all_reduce(tensor, group=self._group(tensor))

    def broadcast(self, tensor: Tensor) -> None:
        """Replace `tensor` by rank 0's."""
        if self.size > 1:
            with self.collective():
                distributed.broadcast(tensor, src=0, group=self._group(tensor))

    def any_stop(self, stop: StopRequest) -> bool:
        """Whether a signal asked any rank to stop: the same answer on all of them."""
        if self.size > 1:
            number = torch.tensor([stop.signal or 0])
            with self.collective():
                distributed.all_reduce(number, op=distributed.ReduceOp.MAX)
            if number.item():
                stop.signal = signal.Signals(int(number.item()))
        return bool(stop)

    def on_rank_0(self, work: Callable[[], Value]) -> Value:
        """Run `work` on rank 0 and return its value, JSON in a world of several, on every rank.

        Everything that only rank 0 does goes through here: the others wait for its end, so that an
        error of rank 0 finds them in this collective and in no other.

        Raises:
            ReleasedError: On the other ranks, when `work` raised on rank 0.
        """
        if self.size == 1:
            return work()
        if self.rank > 0:
            return self._receive()["value"]  # type: ignore[no-any-return]
        self.is_awaited = True
        value = work()
        self._send({"value": value})
        self.is_awaited = False
        return value

    @contextlib.contextmanager
    def collective(self) -> Iterator[None]:
        """Wrap what all ranks do at once: an error on one of them leaves the others waiting.

        Raises:
            DeviceMemoryError: Another rank ran out of memory.
            InfrastructureError: Another rank failed, or is gone.
        """
        try:
            yield
        except ReleasedError:
            raise
        except BaseException as error:
            self.is_broken = self.size > 1
            if self.is_broken and _is_of_a_peer(error):
                raise self._failure_of_a_peer() from None
            raise

    def report(self, error: BaseException) -> None:
        """Leave the reason of this rank's failure to the others, unless one has left its own."""
        if self.store is None or not self.is_broken:
            return
        with contextlib.suppress(RuntimeError):
            if not self.store.check([FAILURE_KEY]):
                is_memory = isinstance(error, DeviceMemoryError)
                reason = {"rank": self.rank, "is_memory": is_memory, "reason": first_line(error)}
                self.store.set(FAILURE_KEY, json.dumps(reason))

    def has_failed(self) -> bool:
        """Whether any rank has left a reason."""
        with contextlib.suppress(RuntimeError):
            return self.store is not None and bool(self.store.check([FAILURE_KEY]))
        return False

    def shutdown(self, exit_code: int) -> None:
        """Leave the world, rank 0 first; or end the process where leaving could wait for ever."""
        if self.size == 1:
            return
        if self.rank == 0 and not self.is_broken:
            with contextlib.suppress(InfrastructureError):
                self._send({"released": True})
        if self.is_broken:
            end_process(exit_code)
        # a CUDA graph that was not collected yet would keep NCCL's connections
        gc.collect()
        distributed.destroy_process_group()

    def wait_for_release(self) -> None:
        """On the other ranks: wait until rank 0 shuts down."""
        with contextlib.suppress(ReleasedError):
            while True:
                self._receive()

    def _send(self, message: dict[str, Any]) -> None:
        content = json.dumps(message).encode()
        with self.collective():
            distributed.broadcast(torch.tensor([len(content)]), src=0)
            distributed.broadcast(torch.frombuffer(bytearray(content), dtype=torch.uint8), src=0)

    def _receive(self) -> dict[str, Any]:
        with self.collective():
            size = torch.zeros(1, dtype=torch.int64)
            distributed.broadcast(size, src=0)
            content = torch.zeros(int(size.item()), dtype=torch.uint8)
            distributed.broadcast(content, src=0)
        message = json.loads(content.numpy().tobytes())
        if "released" in message:
            raise ReleasedError
        assert isinstance(message, dict)
        return message

    def _group(self, tensor: Tensor) -> distributed.ProcessGroup | None:
        return self._nccl if tensor.is_cuda else None

    def _failure_of_a_peer(self) -> WindTunnelError:
        failure: dict[str, Any] = {}
        with contextlib.suppress(RuntimeError, ValueError):
            if self.store is not None and self.store.check([FAILURE_KEY]):
                failure = json.loads(self.store.get(FAILURE_KEY))
        if not failure:
            return InfrastructureError(
                f"one of the {self.size} processes is gone; the same command continues"
            )
        kind = DeviceMemoryError if failure["is_memory"] else InfrastructureError
        return kind(f"rank {failure['rank']}: {failure['reason']}")


def end_process(exit_code: int) -> NoReturn:
    """End the process without waiting for anything but its output."""
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(exit_code)


def _is_of_a_peer(error: BaseException) -> bool:
    """Whether a collective failed because of another rank; gloo raises plain RuntimeErrors."""
    if isinstance(error, distributed.DistError):
        return True
    return isinstance(error, RuntimeError) and "gloo" in str(error)


def first_line(error: BaseException) -> str:
    """First line of an error's message."""
    return (str(error) or type(error).__name__).splitlines()[0]


_world = World()


def this_world() -> World:
    """The world that this process joined; a world of one before that."""
    return _world


def join_world() -> World:
    """Meet the other ranks of this job, which torchrun's environment variables name.

    Raises:
        ConfigError: One of those variables is missing or impossible.
        InfrastructureError: Not all ranks appeared within JOIN_SECONDS.
    """
    global _world
    world = world_of_environment()
    if world.size > 1:
        world.store = _rendezvous(world)
        distributed.init_process_group(
            "gloo", store=world.store, rank=world.rank, world_size=world.size, timeout=GLOO_TIMEOUT
        )
    _world = world
    return world


def world_of_environment() -> World:
    """Rank and size by torchrun's variables, a world of one without them; nothing is connected.

    Raises:
        ConfigError: One of them is missing or impossible.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return World()
    missing = [name for name in ENVIRONMENT if not os.environ.get(name)]
    if missing:
        raise ConfigError(
            f"WORLD_SIZE={os.environ['WORLD_SIZE']} is set and {', '.join(missing)} is not; start "
            f"several processes by torchrun --nproc-per-node N -m train, or unset WORLD_SIZE"
        )
    size, rank = _whole_number("WORLD_SIZE", 1), _whole_number("RANK", 0)
    if rank >= size:
        raise ConfigError(f"RANK={rank}: must be below WORLD_SIZE={size}, at most {size - 1}")
    return World(rank=rank, size=size, local_rank=_whole_number("LOCAL_RANK", 0))


def _whole_number(name: str, least: int) -> int:
    text = os.environ[name]
    if not text.isdecimal() or int(text) < least:
        raise ConfigError(
            f"{name}={text}: must be a whole number from {least} on; torchrun sets it"
        )
    return int(text)


def _rendezvous(world: World) -> Store:
    """Wait for every rank at MASTER_ADDR; return the store that they share."""
    address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    timeout = timedelta(seconds=JOIN_SECONDS)
    missing = set(range(world.size)) - {world.rank}
    try:
        found = next(rendezvous("env://", world.rank, world.size, timeout=timeout))
        # torchrun keeps its store when it restarts the processes: keys of each attempt are its own
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = PrefixStore(f"windtunnel {attempt}", found[0])
        store.set(f"rank {world.rank}", "here")
        for rank in sorted(missing):
            store.wait([f"rank {rank}"], timeout)
            missing.remove(rank)
    except (RuntimeError, ValueError, OSError) as error:
        listed = ", ".join(str(rank) for rank in sorted(missing))
        raise InfrastructureError(
            f"rank {world.rank} of {world.size} waited {JOIN_SECONDS:g} s at {address} for rank "
            f"{listed} ({first_line(error)}); see to it that every process is started and reaches "
            f"that address, and the same command continues"
        ) from None
    return store
