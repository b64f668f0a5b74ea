"""manifest.json of a prepared folder: its token shards, with sizes and hashes.

It is written last, so a folder with a manifest is complete. Its `sha256` identifies the tokens: it
does not depend on the time, machine or path of the preparation, and every run records it.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from train.errors import DataError
from train.storage.records import canonical_json, read_json, write_json

SCHEMA = 1
NAME = "manifest.json"
TRAIN = "train"
VALIDATION = "validation"
SPLITS = (TRAIN, VALIDATION)
SHARD_NAME = re.compile(r"train-[0-9]{5,}\.bin|validation\.bin")

DTYPES: dict[str, np.dtype[Any]] = {"uint16": np.dtype("<u2"), "uint32": np.dtype("<u4")}
"""Dtypes of the ids in a shard, which has no header; little-endian."""


def dtype_name(vocab_size: int) -> str:
    """Narrowest dtype that holds all ids below `vocab_size`."""
    return "uint16" if vocab_size <= 1 << 16 else "uint32"


@dataclass(frozen=True, kw_only=True)
class ShardEntry:
    """One token shard.

    Attributes:
        name: File name in the folder.
        split: train or validation.
        tokens: Number of ids.
        bytes: File size.
        sha256: Of the file's bytes.
    """

    name: str
    split: str
    tokens: int
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class SplitTotals:
    """One split: tokens, UTF-8 bytes of its text (one per separator), documents."""

    tokens: int
    text_bytes: int
    documents: int


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Description of a prepared folder.

    Attributes:
        spec: Settings that determine the tokens; not part of `sha256`.
        dtype: uint16 or uint32.
        vocab_size: Upper bound of the ids, exclusive.
        tokenizer_sha256: Identity of the mapping from text to ids.
        shards: Token shards, those of train in order.
        splits: Totals of train and validation.
        source: Properties of the source, such as `raw_sha256` or `entropy_rate` (nats per token);
            not part of `sha256`.
    """

    spec: Mapping[str, Any]
    dtype: str
    vocab_size: int
    tokenizer_sha256: str
    shards: tuple[ShardEntry, ...]
    splits: Mapping[str, SplitTotals]
    source: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sha256(self) -> str:
        """Identity of the tokens."""
        content = {
            "dtype": self.dtype,
            "vocab_size": self.vocab_size,
            "tokenizer_sha256": self.tokenizer_sha256,
            "shards": [asdict(shard) for shard in self.shards],
            "splits": {name: asdict(totals) for name, totals in self.splits.items()},
        }
        return hashlib.sha256(canonical_json(content).encode()).hexdigest()

    def of(self, split: str) -> tuple[ShardEntry, ...]:
        """Shards of one split, in order."""
        return tuple(shard for shard in self.shards if shard.split == split)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write manifest.json and sync it."""
    write_json(folder / NAME, {"schema": SCHEMA, **asdict(manifest), "sha256": manifest.sha256})


def read_manifest(folder: Path) -> Manifest:
    """Read manifest.json.

    Raises:
        DataError: It is missing, damaged, of another schema, or contradicts itself.
    """
    path = folder / NAME
    remedy = f"delete the folder {folder} and run again"
    try:
        value = read_json(path)
    except FileNotFoundError:
        raise DataError(f"{path} is missing; {remedy}") from None
    except ValueError as error:
        raise DataError(f"{error}; {remedy}") from None
    if value.get("schema") != SCHEMA:
        raise DataError(f"{path}: schema {value.get('schema')!r}, expected {SCHEMA}; {remedy}")
    try:
        manifest = _parse(value)
        if manifest.sha256 != value.get("sha256"):
            raise ValueError(
                f"content hashes to {manifest.sha256}, recorded is {value.get('sha256')}"
            )
        _refuse_contradictions(manifest)
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: not a manifest ({error!r}); {remedy}") from None
    except ValueError as error:
        raise DataError(f"{path}: {error}; {remedy}") from None
    return manifest


def _parse(value: Mapping[str, Any]) -> Manifest:
    """Manifest from JSON values.

    Raises:
        KeyError, TypeError, AttributeError: A field is missing, unknown or of another type.
    """
    manifest = Manifest(
        spec=value["spec"],
        dtype=value["dtype"],
        vocab_size=value["vocab_size"],
        tokenizer_sha256=value["tokenizer_sha256"],
        shards=tuple(ShardEntry(**shard) for shard in value["shards"]),
        splits={name: SplitTotals(**value["splits"][name]) for name in SPLITS},
        source=value["source"],
    )
    for record in (manifest, *manifest.shards, *manifest.splits.values()):
        for name, wanted in record.__annotations__.items():
            found = getattr(record, name)
            if wanted in (int, str) and type(found) is not wanted:
                raise TypeError(f"{name} must be {wanted.__name__}: {found!r}")
    if not isinstance(manifest.spec, dict) or not isinstance(manifest.source, dict):
        raise TypeError("spec and source must be objects")
    return manifest


def _refuse_contradictions(manifest: Manifest) -> None:
    """Refuse names outside the folder, and numbers that contradict each other.

    Raises:
        ValueError: Says what is wrong.
    """
    if manifest.dtype not in DTYPES:
        raise ValueError(f"unknown dtype {manifest.dtype!r}, expected uint16 or uint32")
    width = DTYPES[manifest.dtype].itemsize
    if not 0 < manifest.vocab_size <= 1 << 8 * width:
        raise ValueError(f"vocab_size {manifest.vocab_size} does not fit {manifest.dtype}")
    for shard in manifest.shards:
        if shard.split not in SPLITS or not SHARD_NAME.fullmatch(shard.name):
            raise ValueError(f"{shard.name!r} of {shard.split!r} is not a token file of a split")
        if shard.tokens < 0 or shard.bytes != shard.tokens * width:
            raise ValueError(f"{shard.name} has {shard.tokens} tokens in {shard.bytes} bytes")
    if len({shard.name for shard in manifest.shards}) != len(manifest.shards):
        raise ValueError("a token file is named twice")
    for name, totals in manifest.splits.items():
        found = sum(shard.tokens for shard in manifest.of(name))
        if found != totals.tokens:
            raise ValueError(f"{name} has {totals.tokens} tokens, and its files have {found}")
        if found == 0 or totals.text_bytes < 1:
            raise ValueError(f"{name} is empty ({found} tokens of {totals.text_bytes} bytes)")
