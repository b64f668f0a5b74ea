"""From the configured text to a verified folder of token shards: built once, whole or not at all.

Invariant: a folder under its final name is complete, because it is built as `<folder>.partial`
under a lock and renamed as the last act.
"""

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from filelock import FileLock
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from train.config import DataConfig, Source, TokenizerKind
from train.data import enwik8, manifest, sources, synthetic, tokenizer
from train.data.manifest import TRAIN, VALIDATION, Manifest
from train.data.split import Encoded, FirstTokens, HighestHashes, LowestHashes, Split
from train.data.writer import SplitWriter, dtype_name
from train.errors import ConfigError, DataError, StorageError
from train.identity import canonical_json

PREPARATION_VERSION = 1
"""Raised by every change that alters the tokens of some configuration."""

BATCH_DOCUMENTS = 64
"""Documents tokenised at once, the only ones held beside the validation set."""

BPE_SAMPLE_BYTES = 16 << 20
"""Text that a BPE is trained on, or half of it all where that is less."""

TOKENIZER_FILE = "tokenizer.json"


def prepared_folder(data: DataConfig, root: Path) -> Path:
    """Return the folder of this data under the data root; it need not exist."""
    spec = canonical_json(token_spec(data))
    hash8 = hashlib.sha256(spec.encode()).hexdigest()[:8]
    return root / f"{data.name}-{data.tokenizer.value}-{hash8}"


def token_spec(data: DataConfig) -> dict[str, Any]:
    """Return the part of the configuration that determines the tokens."""
    spec: dict[str, Any] = {
        "version": PREPARATION_VERSION,
        "source": data.source.value,
        "vocab_size": data.vocab_size,
        "validation_tokens": data.validation_tokens,
    }
    if data.source is Source.synthetic:
        return {**spec, "synthetic": asdict(data.synthetic)}
    if data.source is Source.files:
        spec["files"] = list(data.files)
    return {**spec, "tokenizer": data.tokenizer.value}


def prepare(data: DataConfig, root: Path, *, progress: bool = False) -> Path:
    """Build the folder of token shards unless it is there.

    Safe when several processes ask at once: one builds, the others wait and find it done.

    Args:
        data: The text and how it becomes tokens.
        root: The data root; made when missing.
        progress: Whether to show a progress bar on standard error.

    Returns:
        The folder, as `prepared_folder` names it.

    Raises:
        ConfigError: The settings contradict each other.
        DataError: The text is missing, damaged, or too short to be split.
        StorageError: The disk is full or cannot be written.
    """
    check(data)
    folder = prepared_folder(data, root)
    if not folder.exists():
        if data.source is Source.files:
            sources.files(data.files)  # a wrong path is found before anything is written
        try:
            root.mkdir(parents=True, exist_ok=True)
            with FileLock(root / f"{folder.name}.lock"):
                if not folder.exists():
                    _build(data, root, folder, progress=progress)
        except OSError as error:
            raise StorageError(f"{error.filename or folder}: {error.strerror or error}") from error
    made = manifest.read_manifest(folder)
    _refuse_foreign(data, made, folder)
    _refuse_stale(data, root, made, folder)
    return folder


def check(data: DataConfig) -> None:
    """Refuse settings that contradict each other, before anything is fetched.

    Raises:
        ConfigError: Names the setting, its value and the rule.
    """
    if data.validation_tokens < 1:
        raise ConfigError(f"data.validation_tokens={data.validation_tokens} must be at least 1")
    if data.source is Source.synthetic:
        synthetic.check(data.synthetic, data.vocab_size)
    else:
        tokenizer.check_vocab_size(data.tokenizer, data.vocab_size)


def _refuse_foreign(data: DataConfig, made: Manifest, folder: Path) -> None:
    """Refuse a folder that was made of other settings and put under this name."""
    asked = json.loads(canonical_json(token_spec(data)))
    for name in sorted(asked.keys() | made.spec.keys()):
        if asked.get(name) != made.spec.get(name):
            raise DataError(
                f"{folder} was made with {name}={made.spec.get(name)!r}, and {asked.get(name)!r} "
                f"is asked for; move it away and run again"
            )


def _refuse_stale(data: DataConfig, root: Path, made: Manifest, folder: Path) -> None:
    """Refuse a folder whose files have changed since; files that are gone are not missed."""
    prepared = made.source.get("files_bytes")
    if prepared is None:
        return
    try:
        present = sources.source_bytes(data, root)
    except DataError:
        return
    if present != prepared:
        raise DataError(
            f"data.files hold {present} bytes, but {folder} was made of {prepared}; delete that "
            f"folder and run again, or use another data.name"
        )


def _build(data: DataConfig, root: Path, folder: Path, *, progress: bool) -> None:
    """Build in a folder beside, and rename it."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a process that died
    partial.mkdir()
    try:
        with _progress(progress) as bar:
            if data.source is Source.synthetic:
                facts = _build_synthetic(data, partial, bar)
            else:
                facts = _build_text(data, root, partial, bar)
        manifest.write_manifest(partial, facts)
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _build_synthetic(data: DataConfig, partial: Path, bar: Progress) -> Manifest:
    """Generate the chain; its documents are pieces of it, and its beginning is held out."""
    source = synthetic.markov_source(data.synthetic, data.vocab_size)
    task = bar.add_task("generating tokens", total=data.synthetic.tokens)

    def pieces() -> Iterator[Encoded]:
        for number, tokens in enumerate(synthetic.documents(data.synthetic, source)):
            bar.advance(task, len(tokens))
            yield Encoded(b"", number, tokens, len(tokens))

    identity = hashlib.sha256(b"windtunnel synthetic: ids are drawn, one byte each").hexdigest()
    facts = {"entropy_rate": source.entropy_rate}
    return _write(data, partial, pieces(), FirstTokens(data.validation_tokens), identity, facts)


def _build_text(data: DataConfig, root: Path, partial: Path, bar: Progress) -> Manifest:
    """Tokenise the documents of a text source."""
    facts: dict[str, Any] = {}
    if data.source is Source.enwik8:
        task = bar.add_task("fetching enwik8", total=None)
        enwik8.fetch(root)
        bar.remove_task(task)
        facts["raw_sha256"] = enwik8.SHA256
    else:
        facts["files_bytes"] = sources.source_bytes(data, root)
    split = LowestHashes(data.validation_tokens)
    if data.tokenizer is TokenizerKind.bytes:
        coder: tokenizer.Tokenizer = tokenizer.BytesTokenizer()
        documents = _encode(_read(data, root, bar, "tokenising"), coder)
        return _write(data, partial, documents, split, coder.sha256, facts)
    sample = HighestHashes(BPE_SAMPLE_BYTES)
    sample.take(_read(data, root, bar, "choosing text for the tokenizer"))
    trained = tokenizer.train_bpe(sample.texts(), data.vocab_size)
    trained.save(partial / TOKENIZER_FILE)
    documents = _encode(_read(data, root, bar, "tokenising"), trained)
    written = _write(data, partial, documents, split, trained.sha256, facts)
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
    partial: Path,
    documents: Iterable[Encoded],
    split: Split,
    tokenizer_sha256: str,
    facts: dict[str, Any],
) -> Manifest:
    """Write both splits and return the manifest.

    Raises:
        DataError: All text would be held out.
    """
    with SplitWriter(partial, TRAIN, vocab_size=data.vocab_size) as train:
        for document in split.training(documents):
            train.write(document)
        train_shards, train_facts = train.finish()
    with SplitWriter(partial, VALIDATION, vocab_size=data.vocab_size) as held:
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
        spec=token_spec(data),
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
