"""Token files against their manifest: present, whole, unchanged, ids in range, splits apart.

What passed is remembered (verified.py), so that every file is read once, not once a job.
"""

import hashlib
from pathlib import Path

import numpy as np

from train.data.manifest import Manifest, ShardFacts
from train.data.overlap import refuse_overlap
from train.data.token_file import DTYPES, read_blocks
from train.data.verified import DISJOINT, SHARDS, Facts, recall, remember, state_of
from train.errors import DataError


def verify_files(folder: Path, manifest: Manifest) -> None:
    """Check a prepared folder's token files and remember those that passed.

    Raises:
        DataError: A file is missing, superfluous, cut, changed, or holds an id that is too large;
            or a validation document is in the training split too.
    """
    remedy = f"delete the folder {folder} and run again"
    _check_names(folder, manifest, remedy)
    seen = recall(folder, SHARDS)
    passed: Facts = {}
    for shard in manifest.shards:
        path = folder / shard.name
        state = state_of(path)
        if state[0] != shard.bytes:
            raise DataError(f"{path}: expected {shard.bytes} bytes, got {state[0]}; {remedy}")
        passed[shard.name] = [*state, shard.sha256, manifest.vocab_size]
        if seen.get(shard.name) != passed[shard.name]:
            _check_content(path, shard, manifest, remedy)
    if passed != seen:
        remember(folder, SHARDS, passed)
    disjoint: Facts = {"manifest": [manifest.sha256]}
    if recall(folder, DISJOINT) != disjoint:
        refuse_overlap(folder, manifest, remedy=remedy)
        remember(folder, DISJOINT, disjoint)


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
    digest = hashlib.sha256()
    too_large: str | None = None
    position = 0
    for ids in read_blocks(path, DTYPES[manifest.dtype]):
        digest.update(ids.data)
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
