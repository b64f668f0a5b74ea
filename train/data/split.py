"""Split into training and validation documents by the hash of their text.

The validation set is the shortest prefix, in the order of the SHA-256 of their text, that holds at
least `validation_tokens` tokens. So the split does not depend on the order in the source, a seed or
a run. Copies of a document have the same hash and fall on the same side, so no validation document
is trained on.
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
    """Document as tokens; sorts by hash, then by position in the source.

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
    """Split of a stream of documents with only the validation documents in memory."""

    def __init__(self, validation_tokens: int) -> None:
        self._wanted = validation_tokens
        # heap of (negative hash, position, document): the highest hash first, copies in order
        self._held: list[tuple[int, int, EncodedDocument]] = []
        self._tokens_by_hash: Counter[bytes] = Counter()
        self._tokens = 0

    def training(self, documents: Iterable[EncodedDocument]) -> Iterator[EncodedDocument]:
        """Yield each document once it is certainly not validation."""
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
        """Validation documents by hash; valid after the end of the stream."""
        return sorted(document for *_, document in self._held)

    def _highest(self) -> bytes:
        return self._held[0][-1].hash

    def _release_highest(self) -> Iterator[EncodedDocument]:
        """Yield all copies of the document with the highest hash to training."""
        hash_ = self._highest()
        self._tokens -= self._tokens_by_hash.pop(hash_)
        while self._held and self._highest() == hash_:
            yield heapq.heappop(self._held)[-1]


class FirstTokens:
    """Split of a generated chain: validation is its beginning, so both parts are contiguous."""

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
        """Documents at the beginning that together reach `validation_tokens`."""
        return self._held


Split = LowestHashes | FirstTokens


class HighestHashes:
    """Training text of a BPE: the highest hashes, so no validation documents."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        # heap of (hash, UTF-8), lowest hash first
        self._held: list[tuple[bytes, bytes]] = []
        self._bytes = 0

    def take(self, texts: Iterable[str]) -> None:
        """Read a stream; keep the fewest documents that reach the limit, or half of the text."""
        seen = 0
        for text in texts:
            plain = text_bytes(text)
            seen += len(plain)
            heapq.heappush(self._held, (hashlib.sha256(plain).digest(), plain))
            self._bytes += len(plain)
            self._shrink(self._limit)
        self._shrink(min(self._limit, seen // 2))

    def texts(self) -> list[str]:
        """Texts of the sample by hash."""
        return [plain.decode("utf-8") for _, plain in sorted(self._held)]

    def lowest(self) -> bytes:
        """Lowest hash in the sample."""
        return self._held[0][0]

    def _shrink(self, limit: int) -> None:
        """Drop the lowest hashes while the others still reach the limit."""
        while len(self._held) > 1 and self._bytes - len(self._held[0][1]) >= limit:
            self._bytes -= len(heapq.heappop(self._held)[1])
