"""Verification of token shards, and of the source files they come from, against the manifest.

verified.json caches size and modification time of files that passed; they are read again only when
one of the two changes, so every job of a study but the first starts fast.
"""

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from train.config.experiment import DataConfig
from train.data import sources
from train.data.manifest import DTYPES, Manifest, ShardEntry
from train.errors import DataError
from train.storage.records import file_sha256, read_json, write_json

CACHE = "verified.json"

BLOCK_BYTES = 1 << 23
"""Bytes of a shard held in memory while it is checked; a multiple of the size of an id."""

Verdicts = dict[str, list[Any]]
"""Files that passed, by shard name or source path: [bytes, mtime in ns, sha256], for shards also
vocab_size."""


def read_verdicts(folder: Path) -> Verdicts:
    """Cached verdicts, without malformed entries."""
    try:
        cached = read_json(folder / CACHE)
    except (OSError, ValueError):
        return {}
    return {
        name: verdict
        for name, verdict in cached.items()
        if isinstance(verdict, list) and all(isinstance(value, int | str) for value in verdict)
    }


def save_verdicts(folder: Path, passed: Mapping[str, list[Any]]) -> None:
    """Add verdicts to the cache, where the folder can be written."""
    known = read_verdicts(folder)
    if passed.items() <= known.items():
        return
    # read-only, full, or written by another job: the next job then reads the files again
    with contextlib.suppress(OSError):
        write_json(folder / CACHE, {**known, **passed})


def verify_shards(folder: Path, manifest: Manifest) -> None:
    """Check that all token shards are present and unchanged, with ids below vocab_size.

    Raises:
        DataError: A shard is missing, unexpected, truncated or changed, or holds an id that is too
            large.
    """
    remedy = f"delete the folder {folder} and run again"
    _check_names(folder, manifest, remedy)
    known = read_verdicts(folder)
    passed: Verdicts = {}
    for shard in manifest.shards:
        path = folder / shard.name
        state = _state_of(path)
        if state[0] != shard.bytes:
            raise DataError(f"{path}: expected {shard.bytes} bytes, got {state[0]}; {remedy}")
        passed[shard.name] = [*state, shard.sha256, manifest.vocab_size]
        if known.get(shard.name) != passed[shard.name]:
            _check_content(path, shard, manifest, remedy)
    save_verdicts(folder, passed)


def _check_names(folder: Path, manifest: Manifest, remedy: str) -> None:
    expected = {shard.name for shard in manifest.shards}
    present = {path.name for path in folder.glob("*.bin")}
    if missing := sorted(expected - present):
        raise DataError(f"{folder / missing[0]} is missing; {remedy}")
    if extra := sorted(present - expected):
        raise DataError(f"{folder / extra[0]} is not in the manifest; {remedy}")


def _check_content(path: Path, shard: ShardEntry, manifest: Manifest, remedy: str) -> None:
    """Check the hash and the ids of one shard."""
    digest = hashlib.sha256()
    too_large: str | None = None
    position = 0
    for ids in _blocks(path, DTYPES[manifest.dtype]):
        digest.update(ids.data)
        if too_large is None and int(ids.max()) >= manifest.vocab_size:
            first = int(np.argmax(ids >= manifest.vocab_size))
            too_large = (
                f"token id {int(ids[first])} at position {position + first} of {shard.name} "
                f"is not below vocab_size {manifest.vocab_size}; {remedy}"
            )
        position += len(ids)
    # a changed file is reported as such, even if the change made an id too large
    if digest.hexdigest() != shard.sha256:
        raise DataError(
            f"{path}: expected sha256 {shard.sha256}, got {digest.hexdigest()}; {remedy}"
        )
    if too_large is not None:
        raise DataError(too_large)


def _blocks(path: Path, dtype: np.dtype[Any]) -> Iterator[NDArray[Any]]:
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            yield np.frombuffer(block, dtype=dtype)


def hash_sources(paths: Sequence[Path]) -> Verdicts:
    """Size, modification time and SHA-256 of each source file, by path."""
    return {str(path): [*_state_of(path), file_sha256(path)] for path in paths}


def source_entry(hashed: Verdicts) -> dict[str, Any]:
    """Value of `source` in the manifest for hashed source files."""
    entries = [
        {"path": path, "bytes": size, "sha256": sha256}
        for path, (size, _, sha256) in hashed.items()
    ]
    return {"files_bytes": sum(entry["bytes"] for entry in entries), "files": entries}


def refuse_edited_meanwhile(hashed: Verdicts) -> None:
    """Refuse source files that changed while they were tokenised.

    Raises:
        DataError: Names the first one.
    """
    for path, (*state, _) in hashed.items():
        if not Path(path).exists() or _state_of(Path(path)) != state:
            raise DataError(f"{path}: changed while it was read; run again when it is complete")


def verify_sources(data: DataConfig, folder: Path, manifest: Manifest) -> None:
    """Refuse a prepared folder whose source files have changed since its preparation.

    Deleted source files are allowed, unless a glob still matches others: then data.files names
    another text.

    Raises:
        DataError: Names the file that is new, missing or different.
    """
    # absent for sources without files, and before version 0.3
    entries = manifest.source.get("files")
    if entries is None:
        return
    remedy = "delete that folder and run again, or use another data.name"
    try:
        recorded = {str(entry["path"]): (entry["bytes"], entry["sha256"]) for entry in entries}
    except (KeyError, TypeError) as error:
        raise DataError(
            f"{folder}: its manifest does not list its source files ({error!r}); {remedy}"
        ) from None
    present: dict[str, Path] = {}
    for pattern in data.files:
        with contextlib.suppress(DataError):
            present.update((str(path), path) for path in sources.files([pattern]))
    if not present:
        return
    if new := sorted(present.keys() - recorded.keys()):
        raise DataError(
            f"{new[0]}: matches data.files, but {folder} was prepared without it; {remedy}"
        )
    if gone := sorted(recorded.keys() - present.keys() - set(data.files)):
        raise DataError(f"{gone[0]}: {folder} was prepared from it, but it is gone; {remedy}")
    known = read_verdicts(folder)
    passed: Verdicts = {}
    for name, path in present.items():
        size, sha256 = recorded[name]
        state = _state_of(path)
        if state[0] != size:
            raise DataError(
                f"{path}: has {state[0]} bytes, but had {size} when {folder} was prepared from it; "
                f"{remedy}"
            )
        passed[name] = [*state, sha256]
        if known.get(name) != passed[name] and (found := file_sha256(path)) != sha256:
            raise DataError(
                f"{path}: was edited after {folder} was prepared from it (sha256 {found[:12]}, was "
                f"{str(sha256)[:12]}, same size); {remedy}"
            )
    save_verdicts(folder, passed)


def _state_of(path: Path) -> list[int]:
    """Size and modification time (ns) of a file."""
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]
