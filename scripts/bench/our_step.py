"""Our training step, as the benchmarks time it."""

from dataclasses import replace
from pathlib import Path

from bench.paired_timing import Work
from train.config.runtime import Compile
from train.data.prepare import prepare
from train.data.shards import open_dataset
from train.engine.batches import Batches
from train.engine.compute_policy import choose_arithmetic
from train.engine.device import select_device
from train.engine.engine import Engine, Replica
from train.plan.planning import PlannedRun


def build_step(run: PlannedRun, data: Path, *, replicas: int = 1, is_compiled: bool = True) -> Work:
    """Build the engine of a planned run, as a training job does, and return what takes its steps.

    Args:
        run: The run to train.
        data: Root folder of prepared data.
        replicas: Number of stacked replicas, with seeds 0, 1, ...
        is_compiled: Whether to compile the step, whatever the run's config says.
    """
    config, plan = run.config, run.plan
    machine = replace(config.machine, compile=Compile.always if is_compiled else Compile.never)
    compute = select_device(machine)
    batch_seqs = plan.batch_tokens // config.data.seq_len
    arithmetic = choose_arithmetic(
        plan.shape,
        machine,
        compute,
        n_replicas=replicas,
        batch_seqs=batch_seqs,
        flops=plan.flops_exact,
    )
    each = [
        Replica(seed=seed, lr=plan.lr, schedule=plan.schedule, optimizer=config.optimizer)
        for seed in range(replicas)
    ]
    batches = Batches(
        open_dataset(prepare(config.data, data)),
        compute,
        seeds=range(replicas),
        batch_seqs=batch_seqs,
        seq_len=config.data.seq_len,
    )
    return Engine(plan.shape, each, compute, batches, arithmetic).advance


def shard(run: PlannedRun, data: Path) -> Path:
    """Prepare the run's data and return its one training shard, a flat file of uint16 tokens.

    The reference step reads the same file with its own code.
    """
    dataset = open_dataset(prepare(run.config.data, data))
    (only,) = dataset.manifest.of("train")
    return dataset.folder / only.name
