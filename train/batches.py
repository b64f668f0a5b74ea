"""Batches as a pure function of (seed, step): the data's position is the step, nothing is saved.

On CUDA the training tokens are put on the device whole when they fit; otherwise, and on the CPU,
windows are gathered from the memory-mapped shards.
"""

import numpy as np
import torch
from torch import Tensor

from train.data.sampler import n_windows, window_starts
from train.data.shards import Dataset
from train.device import ComputeDevice

RESIDENT_SHARE = 0.4
"""Share of the job's GPU memory that the training tokens may take."""


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
    """The training split on a CUDA device, shard by shard, if RESIDENT_SHARE has room for it."""
    if not compute.is_cuda:
        return None
    n_bytes = dataset.n_tokens("train") * dataset.dtype.itemsize
    if n_bytes > RESIDENT_SHARE * compute.memory_budget():
        return None
    return load_tokens(dataset, compute.device)


def load_tokens(dataset: Dataset, device: torch.device) -> Tensor:
    """The training split as one tensor, ids held in a signed type of their width."""
    signed = np.dtype(np.int16 if dataset.dtype.itemsize == 2 else np.int32)
    dtype = torch.int16 if dataset.dtype.itemsize == 2 else torch.int32
    tokens = torch.empty(dataset.n_tokens("train"), dtype=dtype, device=device)
    start = 0
    for shard in dataset.shards("train"):
        tokens[start : start + len(shard)] = torch.from_numpy(np.array(shard).view(signed))
        start += len(shard)
    return tokens
