"""Documents to token files and their manifest, in a folder that is there and empty."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from train.config.experiment import DataConfig, Source, TokenizerKind
from train.data import enwik8, sources, synthetic, tokenizer
from train.data.manifest import TRAIN, VALIDATION, Manifest
from train.data.source_files import hash_files, refuse_edited_meanwhile, source_facts
from train.data.split import Encoded, FirstTokens, HighestHashes, LowestHashes, Split
from train.data.token_file import dtype_name
from train.data.verified import FILES, remember
from train.data.writer import SplitWriter
from train.errors import DataError

BATCH_DOCUMENTS = 64
"""Documents tokenised at once, the only ones held beside the validation set."""

BPE_SAMPLE_BYTES = 16 << 20
"""Text that a BPE is trained on, or half of it all where that is less."""

TOKENIZER_FILE = "tokenizer.json"


def build_tokens(
    data: DataConfig, root: Path, folder: Path, *, spec: Mapping[str, Any], progress: bool
) -> Manifest:
    """Write the token files of `data`, on disk when this returns, and return their manifest.

    Args:
        data: The text and how it becomes tokens.
        root: The data root, where a text that must be fetched is kept.
        folder: Where to write.
        spec: What determines the tokens, for the manifest.
        progress: Whether to show a progress bar on standard error.

    Raises:
        DataError: The text is missing, damaged, too short to be split, or changed meanwhile.
        OSError: The disk refuses.
    """
    with _progress(progress) as bar:
        if data.source is Source.synthetic:
            return _build_synthetic(data, spec, folder, bar)
        build = _build_enwik8 if data.source is Source.enwik8 else _build_files
        return build(data, spec, root, folder, bar)


def _build_synthetic(
    data: DataConfig, spec: Mapping[str, Any], folder: Path, bar: Progress
) -> Manifest:
    """Generate the chain; its documents are pieces of it, and its beginning is held out."""
    source = synthetic.markov_source(data.synthetic, data.vocab_size)
    task = bar.add_task("generating tokens", total=data.synthetic.tokens)

    def pieces() -> Iterator[Encoded]:
        for number, tokens in enumerate(synthetic.documents(data.synthetic, source)):
            bar.advance(task, len(tokens))
            yield Encoded(b"", number, tokens, len(tokens))

    identity = hashlib.sha256(b"windtunnel synthetic: ids are drawn, one byte each").hexdigest()
    facts = {"entropy_rate": source.entropy_rate}
    split = FirstTokens(data.validation_tokens)
    return _write(data, spec, folder, pieces(), split, identity, facts)


def _build_enwik8(
    data: DataConfig, spec: Mapping[str, Any], root: Path, folder: Path, bar: Progress
) -> Manifest:
    """Fetch and tokenise the default text."""
    task = bar.add_task("fetching enwik8", total=None)
    enwik8.fetch(root)
    bar.remove_task(task)
    return _build_text(data, spec, root, folder, bar, {"raw_sha256": enwik8.SHA256})


def _build_files(
    data: DataConfig, spec: Mapping[str, Any], root: Path, folder: Path, bar: Progress
) -> Manifest:
    """Tokenise the user's files, and note what they were."""
    hashed = hash_files(sources.files(data.files))
    made = _build_text(data, spec, root, folder, bar, source_facts(hashed))
    refuse_edited_meanwhile(hashed)
    remember(folder, FILES, hashed)
    return made


def _build_text(
    data: DataConfig,
    spec: Mapping[str, Any],
    root: Path,
    folder: Path,
    bar: Progress,
    facts: dict[str, Any],
) -> Manifest:
    """Tokenise the documents of a text source."""
    split = LowestHashes(data.validation_tokens)
    if data.tokenizer is TokenizerKind.bytes:
        coder: tokenizer.Tokenizer = tokenizer.BytesTokenizer()
        documents = _encode(_read(data, root, bar, "tokenising"), coder)
        return _write(data, spec, folder, documents, split, coder.sha256, facts)
    sample = HighestHashes(BPE_SAMPLE_BYTES)
    sample.take(_read(data, root, bar, "choosing text for the tokenizer"))
    trained = tokenizer.train_bpe(sample.texts(), data.vocab_size)
    trained.save(folder / TOKENIZER_FILE)
    documents = _encode(_read(data, root, bar, "tokenising"), trained)
    written = _write(data, spec, folder, documents, split, trained.sha256, facts)
    if split.validation()[-1].hash >= sample.lowest():
        raise DataError(
            f"data.validation_tokens={data.validation_tokens} is too much of this text: documents "
            f"that trained the tokenizer would be held out; use "
            f"data.validation_tokens={max(1, data.validation_tokens // 4)}"
        )
    return written


def _read(data: DataConfig, root: Path, bar: Progress, what: str) -> Iterator[str]:
    """Yield the documents' texts and move the bar."""
    task = bar.add_task(what, total=sources.source_bytes(data, root))
    for document in sources.documents(data, root):
        yield document.text
        bar.advance(task, document.read_bytes)


def _encode(texts: Iterable[str], coder: tokenizer.Tokenizer) -> Iterator[Encoded]:
    """Yield the documents as tokens; those without text are left out."""
    number = 0
    remaining = iter(texts)
    while batch := list(islice(remaining, BATCH_DOCUMENTS)):
        kept = [text for text in batch if text.strip()]
        for text, ids in zip(kept, coder.encode(kept), strict=True):
            plain = tokenizer.text_bytes(text)
            yield Encoded(hashlib.sha256(plain).digest(), number, ids, len(plain) + 1)
            number += 1


def _write(
    data: DataConfig,
    spec: Mapping[str, Any],
    folder: Path,
    documents: Iterable[Encoded],
    split: Split,
    tokenizer_sha256: str,
    facts: dict[str, Any],
) -> Manifest:
    """Write both splits and return the manifest.

    Raises:
        DataError: All text would be held out.
    """
    with SplitWriter(folder, TRAIN, vocab_size=data.vocab_size) as train:
        for document in split.training(documents):
            train.write(document)
        train_shards, train_facts = train.finish()
    with SplitWriter(folder, VALIDATION, vocab_size=data.vocab_size) as held:
        for document in split.validation():
            held.write(document)
        held_shards, held_facts = held.finish()
    if not train_facts.tokens:
        raise DataError(
            f"data.validation_tokens={data.validation_tokens} leaves nothing to train on: the text "
            f"has {held_facts.tokens} tokens in {held_facts.documents} documents, which are held "
            f"out whole; use data.validation_tokens={max(1, held_facts.tokens // 20)}, or more "
            f"and shorter documents"
        )
    return Manifest(
        spec=spec,
        dtype=dtype_name(data.vocab_size),
        vocab_size=data.vocab_size,
        tokenizer_sha256=tokenizer_sha256,
        shards=(*train_shards, *held_shards),
        splits={TRAIN: train_facts, VALIDATION: held_facts},
        source=facts,
    )


@contextmanager
def _progress(show: bool) -> Iterator[Progress]:
    """Yield a progress bar on standard error, or one that stays invisible."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not show, transient=True) as bar:
        yield bar
