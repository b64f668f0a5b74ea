"""What all ranks of a world do at once, and how rank 0 leads the others through it.

Rank 0 is the only one that has runs, records and a clock. Before each thing that all must do it
tells them its name and what belongs to it, as JSON:

- `build`: the runs' configs, how to compute and the step; then every tensor of its engine.
- `warm_up`: what the first step would take long for.
- `advance`: so many steps. A signal at any rank stops all of them after the same one.
- `evaluate`: the validation loss, each rank on its part of the windows.
- `over`: go.

In a world of one nothing is told and the same functions run alone.
"""

import contextlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from torch import Tensor

from train.config.compose import to_config
from train.config.schema import Config
from train.data.prepare import prepare
from train.data.shards import open_dataset
from train.distributed import World
from train.engine.batches import Batches
from train.engine.compute_policy import Arithmetic
from train.engine.device import ComputeDevice, select_device
from train.engine.engine import Engine, Replica, Segment
from train.engine.evaluate import Evaluation, evaluate
from train.engine.memory import half_micro_batch
from train.errors import DataError, DeviceMemoryError, WindTunnelError, is_out_of_memory
from train.plan.planning import PlannedRun
from train.plan.validate import validate
from train.secrets import mask
from train.signals import StopRequest, stop_requests
from train.training.run_state import Run


def build_engine(
    runs: Sequence[Run | PlannedRun],
    compute: ComputeDevice,
    batches: Batches,
    arithmetic: Arithmetic,
    world: World,
) -> Engine:
    """The engine of a stack at step 0, a replica a run."""
    first = runs[0]
    replicas = [
        Replica(
            seed=run.config.seed,
            lr=run.plan.lr,
            schedule=run.plan.schedule,
            optimizer=run.config.optimizer,
        )
        for run in runs
    ]
    return Engine(
        first.plan.shape,
        replicas,
        compute,
        batches,
        arithmetic,
        rotary_base=first.config.model.rotary_base,
        world=world,
    )


def tell_build(world: World, runs: Sequence[Run], arithmetic: Arithmetic, *, step: int) -> None:
    """Have the others build the engine that rank 0 is about to build."""
    if world.size > 1:
        world.tell(
            "build",
            configs=[_as_json(run.config) for run in runs],
            data_sha256=runs[0].dataset.sha256,
            arithmetic=arithmetic.facts(),
            step=step,
        )


@dataclass(frozen=True, kw_only=True)
class Lockstep:
    """An engine and its validation windows, on any rank."""

    engine: Engine
    validation: Sequence[Tensor]
    bytes_per_token: float
    """Of the validation text."""

    def equalise(self) -> None:
        """Put every rank's weights, moments and step counts where rank 0's are."""
        for tensor in self.engine.state():
            self.engine.world.copy_leader(tensor)

    def warm_up(self) -> None:
        """Compile, and what else the first step would take long for.

        Raises:
            DeviceMemoryError, InfrastructureError: As for `advance`.
        """
        with self._on_all():
            self.engine.warm_up()

    def advance(self, n_steps: int, stop: StopRequest) -> Segment:
        """Take `n_steps` steps; fewer, at least one, when a signal asks any rank to stop.

        Raises:
            DeviceMemoryError: There are several ranks, and one has too little memory.
            InfrastructureError: Another rank failed.
        """
        world = self.engine.world
        with self._on_all():
            segment = self.engine.advance(n_steps, should_stop=lambda: world.agree(stop))
            world.agree(stop)
            return segment

    def evaluate(self) -> list[Evaluation]:
        """Measure the validation loss of each replica.

        Raises:
            DeviceMemoryError, InfrastructureError: As for `advance`.
        """
        with self._on_all():
            return evaluate(self.engine, self.validation, bytes_per_token=self.bytes_per_token)

    @contextlib.contextmanager
    def _on_all(self) -> Iterator[None]:
        """Ranks cannot halve the micro-batch each for itself: the user does, for all of them."""
        world = self.engine.world
        with world.lockstep():
            try:
                yield
            except (RuntimeError, MemoryError) as error:
                if world.size > 1 and is_out_of_memory(error):
                    raise self._too_little_memory() from None
                raise

    def _too_little_memory(self) -> DeviceMemoryError:
        now = self.engine.arithmetic.micro_batch_seqs
        half = half_micro_batch(now, batch_seqs=self.engine.batches.batch_seqs)
        remedy = (
            f"the same command continues with machine.micro_batch_seqs={half}, the batch unchanged"
            if half is not None
            else "use a smaller model or data.seq_len, or devices with more memory"
        )
        return DeviceMemoryError(f"{now} windows at a time do not fit the memory; {remedy}")


def follow(world: World) -> int:
    """What a rank but 0 does: as it is told. Signals wait for rank 0's word.

    Returns:
        Its exit code: 0 whenever rank 0 let it go, so that the job's is rank 0's.
    """
    code = 0
    try:
        with stop_requests() as stop:
            _follow(world, stop)
    except BaseException as error:
        is_news = not world.was_reported()
        world.is_broken = True
        world.report(error)
        if not isinstance(error, WindTunnelError):
            sys.excepthook(type(error), error, error.__traceback__)
        elif is_news:
            sys.stderr.write(mask(f"error: rank {world.rank}: {error}\n"))
        code = error.exit_code if isinstance(error, WindTunnelError) else 1
    world.part_with(code)
    return code


def _follow(world: World, stop: StopRequest) -> None:
    lockstep = None
    while (order := world.hear())["order"] != "over":
        if order["order"] == "build":
            lockstep = None  # its memory is needed
            lockstep = _build(order, world)
            continue
        assert lockstep is not None
        if order["order"] == "advance":
            lockstep.advance(order["n_steps"], stop)
        elif order["order"] == "warm_up":
            lockstep.warm_up()
        else:
            lockstep.evaluate()


def _build(order: dict[str, Any], world: World) -> Lockstep:
    """Build what tell_build tells of.

    Raises:
        ConfigError: This rank's device is not there.
        DataError: The data is missing here, damaged, or not rank 0's.
    """
    runs = [_planned(facts) for facts in order["configs"]]
    config = runs[0].config
    dataset = open_dataset(prepare(config.data, Path(config.paths.data)))
    if dataset.sha256 != order["data_sha256"]:
        raise DataError(f"{dataset.folder}: its tokens are not those that rank 0 trains on")
    compute = select_device(config.machine, index=world.local_rank)
    world.use(compute)
    arithmetic = Arithmetic.from_facts(order["arithmetic"])
    assert arithmetic is not None
    batches = Batches(
        dataset,
        compute,
        seeds=[run.config.seed for run in runs],
        batch_seqs=config.optimizer.batch_tokens // config.data.seq_len,
        seq_len=config.data.seq_len,
        world=world,
    )
    engine = build_engine(runs, compute, batches, arithmetic, world)
    engine.step = order["step"]
    lockstep = Lockstep(
        engine=engine,
        validation=batches.validation(config.eval.tokens, max_seqs=arithmetic.eval_seqs),
        bytes_per_token=dataset.bytes_per_token("validation"),
    )
    lockstep.equalise()
    return lockstep


def _as_json(config: Config) -> Any:  # noqa: ANN401
    return OmegaConf.to_container(OmegaConf.structured(config), enum_to_str=True)


def _planned(facts: Any) -> PlannedRun:  # noqa: ANN401
    config = to_config(OmegaConf.merge(OmegaConf.structured(Config), facts))  # type: ignore[arg-type]
    return PlannedRun(overrides=[], config=config, plan=validate(config))
