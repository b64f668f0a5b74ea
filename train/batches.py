"""Batches as a pure function of (seed, step): the data's position is the step, nothing is saved.

On CUDA the training tokens are put on the device whole when they take less than half of its free
memory; otherwise, and on the CPU, windows are gathered from the memory-mapped shards.
"""

import numpy as np
import torch
from torch import Tensor

from train.data.sampler import n_windows, window_starts
from train.data.shards import Dataset
from train.device import ComputeDevice


class Batches:
    """Training windows and the fixed validation windows, on the device."""

    def __init__(
        self, dataset: Dataset, compute: ComputeDevice, *, seed: int, batch_seqs: int, seq_len: int
    ) -> None:
        self.dataset, self.compute = dataset, compute
        self.seed, self.batch_seqs, self.seq_len = seed, batch_seqs, seq_len
        self.n_tokens = dataset.n_tokens("train")
        self._resident = _resident_tokens(dataset, compute)

    def train(self, step: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of one optimiser step, each (batch_seqs, seq_len) int64."""
        starts_B = window_starts(
            seed=self.seed,
            step=step,
            batch_seqs=self.batch_seqs,
            n_tokens=self.n_tokens,
            seq_len=self.seq_len,
        )
        if self._resident is not None:
            offsets_T = torch.arange(self.seq_len + 1, device=self.compute.device)
            index_BT = torch.from_numpy(starts_B).to(self.compute.device)[:, None] + offsets_T
            return _split(self._resident[index_BT].long() & self._mask)
        return _split(self._gather("train", starts_B))

    def validation(self, tokens: int, *, max_seqs: int) -> list[tuple[Tensor, Tensor]]:
        """The first `tokens` validation tokens as batches of at most `max_seqs` windows.

        Windows lie end to end, the same for every run; at least one is returned.
        """
        available = n_windows(self.dataset.n_tokens("validation"), self.seq_len)
        n_used = max(1, min(available, tokens // self.seq_len))
        starts = np.arange(n_used, dtype=np.int64) * self.seq_len
        chunks = [starts[i : i + max_seqs] for i in range(0, n_used, max_seqs)]
        return [_split(self._gather("validation", chunk)) for chunk in chunks]

    def _gather(self, split: str, starts_B: np.ndarray) -> Tensor:
        windows_BT = self.dataset.windows(split, starts_B, self.seq_len + 1)
        return torch.from_numpy(windows_BT).to(self.compute.device)

    @property
    def _mask(self) -> int:
        """Undo the sign of uint16 ids that are held as int16, for which torch has all kernels."""
        assert self._resident is not None
        return 0xFFFF if self._resident.dtype is torch.int16 else -1


def _split(windows_BT: Tensor) -> tuple[Tensor, Tensor]:
    return windows_BT[:, :-1].contiguous(), windows_BT[:, 1:].contiguous()


def _resident_tokens(dataset: Dataset, compute: ComputeDevice) -> Tensor | None:
    if not compute.is_cuda:
        return None
    tokens = dataset.tokens("train")
    free, _ = torch.cuda.mem_get_info(compute.device)
    if tokens.nbytes > free // 2:
        return None
    signed = np.int16 if tokens.dtype == np.uint16 else np.int32
    return torch.from_numpy(np.ascontiguousarray(tokens).view(signed)).to(compute.device)
