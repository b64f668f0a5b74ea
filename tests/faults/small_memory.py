"""A device with room for some windows at a time, as the engine meets it in a step."""

import torch

from faults.spoil import STEP

CUDA_FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
CPU_FULL = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried "
    "to allocate 8589934592 bytes. Error code 12 (Cannot allocate memory)"
)


class Memory:
    """A step on a device with room for some windows at a time, by step from 1."""

    def __init__(self, room, *, error=CUDA_FULL):
        self._room, self._error, self.updates = room, error, 0
        self.batches = []
        """Windows of each forward pass that fitted, by call."""

    def __call__(self, engine):
        """One update; it fails at the last micro-batch, after the gradients of the others."""
        step = 1 + self.updates
        room = self._room[max(first for first in self._room if first <= step)]
        self.batches.append([])
        n_micro = engine.batches.batch_seqs // engine.policy.micro_batch_seqs
        real = engine._losses

        def limited(weights, tokens_RBT, targets_RBT):
            is_last = len(self.batches[-1]) == n_micro - 1
            if is_last and tokens_RBT.shape[1] > room:
                raise self._error
            self.batches[-1].append(tokens_RBT.shape[1])
            return real(weights, tokens_RBT, targets_RBT)

        engine._losses = limited
        try:
            STEP(engine)
        finally:
            engine._losses = real
        self.updates += 1
