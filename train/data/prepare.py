"""The prepared folder of a data config: built once, atomically, and reused by every run.

Invariant: a folder under its final name is complete, because it is built as `<folder>.partial`
under a lock and renamed last.
"""

import hashlib
import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from train.config.experiment import DataConfig, Source
from train.data import sources, synthetic, tokenizer
from train.data.build import build_tokens
from train.data.manifest import Manifest, read_manifest, write_manifest
from train.data.verify import verify_sources
from train.errors import ConfigError, DataError, StorageError
from train.storage.lock import hold, is_held, read_holder
from train.storage.records import canonical_json, sync_folder

PREPARATION_VERSION = 1
"""Version of the preparation; increased by every change that alters tokens."""

WAIT_FOREVER = -1.0
"""Patience with another process that prepares the same data."""


def prepared_folder(data: DataConfig, root: Path) -> Path:
    """Path of the prepared folder under the data root; it may not exist yet."""
    spec = canonical_json(token_spec(data))
    hash8 = hashlib.sha256(spec.encode()).hexdigest()[:8]
    return root / f"{data.name}-{data.tokenizer.value}-{hash8}"


def token_spec(data: DataConfig) -> dict[str, Any]:
    """Settings that determine the tokens; their hash is in the folder's name."""
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
    """Return the path of the prepared folder, and build it if it does not exist.

    Among several processes one builds, and the others wait.

    Args:
        data: Text and tokenizer.
        root: Data root; created when missing.
        progress: Whether to show a progress bar on standard error.

    Raises:
        ConfigError: The settings contradict each other.
        DataError: The text is missing, damaged, too short for the split, or changed since the
            folder was built.
        StorageError: The disk is full or cannot be written.
    """
    check(data)
    folder = prepared_folder(data, root)
    try:
        if not folder.exists():
            if data.source is Source.files:
                # reports a wrong path before anything is written
                sources.files(data.files)
            root.mkdir(parents=True, exist_ok=True)
            _build_once(data, root, folder, progress=progress)
        made = read_manifest(folder)
        _refuse_foreign(data, made, folder)
        verify_sources(data, folder, made)
    except OSError as error:
        raise StorageError(f"{error.filename or folder}: {error.strerror or error}") from error
    return folder


def check(data: DataConfig) -> None:
    """Refuse settings that contradict each other, before anything is downloaded.

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
    """Refuse a folder that was built with other settings and then renamed."""
    asked = json.loads(canonical_json(token_spec(data)))
    for name in sorted(asked.keys() | made.spec.keys()):
        if asked.get(name) != made.spec.get(name):
            raise DataError(
                f"{folder} was prepared with {name}={made.spec.get(name)!r}, not "
                f"{asked.get(name)!r}; move it away and run again"
            )


def _build_once(data: DataConfig, root: Path, folder: Path, *, progress: bool) -> None:
    """Build the folder, or wait until another process has built it."""
    lock = root / f"{folder.name}.lock"
    if progress and is_held(lock):
        holder = read_holder(lock) or "another process"
        Console(stderr=True).print(
            f"{folder.name}: waiting for {holder}, which is preparing it",
            highlight=False,
            soft_wrap=True,
        )
    with hold(lock, task=f"is preparing {folder.name}", patience=WAIT_FOREVER):
        if not folder.exists():
            _build(data, root, folder, progress=progress)


def _build(data: DataConfig, root: Path, folder: Path, *, progress: bool) -> None:
    """Build in `<folder>.partial` and rename it once all files are synced."""
    partial = folder.with_name(folder.name + ".partial")
    # left by a process that died
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        made = build_tokens(data, root, partial, spec=token_spec(data), progress=progress)
        # syncs the names of all files in the folder too
        write_manifest(partial, made)
        partial.rename(folder)
        sync_folder(root)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
