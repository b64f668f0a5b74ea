"""How the processes of one job find each other: by what torchrun puts into their environment."""

import os
from datetime import timedelta

from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from train.errors import ConfigError, InfrastructureError
from train.world import World, in_a_line, join

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
