"""Documents to token shards and their manifest, in an existing empty folder."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from train.config.experiment import DataConfig, Source, TokenizerKind
from train.data import enwik8, sources, synthetic, tokenizer
from train.data.manifest import (
    DTYPES,
    TRAIN,
    VALIDATION,
    Manifest,
    ShardEntry,
    SplitTotals,
    dtype_name,
)
from train.data.split import EncodedDocument, FirstTokens, HighestHashes, LowestHashes, Split
from train.data.verify import (
    hash_sources,
    refuse_edited_meanwhile,
    save_verdicts,
    source_entry,
)
from train.errors import DataError

SHARD_TOKENS = 64 << 20
"""Tokens per training shard."""

BATCH_DOCUMENTS = 64
"""Documents per batch of the tokenizer; only these and the validation set are in memory."""

BPE_SAMPLE_BYTES = 16 << 20
"""Bytes of text that a BPE is trained on, at most half of the text."""

TOKENIZER_FILE = "tokenizer.json"


def build_tokens(
    data: DataConfig, root: Path, folder: Path, *, spec: Mapping[str, Any], progress: bool
) -> Manifest:
    """Write the token shards of `data`, sync them, and return their manifest.

    Args:
        data: Text and tokenizer.
        root: Data root, which keeps downloaded text.
        folder: Folder to write to.
        spec: Settings that determine the tokens, for the manifest.
        progress: Whether to show a progress bar on standard error.

    Raises:
        DataError: The text is missing, damaged, too short for the split, or changed meanwhile.
        OSError: The disk is full or cannot be written.
    """
    with _progress(progress) as bar:
        if data.source is Source.synthetic:
            return _build_synthetic(data, spec, folder, bar)
        if data.source is Source.enwik8:
            task = bar.add_task("fetching enwik8", total=None)
            enwik8.fetch(root)
            bar.remove_task(task)
            return _build_text(data, spec, root, folder, bar, {"raw_sha256": enwik8.SHA256})
        hashed = hash_sources(sources.files(data.files))
        made = _build_text(data, spec, root, folder, bar, source_entry(hashed))
        refuse_edited_meanwhile(hashed)
        save_verdicts(folder, hashed)
        return made


def _build_synthetic(
    data: DataConfig, spec: Mapping[str, Any], folder: Path, bar: Progress
) -> Manifest:
    """Generate the Markov chain, whose first pieces are validation."""
    source = synthetic.markov_source(data.synthetic, data.vocab_size)
    task = bar.add_task("generating tokens", total=data.synthetic.tokens)

    def pieces() -> Iterator[EncodedDocument]:
        for number, tokens in enumerate(synthetic.documents(data.synthetic, source)):
            bar.advance(task, len(tokens))
            yield EncodedDocument(b"", number, tokens, len(tokens))

    identity = hashlib.sha256(b"windtunnel synthetic: ids are drawn, one byte each").hexdigest()
    source_info = {"entropy_rate": source.entropy_rate}
    split = FirstTokens(data.validation_tokens)
    return _write(data, spec, folder, pieces(), split, identity, source_info)


def _build_text(
    data: DataConfig,
    spec: Mapping[str, Any],
    root: Path,
    folder: Path,
    bar: Progress,
    source_info: dict[str, Any],
) -> Manifest:
    """Tokenise the documents of a text source, after a separate pass that trains a BPE."""
    split = LowestHashes(data.validation_tokens)
    if data.tokenizer is TokenizerKind.bytes:
        coder: tokenizer.Tokenizer = tokenizer.BytesTokenizer()
        documents = _encode(_read(data, root, bar, "tokenising"), coder)
        return _write(data, spec, folder, documents, split, coder.sha256, source_info)
    sample = HighestHashes(BPE_SAMPLE_BYTES)
    sample.take(_read(data, root, bar, "choosing text for the tokenizer"))
    trained = tokenizer.train_bpe(sample.texts(), data.vocab_size)
    trained.save(folder / TOKENIZER_FILE)
    documents = _encode(_read(data, root, bar, "tokenising"), trained)
    written = _write(data, spec, folder, documents, split, trained.sha256, source_info)
    if split.validation()[-1].hash >= sample.lowest():
        raise DataError(
            f"data.validation_tokens={data.validation_tokens} is too much of this text: documents "
            f"that trained the tokenizer would be validation documents; use "
            f"data.validation_tokens={max(1, data.validation_tokens // 4)}"
        )
    return written


def _read(data: DataConfig, root: Path, bar: Progress, what: str) -> Iterator[str]:
    """Yield the texts of the documents and advance the bar."""
    task = bar.add_task(what, total=sources.source_bytes(data, root))
    for document in sources.documents(data, root):
        yield document.text
        bar.advance(task, document.read_bytes)


def _encode(texts: Iterable[str], coder: tokenizer.Tokenizer) -> Iterator[EncodedDocument]:
    """Yield documents as tokens, without those of only white space."""
    number = 0
    remaining = iter(texts)
    while batch := list(islice(remaining, BATCH_DOCUMENTS)):
        kept = [text for text in batch if text.strip()]
        for text, ids in zip(kept, coder.encode(kept), strict=True):
            plain = tokenizer.text_bytes(text)
            yield EncodedDocument(hashlib.sha256(plain).digest(), number, ids, len(plain) + 1)
            number += 1


def _write(
    data: DataConfig,
    spec: Mapping[str, Any],
    folder: Path,
    documents: Iterable[EncodedDocument],
    split: Split,
    tokenizer_sha256: str,
    source_info: dict[str, Any],
) -> Manifest:
    """Write both splits and return the manifest.

    Raises:
        DataError: The validation split would take all of the text.
    """
    train_shards, train = _write_split(data, folder, TRAIN, split.training(documents))
    # only after the last training document are the validation documents certain
    held_shards, held = _write_split(data, folder, VALIDATION, split.validation())
    if not train.tokens:
        raise DataError(
            f"data.validation_tokens={data.validation_tokens} leaves nothing to train on: the text "
            f"has {held.tokens} tokens in {held.documents} documents, which are held out whole; "
            f"use data.validation_tokens={max(1, held.tokens // 20)}, or more and shorter documents"
        )
    return Manifest(
        spec=spec,
        dtype=dtype_name(data.vocab_size),
        vocab_size=data.vocab_size,
        tokenizer_sha256=tokenizer_sha256,
        shards=(*train_shards, *held_shards),
        splits={TRAIN: train, VALIDATION: held},
        source=source_info,
    )


def _write_split(
    data: DataConfig, folder: Path, split: str, documents: Iterable[EncodedDocument]
) -> tuple[list[ShardEntry], SplitTotals]:
    with SplitWriter(folder, split, vocab_size=data.vocab_size) as writer:
        for document in documents:
            writer.write(document)
        return writer.finish()


class SplitWriter:
    """Writer of the documents of one split to `train-00000.bin, ...` or `validation.bin`."""

    def __init__(
        self, folder: Path, split: str, *, vocab_size: int, shard_tokens: int = SHARD_TOKENS
    ) -> None:
        self._folder = folder
        self._split = split
        self._vocab_size = vocab_size
        self._shard_tokens = shard_tokens if split == TRAIN else None
        self._dtype: np.dtype[Any] = DTYPES[dtype_name(vocab_size)]
        self._finished: list[ShardEntry] = []
        self._text_bytes = 0
        self._documents = 0
        self._open()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, document: EncodedDocument) -> None:
        """Append one document; it may continue in the next shard.

        Raises:
            DataError: An id is not below vocab_size.
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

    def finish(self) -> tuple[list[ShardEntry], SplitTotals]:
        """Sync the last shard and return all shards and the totals."""
        self._close()
        tokens = sum(shard.tokens for shard in self._finished)
        totals = SplitTotals(tokens=tokens, text_bytes=self._text_bytes, documents=self._documents)
        return self._finished, totals

    def _append(self, ids: NDArray[np.int64]) -> None:
        """Check ids and write them in the narrow dtype."""
        # astype would wrap a too large id silently
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
        """Start the next shard."""
        number = len(self._finished)
        self._name = "validation.bin" if self._split == VALIDATION else f"train-{number:05d}.bin"
        self._file = (self._folder / self._name).open("wb")
        self._digest = hashlib.sha256()
        self._tokens = 0

    def _close(self) -> None:
        """Sync the shard and record its size and hash."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._finished.append(
            ShardEntry(
                name=self._name,
                split=self._split,
                tokens=self._tokens,
                bytes=self._tokens * self._dtype.itemsize,
                sha256=self._digest.hexdigest(),
            )
        )


@contextmanager
def _progress(show: bool) -> Iterator[Progress]:
    """Progress bar on standard error, visible only if `show`."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not show, transient=True) as bar:
        yield bar
