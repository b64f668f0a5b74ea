"""Which documents are validation and which are training: decided by the hash of their text.

Sorted by the SHA-256 of their text, the first documents that together hold at least
`validation_tokens` tokens are the validation set. So the split depends on the documents alone, not
on their order in the source, on a seed or on a run. Copies of a document have one hash and fall on
one side, so no validation document is ever trained on.
"""

import hashlib
import heapq
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from train.data.tokenizer import text_bytes


@dataclass(frozen=True, order=True)
class EncodedDocument:
    """One document as tokens; sorts by hash, then by position in the source.

    Attributes:
        hash: SHA-256 of its text.
        number: Position in the source, counted in documents.
        tokens: Shape (n,). Its ids.
        text_bytes: UTF-8 bytes of its text, its separator included.
    """

    hash: bytes
    number: int
    tokens: NDArray[np.int64] = field(compare=False)
    text_bytes: int = field(compare=False)


class LowestHashes:
    """Split a stream of documents, keeping only the validation ones in memory."""

    def __init__(self, validation_tokens: int) -> None:
        self._wanted = validation_tokens
        # a heap of (negative hash, position, document): the highest hash comes out first, and of
        # its copies the earlier one
        self._held: list[tuple[int, int, EncodedDocument]] = []
        self._tokens_by_hash: Counter[bytes] = Counter()
        self._tokens = 0

    def training(self, documents: Iterable[EncodedDocument]) -> Iterator[EncodedDocument]:
        """Yield each document once it is certain not to be a validation document."""
        for document in documents:
            if self._tokens >= self._wanted and document.hash > self._highest():
                yield document
                continue
            entry = (-int.from_bytes(document.hash), document.number, document)
            heapq.heappush(self._held, entry)
            self._tokens_by_hash[document.hash] += len(document.tokens)
            self._tokens += len(document.tokens)
            while self._tokens - self._tokens_by_hash[self._highest()] >= self._wanted:
                yield from self._release_highest()

    def validation(self) -> list[EncodedDocument]:
        """Return the validation documents in the order of their hashes, after the stream's end."""
        return sorted(document for *_, document in self._held)

    def _highest(self) -> bytes:
        return self._held[0][-1].hash

    def _release_highest(self) -> Iterator[EncodedDocument]:
        """Release all copies of the document with the highest hash to training."""
        hash_ = self._highest()
        self._tokens -= self._tokens_by_hash.pop(hash_)
        while self._held and self._highest() == hash_:
            yield heapq.heappop(self._held)[-1]


class FirstTokens:
    """Split a generated chain: validation is its beginning, so that both parts are unbroken."""

    def __init__(self, validation_tokens: int) -> None:
        self._wanted = validation_tokens
        self._held: list[EncodedDocument] = []
        self._tokens = 0

    def training(self, documents: Iterable[EncodedDocument]) -> Iterator[EncodedDocument]:
        """Yield every document after the validation ones."""
        for document in documents:
            if self._tokens >= self._wanted:
                yield document
            else:
                self._held.append(document)
                self._tokens += len(document.tokens)

    def validation(self) -> list[EncodedDocument]:
        """Return the documents at the beginning that together reach `validation_tokens`."""
        return self._held


Split = LowestHashes | FirstTokens


class HighestHashes:
    """The text that a BPE is trained on: the highest hashes, so never validation documents."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        # a heap of (hash, UTF-8), lowest hash first
        self._held: list[tuple[bytes, bytes]] = []
        self._bytes = 0

    def take(self, texts: Iterable[str]) -> None:
        """Read a whole stream and keep the fewest documents that reach the limit, or half of it."""
        seen = 0
        for text in texts:
            plain = text_bytes(text)
            seen += len(plain)
            heapq.heappush(self._held, (hashlib.sha256(plain).digest(), plain))
            self._bytes += len(plain)
            self._shrink(self._limit)
        self._shrink(min(self._limit, seen // 2))

    def texts(self) -> list[str]:
        """Return the sample in the order of its hashes."""
        return [plain.decode("utf-8") for _, plain in sorted(self._held)]

    def lowest(self) -> bytes:
        """Return the lowest hash in the sample."""
        return self._held[0][0]

    def _shrink(self, limit: int) -> None:
        """Drop the lowest hashes while the others reach the limit without them."""
        while len(self._held) > 1 and self._bytes - len(self._held[0][1]) >= limit:
            self._bytes -= len(heapq.heappop(self._held)[1])
