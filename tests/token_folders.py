"""Small prepared folders, written as preparation writes them, for tests of what reads them."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from train.data.manifest import TRAIN, VALIDATION, Manifest, read_manifest, write_manifest
from train.data.split import Encoded
from train.data.token_file import DTYPES, dtype_name
from train.data.writer import SplitWriter


def build(
    folder: Path,
    train: Sequence[int],
    validation: Sequence[int],
    *,
    vocab: int = 256,
    shard: int = 1 << 20,
    **facts: Any,
) -> Path:
    """Write a folder of these ids; `facts` go into its manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    files, splits = [], {}
    for split, ids in ((TRAIN, train), (VALIDATION, validation)):
        with SplitWriter(folder, split, vocab_size=vocab, shard_tokens=shard) as writer:
            writer.write(Encoded(b"", 0, np.array(ids, dtype=np.int64), 2 * len(ids)))
            written, splits[split] = writer.finish()
        files.extend(written)
    known: dict[str, Any] = {"spec": {}, "source": {}, "tokenizer_sha256": "t", **facts}
    write_manifest(
        folder,
        Manifest(
            dtype=dtype_name(vocab),
            vocab_size=vocab,
            shards=tuple(files),
            splits=splits,
            **known,
        ),
    )
    return folder


def rewrite_manifest(folder: Path, **changes: Any) -> None:
    """Change a manifest as someone who also corrects its hash would."""
    write_manifest(folder, replace(read_manifest(folder), **changes))


def read_ids(folder: Path, name: str) -> list[int]:
    """Every id of a token file."""
    return np.fromfile(folder / name, dtype=DTYPES[read_manifest(folder).dtype]).tolist()


def rewrite_ids(folder: Path, name: str, ids: Sequence[int]) -> None:
    """Replace a token file, and make the manifest agree with it in every number and hash."""
    known = read_manifest(folder)
    content = np.array(ids, dtype=DTYPES[known.dtype]).tobytes()
    (folder / name).write_bytes(content)
    facts = {
        "tokens": len(ids),
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    shards = tuple(
        replace(shard, **facts) if shard.name == name else shard for shard in known.shards
    )
    splits = {
        split: replace(
            known.splits[split], tokens=sum(s.tokens for s in shards if s.split == split)
        )
        for split in known.splits
    }
    rewrite_manifest(folder, shards=shards, splits=splits)
