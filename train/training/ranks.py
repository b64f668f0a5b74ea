"""The other ranks of a job: they train what rank 0 plans, and end as it ends."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from omegaconf import OmegaConf

from train.config.schema import Config
from train.distributed import ReleasedError, World
from train.errors import (
    DivergedError,
    InterruptedByUserError,
    PreemptedError,
    WindTunnelError,
)
from train.plan.planning import PlannedRun
from train.plan.validate import validate
from train.secrets import mask
from train.signals import stop_requests

SAME_ON_ALL_RANKS = (DivergedError, PreemptedError, InterruptedByUserError)
"""Errors that every rank raises at the same point, and rank 0 reports."""


def follow_rank_0(world: World, train: Callable[[], None]) -> int:
    """Call `train` on another rank; return this rank's exit code.

    It is 0 whenever rank 0 reports the end, so that the job's exit code is rank 0's.
    """
    code = 0
    try:
        with stop_requests():
            with contextlib.suppress(*SAME_ON_ALL_RANKS):
                train()
            world.wait_for_release()
    except ReleasedError:
        pass
    except BaseException as error:
        is_first = not world.has_failed()
        world.is_broken = True
        world.report(error)
        code = error.exit_code if isinstance(error, WindTunnelError) else 1
        if not isinstance(error, WindTunnelError):
            sys.excepthook(type(error), error, error.__traceback__)
        elif is_first:
            sys.stderr.write(mask(f"error: rank {world.rank}: {error}\n"))
    world.shutdown(code)
    return code


@contextlib.contextmanager
def break_world_on_error(world: World) -> Iterator[None]:
    """Mark the world as broken by an error of rank 0 that finds the others in a collective."""
    try:
        yield
    except SAME_ON_ALL_RANKS:
        raise
    except BaseException:
        if world.size > 1 and world.rank == 0 and not world.is_awaited:
            world.is_broken = True
        raise


def same_on_all_ranks(world: World, planned: Sequence[PlannedRun]) -> list[PlannedRun]:
    """Rank 0's runs, on every rank."""
    if world.size == 1:
        return list(planned)

    def configs() -> list[Any]:
        structured = (OmegaConf.structured(run.config) for run in planned)
        return [OmegaConf.to_container(config, enum_to_str=True) for config in structured]

    runs = []
    for content in world.on_rank_0(configs):
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), content))
        assert isinstance(config, Config)
        runs.append(PlannedRun(overrides=[], config=config, plan=validate(config)))
    return runs


def select_runs(
    world: World, runs: Sequence[PlannedRun], test: Callable[[PlannedRun], bool]
) -> list[PlannedRun]:
    """The runs that pass a test of their folders, which rank 0 reads."""
    names = world.on_rank_0(lambda: [run.plan.run_id for run in runs if test(run)])
    return [run for run in runs if run.plan.run_id in names]
