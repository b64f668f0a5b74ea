"""Assembles the engine and the batches of planned runs: the only place that makes both."""

from collections.abc import Sequence
from dataclasses import replace

from train.data.shards import Dataset
from train.distributed import World
from train.engine.batches import Batches
from train.engine.compile import can_compile
from train.engine.compute_policy import ComputePolicy, choose_policy
from train.engine.device import ComputeDevice
from train.engine.engine import Engine, Replica
from train.plan.planning import PlannedRun


def build_engine(
    runs: Sequence[PlannedRun],
    dataset: Dataset,
    compute: ComputeDevice,
    *,
    world: World | None = None,
    begun: ComputePolicy | None = None,
    max_micro_batch_seqs: int | None = None,
) -> Engine:
    """Build the engine of a stack at step 0, one replica per run; every rank calls it.

    Args:
        runs: Runs of one shape, data and batch, in the order of their replicas.
        dataset: Prepared data.
        compute: Device.
        world: Ranks that train the runs together; None is a world of one.
        begun: Policy with which the runs began on this device. It is kept where the config allows
            it, because another one rounds differently.
        max_micro_batch_seqs: Windows per forward pass after a larger number ran out of memory;
            None before that.
    """
    world = world or World()
    world.use(compute.device)
    config, plan = runs[0].config, runs[0].plan
    batches = Batches(
        dataset,
        compute,
        seeds=[run.config.seed for run in runs],
        batch_seqs=plan.batch_tokens // config.data.seq_len,
        seq_len=config.data.seq_len,
        world=world,
    )

    def policy() -> ComputePolicy:
        kept = begun if max_micro_batch_seqs is None else None
        if kept is not None and kept.allows(config.machine, batches.batch_seqs):
            is_possible = not kept.compiled or can_compile(compute)
            return kept if is_possible else replace(kept, compiled=False)
        return choose_policy(
            plan.shape,
            config.machine,
            compute,
            n_replicas=len(runs),
            batch_seqs=batches.batch_seqs,
            flops=sum(run.plan.flops_exact for run in runs),
            max_micro_batch_seqs=max_micro_batch_seqs,
        )

    # rank 0 chooses: timings, on which the policy may rest, differ between ranks
    chosen = ComputePolicy.from_json(world.on_rank_0(lambda: policy().to_json()))
    assert chosen is not None
    batches.load_validation(config.eval.tokens, max_seqs=chosen.eval_seqs)
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
        plan.shape,
        replicas,
        compute,
        batches,
        chosen,
        rotary_base=config.model.rotary_base,
        world=world,
    )
