"""Small prepared folders, written as preparation writes them, for tests of their readers."""

import hashlib
from dataclasses import replace

import numpy as np

from train.data.build import SplitWriter
from train.data.manifest import (
    DTYPES,
    TRAIN,
    VALIDATION,
    Manifest,
    dtype_name,
    read_manifest,
    write_manifest,
)
from train.data.split import Encoded


def build(folder, train, validation, *, vocab=256, shard=1 << 20, **facts):
    """Write a folder with these ids; `facts` go into its manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    files, splits = [], {}
    for split, ids in ((TRAIN, train), (VALIDATION, validation)):
        with SplitWriter(folder, split, vocab_size=vocab, shard_tokens=shard) as writer:
            writer.write(Encoded(b"", 0, np.array(ids, dtype=np.int64), 2 * len(ids)))
            written, splits[split] = writer.finish()
        files.extend(written)
    known = {"spec": {}, "source": {}, "tokenizer_sha256": "t", **facts}
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


def rewrite_manifest(folder, **changes):
    """Change a manifest and correct its hash."""
    write_manifest(folder, replace(read_manifest(folder), **changes))


def read_ids(folder, name):
    """Every id of a token file."""
    return np.fromfile(folder / name, dtype=DTYPES[read_manifest(folder).dtype]).tolist()


def rewrite_ids(folder, name, ids):
    """Replace a token file and make the manifest agree with it in every number and hash."""
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
