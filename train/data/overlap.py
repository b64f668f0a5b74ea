"""No validation document in the training split: told by the documents' hashes.

A text's documents end with a separator, id 0 under both tokenizers, so they can be told apart in
the token files themselves, and what is compared is what a run reads. Documents are hashed only
where a cheap signature, a few of their tokens and their length, is that of a validation document.
Memory is that of the validation split's documents and of one block of tokens, whatever the
training split's size.

A synthetic source has no documents and no separators: it is one chain, and id 0 is its commonest
token. Stretches of it that recur do so by chance, which is part of its entropy rate; refusing them
would bias it. What can go wrong there is that a piece of the chain is in both splits, and then
their tokens add up to more than the chain has.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from train.config.experiment import Source
from train.data.manifest import TRAIN, VALIDATION, Manifest
from train.data.token_file import DTYPES, read_blocks
from train.data.tokenizer import SEPARATOR_ID
from train.errors import DataError

PROBES = 4
"""Tokens of a document that go into its signature, besides its last one."""

_MIX = np.uint64(0x9E3779B97F4A7C15)


def refuse_overlap(folder: Path, manifest: Manifest, *, remedy: str) -> None:
    """Refuse a folder whose training split holds a whole validation document.

    Args:
        folder: Where the token files lie.
        manifest: What they are; the files agree with it.
        remedy: What the user can do, the end of the message.

    Raises:
        DataError: Names the document by its hash, and both its places.
    """
    if manifest.spec.get("source") == Source.synthetic.value:
        _refuse_shared_chain(folder, manifest, remedy)
        return
    held = _HeldDocuments()
    for documents in _documents(folder, manifest, VALIDATION, longest=None):
        held.add(documents)
    if not held.places:
        return
    for documents in _documents(folder, manifest, TRAIN, longest=held.longest):
        for place, digest in held.matches(documents):
            raise DataError(
                f"{folder}: the validation document at token {held.places[digest]} "
                f"(sha256 {digest.hex()[:12]} of its ids) is in the training split too, at token "
                f"{place}: its loss would be that of text a run has trained on; {remedy}"
            )


def _refuse_shared_chain(folder: Path, manifest: Manifest, remedy: str) -> None:
    """Refuse a chain of which some piece is in both splits."""
    asked = manifest.spec.get("synthetic")
    tokens = asked.get("tokens") if isinstance(asked, dict) else None
    train, held = (manifest.splits[split].tokens for split in (TRAIN, VALIDATION))
    if train + held != tokens:
        raise DataError(
            f"{folder}: {train} training and {held} validation tokens do not add up to the chain's "
            f"{tokens}, of which each token belongs to one split; {remedy}"
        )


class _Documents:
    """The documents that end in one block.

    Attributes:
        offset: Token of the split at which the block starts.
        ids: Shape (T,). The block, after the rest of the one before.
        starts: Shape (n,). First token of each document in it.
        ends: Shape (n,). Their separators.
    """

    def __init__(self, offset: int, ids: NDArray[Any]) -> None:
        self.offset, self.ids = offset, ids
        self.ends = np.flatnonzero(ids == SEPARATOR_ID)
        self.starts = np.zeros_like(self.ends)
        self.starts[1:] = self.ends[:-1] + 1

    def rest(self, longest: int | None) -> NDArray[Any]:
        """Return what follows the last separator; its beginning may be cut.

        A document of more than `longest` tokens is none that is looked for, and it stays too long.
        """
        rest = self.ids[self.ends[-1] + 1 :] if len(self.ends) else self.ids
        return rest if longest is None else rest[max(0, len(rest) - longest - 1) :]

    def signatures(self) -> NDArray[np.uint64]:
        """Return shape (n,): equal for equal documents."""
        lengths = self.ends - self.starts
        last = np.maximum(lengths - 1, 0)
        signatures = lengths.astype(np.uint64)
        for probe in range(PROBES + 1):
            ids = self.ids[self.starts + last * probe // PROBES].astype(np.uint64)
            signatures = (signatures + ids) * _MIX
            signatures ^= signatures >> np.uint64(32)
        return signatures

    def digest(self, number: int) -> bytes:
        """Return the SHA-256 of one document's ids."""
        ids = self.ids[self.starts[number] : self.ends[number]]
        return hashlib.sha256(ids.tobytes()).digest()


class _HeldDocuments:
    """The validation split's documents: where each lies, by hash."""

    def __init__(self) -> None:
        self.places: dict[bytes, int] = {}
        self.longest = 0
        self._signatures = np.empty(0, dtype=np.uint64)

    def add(self, documents: _Documents) -> None:
        """Take in the documents of a block."""
        for number in range(len(documents.ends)):
            place = documents.offset + int(documents.starts[number])
            self.places.setdefault(documents.digest(number), place)
        lengths = documents.ends - documents.starts
        self.longest = max(self.longest, int(lengths.max(initial=0)))
        self._signatures = np.union1d(self._signatures, documents.signatures())

    def matches(self, documents: _Documents) -> Iterator[tuple[int, bytes]]:
        """Yield place and hash of the documents that are held too."""
        for number in np.flatnonzero(np.isin(documents.signatures(), self._signatures)):
            digest = documents.digest(int(number))
            if digest in self.places:
                yield documents.offset + int(documents.starts[number]), digest


def _documents(
    folder: Path, manifest: Manifest, split: str, *, longest: int | None
) -> Iterator[_Documents]:
    """Yield a split's documents; shard borders are invisible.

    Documents of more than `longest` tokens may lose their beginning, which bounds the memory.
    """
    dtype = DTYPES[manifest.dtype]
    rest = np.empty(0, dtype=dtype)
    read = 0
    for shard in manifest.of(split):
        for block in read_blocks(folder / shard.name, dtype):
            documents = _Documents(read - len(rest), np.concatenate([rest, block]))
            yield documents
            rest = documents.rest(longest)
            read += len(block)
