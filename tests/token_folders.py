"""Small texts, and small prepared folders as preparation writes them."""

import hashlib
import json
from dataclasses import replace

import numpy as np

from train.config.experiment import DataConfig, Source, SyntheticConfig
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
from train.data.split import EncodedDocument

CHAIN = DataConfig(
    name="chain",
    source=Source.synthetic,
    vocab_size=97,
    validation_tokens=3000,
    synthetic=SyntheticConfig(tokens=20_000, document_tokens=1000),
)


def of_files(*files, **changes):
    """The data config of text files."""
    files = [str(path) for path in files]
    small = DataConfig(name="small", source=Source.files, files=files, validation_tokens=1000)
    return replace(small, **changes)


def write_documents(path):
    """Write a file of 200 documents."""
    rows = [{"text": f"Document {n} says {'word ' * (n % 9)}\u00e9nd."} for n in range(200)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def build(folder, train, validation, *, vocab=256, shard=1 << 20, **facts):
    """Write a folder with these ids; `facts` go into its manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    files, splits = [], {}
    for split, ids in ((TRAIN, train), (VALIDATION, validation)):
        with SplitWriter(folder, split, vocab_size=vocab, shard_tokens=shard) as writer:
            writer.write(EncodedDocument(b"", 0, np.array(ids, dtype=np.int64), 2 * len(ids)))
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
