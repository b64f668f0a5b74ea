"""Token shards on disk, read as one sequence of ids per split.

A shard is a headerless file of little-endian ids in one unsigned dtype (manifest.DTYPES), and is
memory-mapped. Invariant: only files that passed verify.py are read, unless `verify=False`.
"""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from train.data.manifest import DTYPES, SPLITS, Manifest, read_manifest
from train.data.verify import verify_shards
from train.errors import DataError


class Dataset:
    """Both splits of a prepared folder, each one sequence across its shards; 64-bit offsets."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self._arrays: dict[str, list[NDArray[Any]]] = {}
        self._edges: dict[str, list[int]] = {}
        for split in SPLITS:
            shards = [shard for shard in manifest.of(split) if shard.tokens]
            self._arrays[split] = [_map(folder / shard.name, self.dtype) for shard in shards]
            edges = [0]
            for shard in shards:
                edges.append(edges[-1] + shard.tokens)
            self._edges[split] = edges

    @property
    def sha256(self) -> str:
        """Identity of the tokens."""
        return self.manifest.sha256

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the ids on disk, uint16 or uint32."""
        return DTYPES[self.manifest.dtype]

    def n_tokens(self, split: str) -> int:
        """Number of tokens in `train` or `validation`."""
        return self.manifest.splits[split].tokens

    def bytes_per_token(self, split: str) -> float:
        """UTF-8 bytes of text per token; bits per byte = loss / ln 2 / this."""
        totals = self.manifest.splits[split]
        return totals.text_bytes / totals.tokens

    def shards(self, split: str) -> list[NDArray[Any]]:
        """Memory maps of the split in order, read-only."""
        return self._arrays[split]

    def windows(self, split: str, starts: NDArray[np.int64], length: int) -> NDArray[np.int64]:
        """Gather windows of consecutive tokens.

        Args:
            split: train or validation.
            starts: Shape (B,). Offset of the first token of each window.
            length: Tokens per window.

        Returns:
            Shape (B, length).

        Raises:
            IndexError: A window reaches outside the split, a bug of the caller.
        """
        total = self.n_tokens(split)
        out_BT = np.empty((len(starts), length), dtype=np.int64)
        for row, start in enumerate(starts.tolist()):
            if not 0 <= start <= total - length:
                raise IndexError(f"window at {start} of {length} tokens in {split} of {total}")
            self._read(split, start, out_BT[row])
        return out_BT

    def refuse_shorter_than(self, length: int) -> None:
        """Refuse data with a split shorter than one window of `length` tokens.

        Raises:
            DataError: Names the split.
        """
        for split in SPLITS:
            if (total := self.n_tokens(split)) < length:
                raise DataError(
                    f"{self.folder.name}: {split} has {total} tokens, fewer than one window of "
                    f"{length}; use data.seq_len={max(1, total - 1)} or less, or more text"
                )

    def _read(self, split: str, start: int, out: NDArray[np.int64]) -> None:
        """Fill `out` with the tokens from `start` on, across shard borders."""
        filled = 0
        for array, (begin, end) in zip(
            self._arrays[split], pairwise(self._edges[split]), strict=True
        ):
            if start + filled < end:
                part = array[start + filled - begin : start + len(out) - begin]
                out[filled : filled + len(part)] = part
                filled += len(part)
                if filled == len(out):
                    return


def open_dataset(folder: Path, *, verify: bool = True) -> Dataset:
    """Open a folder that `prepare` made.

    Args:
        folder: The prepared folder.
        verify: Whether to check every shard against the manifest (verify_shards).

    Raises:
        DataError: A file is missing, unexpected, truncated or changed, or holds an id that is too
            large.
    """
    manifest = read_manifest(folder)
    if verify:
        verify_shards(folder, manifest)
    return Dataset(folder, manifest)


def _map(path: Path, dtype: np.dtype[Any]) -> NDArray[Any]:
    # slices of a plain array are cheaper than those of np.memmap
    return np.asarray(np.memmap(path, dtype=dtype, mode="r"))
