"""How many replicas one job should train on this device, by taking three steps of each size.

Stacking pays where a run alone leaves the device idle: small products, whose launching or overhead
costs more than their arithmetic. Larger ones gain nothing, and a stack too large for a cache loses.
"""

import math
from dataclasses import replace
from functools import cache

from train.config.runtime import MachineConfig
from train.engine.device import DEVICE_SHARERS, ComputeDevice, release_memory, select_device
from train.engine.memory import STATE_BYTES
from train.engine.step_timing import seconds_per_step
from train.errors import is_out_of_memory
from train.plan.planning import PlannedRun, RunPlan
from train.study.slots import job_slots

LONGEST_ALONE = 0.05
"""Seconds of a step alone beyond which arithmetic fills the device: no stack is tried (ours)."""

LEAST_GAIN = 1.05
"""How many times as fast a stack must be for it to be taken: timings are a few per cent off."""

STATE_SHARE = 0.25
"""Share of the job's memory that weights, gradients and moments of a stack may take."""


def best_stack(run: PlannedRun, n: int) -> int:
    """How many of `n` replicas of a run to train in one stack.

    Args:
        run: Any of them; its shape, batch and machine decide.
        n: Replicas there are, at least 2.

    Returns:
        The fastest per run of n, n / 2, n / 4, ...; one where none is faster, or a step is long.
    """
    return _best(_Timed(run.plan, run.config.machine), n)


class _Timed:
    """Seconds of a step by replicas, for runs of one shape and batch."""

    def __init__(self, plan: RunPlan, machine: MachineConfig) -> None:
        self.plan, self.machine = plan, machine
        self._key = (plan.shape, plan.batch_tokens, repr(machine))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Timed) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def seconds(self, compute: ComputeDevice, n_replicas: int) -> float:
        """Of a step of all replicas; infinitely many where they do not fit the memory."""
        try:
            return seconds_per_step(
                self.plan.shape,
                self.machine,
                compute,
                schedule=self.plan.schedule,
                batch_seqs=self.plan.batch_tokens // self.plan.shape.seq_len,
                n_replicas=n_replicas,
            )
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        release_memory()  # only here: the error held on to what did not fit
        return math.inf


@cache
def _best(timed: _Timed, n: int) -> int:
    compute = _as_a_job_sees_it(timed.machine)
    state = STATE_BYTES * timed.plan.params.total
    most = max(1, min(n, int(STATE_SHARE * compute.memory_budget() / state)))
    alone = timed.seconds(compute, 1)
    if alone > LONGEST_ALONE or most == 1:
        return 1
    best, fastest = 1, alone / LEAST_GAIN
    size = most
    while size > 1:
        per_run = timed.seconds(compute, size) / size
        if per_run < fastest:
            best, fastest = size, per_run
        size = -(-size // 2) if size > 2 else 1
    return best


def _as_a_job_sees_it(machine: MachineConfig) -> ComputeDevice:
    """The device with the share of its memory that each of a launch's jobs will have."""
    sharers = int(job_slots(machine)[0].get(DEVICE_SHARERS, "1"))
    return replace(select_device(machine), sharers=sharers)
