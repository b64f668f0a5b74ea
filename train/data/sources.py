"""Text sources: iterators with one document in memory at a time.

To add a source, write a function from (data, root) to documents and a line in SOURCES.
"""

import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path
from typing import BinaryIO

from train.config.experiment import DataConfig, Source
from train.data import enwik8, wikitext
from train.errors import ConfigError, DataError, did_you_mean

PIECE_CHARACTERS = 1 << 16
"""Longest document of a .txt file. Longer files are cut, at empty lines where possible, so that one
large file has both training and validation documents."""

SUFFIXES = (".txt", ".txt.gz", ".jsonl", ".jsonl.gz")


@dataclass(frozen=True, kw_only=True)
class Document:
    """One document.

    Attributes:
        text: Any Unicode.
        read_bytes: Bytes of the source read since the previous document, for the progress bar.
    """

    text: str
    read_bytes: int


def documents(data: DataConfig, root: Path) -> Iterator[Document]:
    """Yield the documents of a text source in a fixed order.

    Raises:
        ConfigError: The source yields tokens instead of text, or names no files.
        DataError: A file is missing or damaged.
    """
    if data.source not in SOURCES:
        raise ConfigError(f"data.source={data.source.value} gives tokens, not documents")
    return SOURCES[data.source](data, root)


def source_bytes(data: DataConfig, root: Path) -> int:
    """Total bytes that `documents` reads."""
    if data.source is Source.enwik8:
        return enwik8.SIZE
    return sum(path.stat().st_size for path in files(data.files))


def _from_enwik8(data: DataConfig, root: Path) -> Iterator[Document]:
    """Yield the articles of enwik8, title first."""
    for title, text, read in wikitext.articles(enwik8.read(enwik8.fetch(root))):
        yield Document(text=f"{title}\n\n{text}\n", read_bytes=read)


def _from_files(data: DataConfig, root: Path) -> Iterator[Document]:
    """Yield the documents of the configured files, in the order of files()."""
    for path in files(data.files):
        yield from _from_file(path)


SOURCES: dict[Source, Callable[[DataConfig, Path], Iterator[Document]]] = {
    Source.enwik8: _from_enwik8,
    Source.files: _from_files,
}


def files(patterns: Iterable[str]) -> list[Path]:
    """Files named by paths and globs, each once, the matches of a glob sorted.

    Raises:
        ConfigError: No path is given, or a file's suffix is not one of SUFFIXES.
        DataError: A file does not exist or a glob matches nothing.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        matches = glob(pattern, recursive=True) if has_magic(pattern) else [pattern]  # noqa: PTH207
        paths = [Path(name) for name in sorted(matches) if not Path(name).is_dir()]
        if not paths or not paths[0].exists():
            raise DataError(f"data.files: {pattern} {_why_missing(pattern)}")
        found.update(dict.fromkeys(paths))
    if not found:
        raise ConfigError("data.source=files needs data.files=[PATH or GLOB, ...]; it is empty")
    for path in found:
        if not path.name.endswith(SUFFIXES):
            raise ConfigError(f"data.files: {path} ends in none of {', '.join(SUFFIXES)}")
    return list(found)


def _why_missing(pattern: str) -> str:
    """Reason why a path gives no file, with similar names."""
    path = Path(pattern)
    if path.is_dir():
        return f"is a folder; use {path}/*.txt or {path}/*.jsonl"
    if has_magic(pattern):
        return "matches no file"
    siblings = path.parent.iterdir() if path.parent.is_dir() else iter(())
    return f"does not exist{did_you_mean(path.name, [sibling.name for sibling in siblings])}"


def _from_file(path: Path) -> Iterator[Document]:
    """Yield the documents of one file; `read_bytes` counts compressed bytes."""
    before = 0
    try:
        with path.open("rb") as stored:
            plain = gzip.GzipFile(fileobj=stored) if path.suffix == ".gz" else stored
            reader = _json_lines if ".jsonl" in path.suffixes else _pieces
            for text in reader(path, plain):
                position = stored.tell()
                yield Document(text=text, read_bytes=position - before)
                before = position
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 ({error}); convert it first") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: not a whole gzip file ({error})") from None


def _json_lines(path: Path, stream: BinaryIO | gzip.GzipFile) -> Iterator[str]:
    """Yield the field `text` of each line."""
    for number, line in enumerate(stream, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}:{number}: not JSON ({error})") from None
        text = row.get("text") if isinstance(row, dict) else None
        if not isinstance(text, str):
            keys = sorted(row) if isinstance(row, dict) else []
            raise DataError(
                f"{path}:{number}: expected an object with a string field text"
                f"{did_you_mean('text', keys)}"
            )
        yield text


def _pieces(path: Path, stream: BinaryIO | gzip.GzipFile) -> Iterator[str]:
    """Yield a text file whole, or in pieces of about PIECE_CHARACTERS."""
    text = io.TextIOWrapper(stream, encoding="utf-8-sig")
    try:
        rest = ""
        while block := text.read(PIECE_CHARACTERS):
            rest += block
            while len(rest) > PIECE_CHARACTERS:
                cut = _cut(rest)
                yield rest[:cut]
                rest = rest[cut:]
        if rest:
            yield rest
    finally:
        text.detach()


def _cut(text: str) -> int:
    """End of the next piece: after the last empty line, else line, else word."""
    for mark in ("\n\n", "\n", " "):
        place = text.rfind(mark, PIECE_CHARACTERS // 2, PIECE_CHARACTERS)
        if place >= 0:
            return place + len(mark)
    return PIECE_CHARACTERS
