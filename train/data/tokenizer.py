"""Text to token ids: UTF-8 bytes, or byte-level BPE trained on the training documents.

Both end each document with one separator, byte 0 or `<|document|>`, which counts as one byte of
text: so a byte token is exactly one byte, and bits per byte agree across tokenizers on what a
document is. NUL characters in text are removed, since byte 0 separates.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as BpeModel
from tokenizers import decoders, models, pre_tokenizers, trainers

from train.config.experiment import TokenizerKind
from train.errors import ConfigError, DataError
from train.storage.records import write_text

SEPARATOR = "<|document|>"
SEPARATOR_ID = 0
"""In both: byte 0, and the first token that a BPE is given."""
BYTES_VOCAB_SIZE = 256
SMALLEST_BPE = BYTES_VOCAB_SIZE + 1
"""All bytes and the separator."""


class Tokenizer(Protocol):
    """What preparation needs of a tokenizer."""

    def encode(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        """Return the ids of each document, shape (n,), its separator last."""

    def decode(self, ids: NDArray[Any] | Sequence[int]) -> str:
        """Return the text of ids; separators become line ends."""

    @property
    def sha256(self) -> str:
        """Identity of the mapping from text to ids."""


class BytesTokenizer:
    """Ids are UTF-8 bytes."""

    sha256 = hashlib.sha256(
        b"windtunnel bytes: UTF-8, NUL removed, byte 0 ends a document"
    ).hexdigest()

    def encode(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        """Return each document's bytes, then 0."""
        encoded = (text_bytes(text) + b"\0" for text in texts)
        return [np.frombuffer(one, dtype=np.uint8).astype(np.int64) for one in encoded]

    def decode(self, ids: NDArray[Any] | Sequence[int]) -> str:
        """Return the text; a window's torn characters become U+FFFD."""
        plain = np.asarray(ids).astype(np.uint8).tobytes()
        return plain.decode("utf-8", errors="replace").replace("\0", "\n")


class BpeTokenizer:
    """Byte-level BPE, so that every text can be written and read back."""

    def __init__(self, model_json: str) -> None:
        self._model = BpeModel.from_str(model_json)
        self._separator = self._model.get_vocab()[SEPARATOR]
        self._json = model_json

    def encode(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        """Return each document's ids, then the separator's."""
        plain = [text_bytes(text).decode("utf-8").replace(SEPARATOR, " ") for text in texts]
        encoded = self._model.encode_batch_fast(plain, add_special_tokens=False)
        return [np.array([*one.ids, self._separator], dtype=np.int64) for one in encoded]

    def decode(self, ids: NDArray[Any] | Sequence[int]) -> str:
        """Return the text; a window's torn characters become U+FFFD."""
        text = self._model.decode(np.asarray(ids).tolist(), skip_special_tokens=False)
        return str(text).replace(SEPARATOR, "\n")

    @property
    def vocab_size(self) -> int:
        """Ids that exist: fewer than asked when the text has too few distinct pairs."""
        return int(self._model.get_vocab_size())

    @property
    def sha256(self) -> str:
        """Hash of the saved file."""
        return hashlib.sha256(self._json.encode()).hexdigest()

    def save(self, path: Path) -> None:
        """Write tokenizer.json, on disk when this returns."""
        write_text(path, self._json)


def train_bpe(documents: Iterable[str], vocab_size: int) -> BpeTokenizer:
    """Train a byte-level BPE with at most `vocab_size` ids, the separator being id 0."""
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


def load_bpe(path: Path) -> BpeTokenizer:
    """Read a saved tokenizer.json.

    Raises:
        DataError: The file is missing or no tokenizer.
    """
    try:
        return BpeTokenizer(path.read_text(encoding="utf-8"))
    except Exception as error:  # tokenizers raises bare Exception
        raise DataError(f"{path}: no readable tokenizer ({error})") from None


def text_bytes(text: str) -> bytes:
    """Return a document's UTF-8 bytes: no NUL, and lone surrogates as U+FFFD."""
    try:
        return text.replace("\0", "").encode("utf-8")
    except UnicodeEncodeError:
        return (
            text.replace("\0", "")
            .encode("utf-16", "surrogatepass")
            .decode("utf-16", "replace")
            .encode("utf-8")
        )


def check_vocab_size(kind: TokenizerKind, vocab_size: int) -> None:
    """Refuse a vocabulary that the tokenizer cannot have.

    Raises:
        ConfigError: Names the size and the nearest possible one.
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
