"""Write token shards: ids checked, narrowed, hashed on the way, synced at the end."""

import hashlib
import os
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from train.data.manifest import TRAIN, VALIDATION, ShardFacts, SplitFacts
from train.data.split import Encoded
from train.data.token_file import DTYPES, dtype_name
from train.errors import DataError

SHARD_TOKENS = 64 << 20
"""Tokens per training shard."""


class SplitWriter:
    """Writes the documents of one split into `train-00000.bin, ...` or `validation.bin`."""

    def __init__(
        self, folder: Path, split: str, *, vocab_size: int, shard_tokens: int = SHARD_TOKENS
    ) -> None:
        self._folder = folder
        self._split = split
        self._vocab_size = vocab_size
        self._shard_tokens = shard_tokens if split == TRAIN else None
        self._dtype: np.dtype[Any] = DTYPES[dtype_name(vocab_size)]
        self._finished: list[ShardFacts] = []
        self._text_bytes = 0
        self._documents = 0
        self._open()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, document: Encoded) -> None:
        """Append one document; it may continue in the next shard.

        Raises:
            DataError: An id is not below the vocabulary's size.
        """
        rest = document.tokens
        while len(rest):
            if self._tokens == self._shard_tokens:
                self._close()
                self._open()
            room = len(rest) if self._shard_tokens is None else self._shard_tokens - self._tokens
            self._append(rest[:room])
            rest = rest[room:]
        self._text_bytes += document.text_bytes
        self._documents += 1

    def finish(self) -> tuple[list[ShardFacts], SplitFacts]:
        """Sync the last file and return what was written."""
        self._close()
        tokens = sum(shard.tokens for shard in self._finished)
        facts = SplitFacts(tokens=tokens, text_bytes=self._text_bytes, documents=self._documents)
        return self._finished, facts

    def _append(self, ids: NDArray[np.int64]) -> None:
        """Check, narrow and write ids; narrowing alone would wrap without a word."""
        if int(ids.max()) >= self._vocab_size or int(ids.min()) < 0:
            first = int(np.argmax((ids >= self._vocab_size) | (ids < 0)))
            raise DataError(
                f"token id {int(ids[first])} at position {self._tokens + first} of {self._name} "
                f"is not below vocab_size {self._vocab_size}; use the data.vocab_size of the "
                f"tokenizer that it comes from"
            )
        narrow = ids.astype(self._dtype).tobytes()
        self._digest.update(narrow)
        self._file.write(narrow)
        self._tokens += len(ids)

    def _open(self) -> None:
        """Start the next file."""
        number = len(self._finished)
        self._name = "validation.bin" if self._split == VALIDATION else f"train-{number:05d}.bin"
        self._file = (self._folder / self._name).open("wb")
        self._digest = hashlib.sha256()
        self._tokens = 0

    def _close(self) -> None:
        """Sync the file and note its facts."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._finished.append(
            ShardFacts(
                name=self._name,
                split=self._split,
                tokens=self._tokens,
                bytes=self._tokens * self._dtype.itemsize,
                sha256=self._digest.hexdigest(),
            )
        )
