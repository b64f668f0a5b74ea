"""Batches as a pure function of (seed, step): the data's position is the step, nothing is saved.

On CUDA the training tokens are copied to the device whole when they fit, and a step gathers its
windows there; otherwise, and on the CPU, the host gathers them from the memory-mapped shards.

Shapes: S steps, R replicas, B batch, T time.
"""

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from train.data.sampler import n_windows, segment_starts
from train.data.shards import Dataset
from train.distributed import World
from train.engine.device import ComputeDevice

RESIDENT_SHARE = 0.4
"""Share of the job's GPU memory that the training tokens may take."""


class Windows(ABC):
    """Source of the windows of R replicas; the engine knows no more of the data."""

    is_resident: bool
    """Whether the tokens are on the device, and a step gathers its windows itself."""
    validation: Sequence[Tensor] = ()
    """Validation windows, batches of (B, T + 1) int64; none where steps are only timed."""
    bytes_per_token: float = math.nan
    """Of the validation text."""

    def __init__(
        self, compute: ComputeDevice, *, seeds: Sequence[int], batch_seqs: int, seq_len: int
    ) -> None:
        self.compute, self.seeds = compute, tuple(seeds)
        self.batch_seqs, self.seq_len = batch_seqs, seq_len
        self.offsets_T = torch.arange(seq_len + 1, device=compute.device)

    @abstractmethod
    def starts(self, step: int, n_steps: int) -> NDArray[np.int64]:
        """Starts of the windows of `n_steps` steps from `step` on: (S, R, B)."""

    @abstractmethod
    def gather(self, starts_RB: NDArray[np.int64], out_RBT: Tensor) -> None:
        """Copy the windows at `starts_RB` into `out_RBT`; for tokens that are not resident."""

    @abstractmethod
    def resident_windows(self, starts_RB: Tensor) -> Tensor:
        """The windows at `starts_RB`, (R, B, T + 1) int64; for tokens that are resident."""

    def empty(self) -> Tensor:
        """A buffer for the windows of one step: (R, B, T + 1) int64, on the device."""
        size = (len(self.seeds), self.batch_seqs, self.seq_len + 1)
        return torch.zeros(size, dtype=torch.int64, device=self.compute.device)


class Batches(Windows):
    """Training windows of R replicas, and the fixed validation windows that they share."""

    def __init__(
        self,
        dataset: Dataset,
        compute: ComputeDevice,
        *,
        seeds: Sequence[int],
        batch_seqs: int,
        seq_len: int,
        world: World | None = None,
    ) -> None:
        self._world, self._all_seqs = world or World(), batch_seqs
        own_seqs = self._world.split(batch_seqs)
        super().__init__(compute, seeds=seeds, batch_seqs=own_seqs, seq_len=seq_len)
        self.dataset = dataset
        self.n_tokens = dataset.n_tokens("train")
        self._tokens = _resident_tokens(dataset, compute)
        self.is_resident = self._tokens is not None
        is_sent = compute.is_cuda and not self.is_resident
        self._staging = _Staging(self.empty().shape) if is_sent else None

    def starts(self, step: int, n_steps: int) -> NDArray[np.int64]:
        """Starts of the windows of `n_steps` steps from `step` on: (S, R, B) token offsets.

        The whole batch is the same in a world of any size; this rank takes consecutive windows.
        """
        here = slice(self._world.rank * self.batch_seqs, (self._world.rank + 1) * self.batch_seqs)
        by_seed = {
            seed: segment_starts(
                seed=seed,
                step=step,
                n_steps=n_steps,
                batch_seqs=self._all_seqs,
                n_tokens=self.n_tokens,
                seq_len=self.seq_len,
            )[:, here]
            for seed in set(self.seeds)
        }
        return np.stack([by_seed[seed] for seed in self.seeds], axis=1)

    def gather(self, starts_RB: NDArray[np.int64], out_RBT: Tensor) -> None:
        """Copy the windows at `starts_RB` from the shards into `out_RBT`."""
        windows = self.dataset.windows("train", starts_RB.ravel(), self.seq_len + 1)
        windows_RBT = torch.from_numpy(windows).view(out_RBT.shape)
        if self._staging is None:
            out_RBT.copy_(windows_RBT)
        else:
            self._staging.send(windows_RBT, out_RBT)

    def resident_windows(self, starts_RB: Tensor) -> Tensor:
        """The windows at `starts_RB`, gathered on the device: (R, B, T + 1) int64."""
        assert self._tokens is not None
        # uint16 ids are held as int16, for which torch has all kernels; the mask undoes their sign
        mask = 0xFFFF if self._tokens.dtype is torch.int16 else -1
        return self._tokens[starts_RB[..., None] + self.offsets_T].long() & mask

    def load_validation(self, tokens: int, *, max_seqs: int) -> None:
        """Load the first `tokens` validation tokens as windows, at most `max_seqs` at a time.

        Windows lie end to end, the same for every run; at least one is loaded.
        """
        available = n_windows(self.dataset.n_tokens("validation"), self.seq_len)
        n_used = max(1, min(available, tokens // self.seq_len))
        starts = np.arange(n_used, dtype=np.int64) * self.seq_len
        self.bytes_per_token = self.dataset.bytes_per_token("validation")
        self.validation = [
            torch.from_numpy(
                self.dataset.windows("validation", starts[i : i + max_seqs], self.seq_len + 1)
            ).to(self.compute.device)
            for i in range(0, n_used, max_seqs)
        ]


class _Staging:
    """Two pinned buffers in turn: the host fills one while the device still computes.

    A copy from pageable memory would wait for the steps before it, and the host with it.
    """

    def __init__(self, size: Sequence[int]) -> None:
        pairs = [
            (torch.empty(size, dtype=torch.int64, pin_memory=True), torch.cuda.Event())  # type: ignore[no-untyped-call]
            for _ in range(2)
        ]
        self._turns = itertools.cycle(pairs)

    def send(self, windows: Tensor, out: Tensor) -> None:
        """Queue a copy to the device, after the work that is queued there."""
        buffer, is_sent = next(self._turns)
        # wait until the buffer's last content is on the device
        is_sent.synchronize()
        buffer.copy_(windows)
        out.copy_(buffer, non_blocking=True)
        is_sent.record()


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
