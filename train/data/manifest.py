"""The manifest of a prepared folder: what its token shards are, and how to know them again.

Written last, so a folder with a manifest is complete. Its `sha256` identifies the content: it
depends on the tokens alone, not on when, where or by which path they were made.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from train.errors import DataError
from train.identity import canonical_json
from train.records import read_json, write_json

SCHEMA = 1
NAME = "manifest.json"
TRAIN = "train"
VALIDATION = "validation"
SPLITS = (TRAIN, VALIDATION)


@dataclass(frozen=True, kw_only=True)
class ShardFacts:
    """One token file.

    Attributes:
        name: File name in the folder.
        split: train or validation.
        tokens: Tokens in it.
        bytes: Size of the file.
        sha256: Of its bytes.
    """

    name: str
    split: str
    tokens: int
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class SplitFacts:
    """One split: tokens, UTF-8 bytes of its text (a separator counts one), documents."""

    tokens: int
    text_bytes: int
    documents: int


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything about a prepared folder.

    Attributes:
        spec: The part of the configuration that determines the tokens.
        dtype: uint16 or uint32, little-endian.
        vocab_size: Ids are below this.
        tokenizer_sha256: Identity of the mapping from text to ids.
        shards: The token files, training ones in order.
        splits: Totals of train and validation.
        source: Facts about the source, such as `raw_sha256` or `entropy_rate` (nats per token).
    """

    spec: Mapping[str, Any]
    dtype: str
    vocab_size: int
    tokenizer_sha256: str
    shards: tuple[ShardFacts, ...]
    splits: Mapping[str, SplitFacts]
    source: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sha256(self) -> str:
        """Identity of the content."""
        content = {
            "dtype": self.dtype,
            "vocab_size": self.vocab_size,
            "tokenizer_sha256": self.tokenizer_sha256,
            "shards": [asdict(shard) for shard in self.shards],
            "splits": {name: asdict(facts) for name, facts in self.splits.items()},
        }
        return hashlib.sha256(canonical_json(content).encode()).hexdigest()

    @property
    def entropy_rate(self) -> float | None:
        """Nats per token of a synthetic source; None for text, where nobody knows it."""
        rate = self.source.get("entropy_rate")
        return None if rate is None else float(rate)

    def of(self, split: str) -> tuple[ShardFacts, ...]:
        """Return the shards of one split, in order."""
        return tuple(shard for shard in self.shards if shard.split == split)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write manifest.json, durable when this returns."""
    write_json(folder / NAME, {"schema": SCHEMA, **asdict(manifest), "sha256": manifest.sha256})


def read_manifest(folder: Path) -> Manifest:
    """Read manifest.json.

    Raises:
        DataError: It is missing, damaged, or of another schema.
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
        manifest = Manifest(
            spec=value["spec"],
            dtype=value["dtype"],
            vocab_size=value["vocab_size"],
            tokenizer_sha256=value["tokenizer_sha256"],
            shards=tuple(ShardFacts(**shard) for shard in value["shards"]),
            splits={name: SplitFacts(**value["splits"][name]) for name in SPLITS},
            source=value["source"],
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: not a manifest ({error!r}); {remedy}") from None
    if manifest.sha256 != value.get("sha256"):
        raise DataError(
            f"{path}: content hashes to {manifest.sha256}, recorded is {value.get('sha256')}; "
            f"{remedy}"
        )
    return manifest
