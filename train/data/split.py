"""Which documents are held out: the same ones for every run, chosen by what they say.

Ordered by the SHA-256 of their text, the first documents that together hold at least
`validation_tokens` tokens are the validation set. So the choice depends on the documents alone,
not on their order in the source, on a seed or on a run; and copies of a document, which share
their hash, fall on the same side.
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
class Encoded:
    """One document as tokens; ordered by hash, then by its place in the source.

    Attributes:
        hash: SHA-256 of its text.
        number: Place in the source.
        tokens: Shape (n,). Its ids.
        text_bytes: UTF-8 bytes of its text, its separator included.
    """

    hash: bytes
    number: int
    tokens: NDArray[np.int64] = field(compare=False)
    text_bytes: int = field(compare=False)


class LowestHashes:
    """Sorts a stream into training and validation documents, holding only the latter."""

    def __init__(self, validation_tokens: int) -> None:
        self._wanted = validation_tokens
        self._held: list[tuple[_Descending, Encoded]] = []  # a heap, highest hash first
        self._tokens_by_hash: Counter[bytes] = Counter()
        self._tokens = 0

    def training(self, documents: Iterable[Encoded]) -> Iterator[Encoded]:
        """Yield every document that cannot be a validation document any more."""
        for document in documents:
            if self._tokens >= self._wanted and document.hash > self._highest():
                yield document
                continue
            heapq.heappush(self._held, (_Descending(document), document))
            self._tokens_by_hash[document.hash] += len(document.tokens)
            self._tokens += len(document.tokens)
            while self._tokens - self._tokens_by_hash[self._highest()] >= self._wanted:
                yield from self._release_highest()

    def validation(self) -> list[Encoded]:
        """Return the held documents in the order of their hashes, when the stream has ended."""
        return sorted(document for _, document in self._held)

    def _highest(self) -> bytes:
        return self._held[0][1].hash

    def _release_highest(self) -> Iterator[Encoded]:
        """Give up all copies of the document with the highest hash."""
        hash_ = self._highest()
        self._tokens -= self._tokens_by_hash.pop(hash_)
        while self._held and self._highest() == hash_:
            yield heapq.heappop(self._held)[1]


class FirstTokens:
    """The rule for a generated chain: its beginning is held out, so that both parts stay whole."""

    def __init__(self, validation_tokens: int) -> None:
        self._wanted = validation_tokens
        self._held: list[Encoded] = []
        self._tokens = 0

    def training(self, documents: Iterable[Encoded]) -> Iterator[Encoded]:
        """Yield every document after the first ones."""
        for document in documents:
            if self._tokens >= self._wanted:
                yield document
            else:
                self._held.append(document)
                self._tokens += len(document.tokens)

    def validation(self) -> list[Encoded]:
        """Return the first documents."""
        return self._held


Split = LowestHashes | FirstTokens


class HighestHashes:
    """The sample a tokenizer is trained on: from the other end, so never what is held out."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._held: list[tuple[bytes, bytes]] = []  # a heap of (hash, UTF-8), lowest hash first
        self._bytes = 0

    def take(self, texts: Iterable[str]) -> None:
        """Look at a whole stream; keep the fewest documents that reach the limit, or half of it."""
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
        """Give up the lowest hashes while the others reach the limit without them."""
        while len(self._held) > 1 and self._bytes - len(self._held[0][1]) >= limit:
            self._bytes -= len(heapq.heappop(self._held)[1])


@dataclass(frozen=True)
class _Descending:
    """Turns heapq's order round; among copies the earlier one leaves first."""

    document: Encoded

    def __lt__(self, other: "_Descending") -> bool:
        mine, its = self.document, other.document
        return mine.number < its.number if mine.hash == its.hash else mine.hash > its.hash
