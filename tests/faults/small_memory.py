"""A device with room for some windows at a time, as the loop meets it in train_step."""

from typing import Any

import torch
from torch import Tensor, nn

from train.step import train_step

CUDA_FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
CPU_FULL = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried "
    "to allocate 8589934592 bytes. Error code 12 (Cannot allocate memory)"
)


class Memory:
    """A train_step on a device with room for some windows at a time, by step from 1."""

    def __init__(self, room: dict[int, int], *, error: BaseException = CUDA_FULL) -> None:
        self._room, self._error, self.updates = room, error, 0
        self.batches: list[list[int]] = []
        """Windows of each forward pass that fitted, by call."""

    def __call__(self, model: nn.Module, *rest: Any, **options: Any) -> tuple[Tensor, Tensor]:
        """One update; it fails at the last micro-batch, after the gradients of the others."""
        step = 1 + self.updates
        room = self._room[max(first for first in self._room if first <= step)]
        self.batches.append([])
        n_micro = rest[1][0].shape[0] // options["micro_batch_seqs"]

        class Limited:
            parameters = model.parameters

            def __call__(_, tokens_BT: Tensor, targets_BT: Tensor) -> Tensor:
                is_last = len(self.batches[-1]) == n_micro - 1
                if is_last and tokens_BT.shape[0] > room:
                    raise self._error
                self.batches[-1].append(tokens_BT.shape[0])
                loss: Tensor = model(tokens_BT, targets_BT)
                return loss

        limited: Any = Limited()
        losses = train_step(limited, *rest, **options)
        self.updates += 1
        return losses
