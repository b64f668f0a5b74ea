"""Open a prepared folder: verify it once, then read windows of tokens from memory maps.

Invariant: nothing is read from a file whose presence, size, hash and ids were not checked against
the manifest, unless the caller says `verify=False`.
"""

import contextlib
import hashlib
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from train.data.manifest import SPLITS, Manifest, ShardFacts, read_manifest
from train.errors import DataError, did_you_mean
from train.records import read_json, write_json

DTYPES: dict[str, np.dtype[Any]] = {"uint16": np.dtype("<u2"), "uint32": np.dtype("<u4")}
VERIFIED = "verified.json"
"""Remembers size and modification time of shards that passed, so that later opens are cheap."""
_CHUNK_TOKENS = 1 << 23


class Dataset:
    """A verified folder of token shards. Offsets are 64-bit; shard borders are invisible."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest
        dtype = DTYPES[manifest.dtype]
        self._arrays: dict[str, list[NDArray[Any]]] = {}
        self._edges: dict[str, list[int]] = {}
        for split in SPLITS:
            shards = [shard for shard in manifest.of(split) if shard.tokens]
            self._arrays[split] = [_map(folder / shard.name, dtype) for shard in shards]
            edges = [0]
            for shard in shards:
                edges.append(edges[-1] + shard.tokens)
            self._edges[split] = edges

    @property
    def sha256(self) -> str:
        """Identity of the tokens."""
        return self.manifest.sha256

    @property
    def vocab_size(self) -> int:
        """All ids are below this."""
        return self.manifest.vocab_size

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the ids on disk, uint16 or uint32."""
        return DTYPES[self.manifest.dtype]

    def n_tokens(self, split: str) -> int:
        """Return the tokens of `train` or `validation`."""
        _check_split(split)
        return self.manifest.splits[split].tokens

    def bytes_per_token(self, split: str) -> float:
        """Return UTF-8 bytes of text per token; bits per byte = loss / ln 2 / this."""
        _check_split(split)
        facts = self.manifest.splits[split]
        return facts.text_bytes / facts.tokens

    def windows(self, split: str, starts: NDArray[np.int64], length: int) -> NDArray[np.int64]:
        """Gather windows of consecutive tokens.

        Args:
            split: train or validation.
            starts: Shape (B,). First token of each window.
            length: Tokens per window.

        Returns:
            Shape (B, length).

        Raises:
            DataError: The split is shorter than one window.
            IndexError: A window reaches outside the split, which is our mistake.
        """
        total = self.n_tokens(split)
        if total < length:
            raise DataError(
                f"{self.folder.name}: {split} has {total} tokens, fewer than one window of "
                f"{length}; use a smaller data.seq_len or more text"
            )
        out_BT = np.empty((len(starts), length), dtype=np.int64)
        for row, start in enumerate(starts.tolist()):
            if not 0 <= start <= total - length:
                raise IndexError(f"window at {start} of {length} tokens in {split} of {total}")
            self._read(split, start, out_BT[row])
        return out_BT

    def shards(self, split: str) -> list[NDArray[Any]]:
        """Return the split's memory maps in order, read-only, of dtype `dtype`."""
        _check_split(split)
        return self._arrays[split]

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
        verify: Whether to check every file against the manifest. The hash of a file is computed
            once and remembered with its size and modification time.

    Raises:
        DataError: A file is missing, superfluous, cut, changed, or holds an id that is too large.
    """
    manifest = read_manifest(folder)
    if manifest.dtype not in DTYPES:
        raise DataError(f"{folder}: unknown dtype {manifest.dtype!r}, expected uint16 or uint32")
    if verify:
        _verify(folder, manifest)
    return Dataset(folder, manifest)


def _verify(folder: Path, manifest: Manifest) -> None:
    """Check the files against the manifest and remember those that passed."""
    remedy = f"delete the folder {folder} and run again"
    _check_names(folder, manifest, remedy)
    seen = _read_verified(folder)
    passed: dict[str, Any] = {}
    for shard in manifest.shards:
        path = folder / shard.name
        facts = path.stat()
        if facts.st_size != shard.bytes:
            raise DataError(f"{path}: expected {shard.bytes} bytes, got {facts.st_size}; {remedy}")
        passed[shard.name] = [facts.st_size, facts.st_mtime_ns, shard.sha256, manifest.vocab_size]
        if seen.get(shard.name) != passed[shard.name]:
            _check_content(path, shard, manifest, remedy)
    if passed != seen:
        _write_verified(folder, passed)


def _check_names(folder: Path, manifest: Manifest, remedy: str) -> None:
    """Refuse missing shards and shards that the manifest does not know."""
    expected = {shard.name for shard in manifest.shards}
    present = {path.name for path in folder.glob("*.bin")}
    if missing := sorted(expected - present):
        raise DataError(f"{folder / missing[0]} is missing; {remedy}")
    if extra := sorted(present - expected):
        raise DataError(f"{folder / extra[0]} is not in the manifest; {remedy}")


def _check_content(path: Path, shard: ShardFacts, manifest: Manifest, remedy: str) -> None:
    """Read one shard and check its hash and its ids."""
    dtype = DTYPES[manifest.dtype]
    digest = hashlib.sha256()
    too_large: str | None = None
    with path.open("rb") as file:
        position = 0
        while block := file.read(_CHUNK_TOKENS * dtype.itemsize):
            digest.update(block)
            ids = np.frombuffer(block, dtype=dtype)
            if too_large is None and int(ids.max()) >= manifest.vocab_size:
                first = int(np.argmax(ids >= manifest.vocab_size))
                too_large = (
                    f"token id {int(ids[first])} at position {position + first} of {shard.name} "
                    f"is not below vocab_size {manifest.vocab_size}; {remedy}"
                )
            position += len(ids)
    if digest.hexdigest() != shard.sha256:
        raise DataError(
            f"{path}: expected sha256 {shard.sha256}, got {digest.hexdigest()}; {remedy}"
        )
    if too_large is not None:
        raise DataError(too_large)


def _read_verified(folder: Path) -> dict[str, Any]:
    """Return what passed before; nothing when that cannot be read."""
    try:
        return read_json(folder / VERIFIED)
    except (OSError, ValueError):
        return {}


def _write_verified(folder: Path, passed: dict[str, Any]) -> None:
    """Remember what passed; a folder that cannot be written is verified anew each time."""
    with contextlib.suppress(OSError):  # read-only, or another job is writing the same
        write_json(folder / VERIFIED, passed)


def _map(path: Path, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return a read-only memory map as a plain array, whose slices are cheap."""
    return np.asarray(np.memmap(path, dtype=dtype, mode="r"))


def _check_split(split: str) -> None:
    """Refuse a name that is no split."""
    if split not in SPLITS:
        raise DataError(f"no split {split!r}{did_you_mean(split, SPLITS)}")
