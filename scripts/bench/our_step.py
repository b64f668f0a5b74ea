"""Our training step, as the benchmarks time it."""

from dataclasses import replace
from pathlib import Path

from bench.paired_timing import Work
from train.config.runtime import Compile
from train.data.prepare import prepare
from train.data.shards import open_dataset
from train.engine.build import build_engine
from train.engine.device import select_device
from train.plan.planning import PlannedRun


def build_step(run: PlannedRun, data: Path, *, replicas: int = 1, is_compiled: bool = True) -> Work:
    """Build the engine of a planned run, as a training job does, and return what takes its steps.

    Args:
        run: The run to train.
        data: Root folder of prepared data.
        replicas: Number of stacked replicas, with seeds 0, 1, ...
        is_compiled: Whether to compile the step, whatever the run's config says.
    """
    machine = replace(run.config.machine, compile=Compile.always if is_compiled else Compile.never)
    each = [
        replace(run, config=replace(run.config, machine=machine, seed=seed))
        for seed in range(replicas)
    ]
    dataset = open_dataset(prepare(run.config.data, data))
    return build_engine(each, dataset, select_device(machine)).advance


def shard(run: PlannedRun, data: Path) -> Path:
    """Prepare the run's data and return its one training shard, a flat file of uint16 tokens.

    The reference step reads the same file with its own code.
    """
    dataset = open_dataset(prepare(run.config.data, data))
    (only,) = dataset.manifest.of("train")
    return dataset.folder / only.name
