"""Seconds of a step of a stack on this device, by taking a few on random tokens."""

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from train.config.experiment import OptimizerConfig
from train.config.runtime import Compile, MachineConfig
from train.engine.batches import Windows
from train.engine.compute_policy import choose_policy
from train.engine.device import ComputeDevice, release_memory
from train.engine.engine import Engine, Replica
from train.plan.schedule import Schedule
from train.plan.shape import ModelShape

TIMED_STEPS = 3

TOKENS = 1_000_003
"""Random tokens that the steps read."""


class RandomWindows(Windows):
    """Windows of random tokens, on the device."""

    is_resident = True

    def __init__(
        self, shape: ModelShape, compute: ComputeDevice, *, n_replicas: int, batch_seqs: int
    ) -> None:
        super().__init__(
            compute, seeds=[0] * n_replicas, batch_seqs=batch_seqs, seq_len=shape.seq_len
        )
        generator = torch.Generator().manual_seed(0)
        tokens = torch.randint(shape.vocab_size, (TOKENS + shape.seq_len,), generator=generator)
        self._tokens = tokens.to(compute.device)

    def starts(self, step: int, n_steps: int) -> NDArray[np.int64]:
        """Anywhere: (S, R, B)."""
        size = (n_steps, len(self.seeds), self.batch_seqs)
        return np.random.default_rng(step).integers(0, TOKENS, size)

    def gather(self, starts_RB: NDArray[np.int64], out_RBT: Tensor) -> None:
        """Put the windows at `starts_RB` into `out_RBT`."""
        out_RBT.copy_(self.resident_windows(torch.from_numpy(starts_RB)))

    def resident_windows(self, starts_RB: Tensor) -> Tensor:
        """The windows at `starts_RB`."""
        return self._tokens[starts_RB[..., None] + self.offsets_T]


def seconds_per_step(
    shape: ModelShape,
    machine: MachineConfig,
    compute: ComputeDevice,
    *,
    schedule: Schedule,
    batch_seqs: int,
    n_replicas: int = 1,
) -> float:
    """Seconds of the fastest of TIMED_STEPS steps of a stack, after one that warms up.

    Steps are not compiled: that would take longer than what it is to price. A GPU's memory is given
    back at the end: a launcher lives as long as the jobs that need it.

    Args:
        shape: The model's.
        machine: How this machine is used.
        compute: The device.
        schedule: Any; the updates are taken at a learning rate of zero.
        batch_seqs: Windows of a replica per step.
        n_replicas: Runs in the stack.
    """
    policy = choose_policy(
        shape,
        replace(machine, compile=Compile.never),
        compute,
        n_replicas=n_replicas,
        batch_seqs=batch_seqs,
        flops=0.0,
    )
    replica = Replica(seed=0, lr=0.0, schedule=schedule, optimizer=OptimizerConfig())
    windows = RandomWindows(shape, compute, n_replicas=n_replicas, batch_seqs=batch_seqs)
    is_alone = not compute.is_cuda and machine.threads == 1
    clock = time.process_time if is_alone else time.perf_counter  # without a neighbour's turns
    try:
        return _fastest(Engine(shape, [replica] * n_replicas, compute, windows, policy), clock)
    finally:
        if compute.is_cuda:
            release_memory()


def _fastest(engine: Engine, clock: Callable[[], float]) -> float:
    times = []
    for _ in range(TIMED_STEPS + 1):
        began = clock()
        engine.advance(1)  # reads the loss, so the step is done
        times.append(clock() - began)
    return min(times[1:])
