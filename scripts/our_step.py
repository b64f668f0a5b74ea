"""Our side of the benchmark: the engine of a planned run, ready to take steps."""

from dataclasses import replace
from pathlib import Path

from paired_timing import Work

from train.config.runtime import Compile
from train.data.prepare import prepare
from train.data.shards import open_dataset
from train.engine.batches import Batches
from train.engine.compute_policy import choose_policy
from train.engine.device import select_device
from train.engine.engine import Engine, Replica
from train.plan.planning import PlannedRun


def build_step(run: PlannedRun, data: Path, *, replicas: int = 1, is_compiled: bool = True) -> Work:
    """Build replicas of a run, with a seed each, as a job builds them.

    Args:
        run: What to train; its config says how, but for compiling.
        data: Root folder of prepared data.
        replicas: How many are stacked.
        is_compiled: Whether to compile.
    """
    config, plan = run.config, run.plan
    machine = replace(config.machine, compile=Compile.always if is_compiled else Compile.never)
    compute = select_device(machine)
    batch_seqs = plan.batch_tokens // config.data.seq_len
    policy = choose_policy(
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
    return Engine(plan.shape, each, compute, batches, policy).advance


def shard(run: PlannedRun, data: Path) -> Path:
    """The file of the run's training tokens, uint16 and nothing else; prepared if need be.

    The reference reads the same file by itself.
    """
    dataset = open_dataset(prepare(run.config.data, data))
    (only,) = dataset.manifest.of("train")
    return dataset.folder / only.name
