"""What several processes can share: batches that come out even; one job, not a study."""

import math
from collections.abc import Sequence

from train.distributed import World
from train.errors import ConfigError
from train.plan.planning import PlannedRun


def refuse_uneven(runs: Sequence[PlannedRun], world: World) -> None:
    """Refuse batches that do not come out even among the ranks, and micro-batches within a share.

    Raises:
        ConfigError: Names the batch and the nearest ones that do.
    """
    for config in (run.config for run in runs) if world.size > 1 else ():
        seq_len, batch_tokens = config.data.seq_len, config.optimizer.batch_tokens
        batch_seqs, unit = batch_tokens // seq_len, seq_len * world.size
        if batch_seqs % world.size:
            below = batch_tokens // unit * unit
            near = " or ".join(str(n) for n in (below, below + unit) if n > 0)
            divisor = math.gcd(batch_seqs, world.size)
            raise ConfigError(
                f"optimizer.batch_tokens={batch_tokens}: its {batch_seqs} windows of {seq_len} "
                f"tokens cannot be shared evenly by {world.size} processes; use {near}, or "
                f"{divisor} process{'es' if divisor > 1 else ''}"
            )
        share, micro = world.split(batch_seqs), config.machine.micro_batch_seqs
        if micro is not None and share % micro:
            divisors = [d for d in range(1, share + 1) if share % d == 0]
            nearest = min(divisors, key=lambda d: abs(d - micro))
            raise ConfigError(
                f"machine.micro_batch_seqs={micro} does not divide the {share} windows that each "
                f"of {world.size} processes takes of the batch; use {nearest}"
            )


def refuse_study(world: World) -> None:
    """Refuse to launch a study from several processes, each of which would launch it.

    Raises:
        ConfigError: There are several.
    """
    if world.size > 1:
        raise ConfigError(
            f"a study is launched by one process, not {world.size}: start it without torchrun; "
            f"torchrun trains one job"
        )
