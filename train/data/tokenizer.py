"""Tokenizers: UTF-8 bytes, or a byte-level BPE trained on training documents.

Both end each document with a separator (byte 0, or `<|document|>`), which counts as one byte of
text, so that bits per byte compare across tokenizers. NUL characters are removed from text, because
byte 0 separates documents.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as BpeModel
from tokenizers import decoders, models, pre_tokenizers, trainers

from train.config.experiment import TokenizerKind
from train.errors import ConfigError
from train.storage.records import write_text

SEPARATOR = "<|document|>"
"""First token of a BPE, so its id is 0."""
BYTES_VOCAB_SIZE = 256
SMALLEST_BPE = BYTES_VOCAB_SIZE + 1
"""All bytes and the separator."""


class Tokenizer(Protocol):
    """Interface of both tokenizers."""

    def encode(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        """Ids of each document, shape (n,), the separator last."""

    @property
    def sha256(self) -> str:
        """Identity of the mapping from text to ids."""


class BytesTokenizer:
    """Tokenizer whose ids are UTF-8 bytes."""

    sha256 = hashlib.sha256(
        b"windtunnel bytes: UTF-8, NUL removed, byte 0 ends a document"
    ).hexdigest()

    def encode(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        """Bytes of each document, then 0."""
        encoded = (text_bytes(text) + b"\0" for text in texts)
        return [np.frombuffer(one, dtype=np.uint8).astype(np.int64) for one in encoded]


class BpeTokenizer:
    """Byte-level BPE; lossless for every text."""

    def __init__(self, model_json: str) -> None:
        self._model = BpeModel.from_str(model_json)
        self._separator = self._model.get_vocab()[SEPARATOR]
        self._json = model_json

    def encode(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        """Ids of each document, then the separator."""
        plain = [text_bytes(text).decode("utf-8").replace(SEPARATOR, " ") for text in texts]
        encoded = self._model.encode_batch_fast(plain, add_special_tokens=False)
        return [np.array([*one.ids, self._separator], dtype=np.int64) for one in encoded]

    @property
    def sha256(self) -> str:
        """SHA-256 of tokenizer.json."""
        return hashlib.sha256(self._json.encode()).hexdigest()

    def save(self, path: Path) -> None:
        """Write tokenizer.json and sync it."""
        write_text(path, self._json)


def train_bpe(documents: Iterable[str], vocab_size: int) -> BpeTokenizer:
    """Train a byte-level BPE of `vocab_size` ids, or fewer where the text has too few pairs."""
    model = BpeModel(models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[SEPARATOR],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    model.train_from_iterator(documents, trainer)
    return BpeTokenizer(json.dumps(json.loads(model.to_str()), ensure_ascii=True, indent=1))


def text_bytes(text: str) -> bytes:
    """UTF-8 bytes of a document, without NUL and with lone surrogates as U+FFFD."""
    text = text.replace("\0", "")
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode("utf-8")


def check_vocab_size(kind: TokenizerKind, vocab_size: int) -> None:
    """Refuse a vocabulary size that the tokenizer cannot have.

    Raises:
        ConfigError: Names the size and the nearest valid one.
    """
    if kind is TokenizerKind.bytes and vocab_size != BYTES_VOCAB_SIZE:
        raise ConfigError(
            f"data.vocab_size={vocab_size} with data.tokenizer=bytes, whose ids are 0..255; "
            f"use data.vocab_size={BYTES_VOCAB_SIZE}, or data.tokenizer=bpe"
        )
    if kind is TokenizerKind.bpe and vocab_size < SMALLEST_BPE:
        raise ConfigError(
            f"data.vocab_size={vocab_size} with data.tokenizer=bpe, which has {BYTES_VOCAB_SIZE} "
            f"bytes and a separator; use data.vocab_size={SMALLEST_BPE} or more"
        )
