"""verified.json of a prepared folder: what this machine has checked, so that it need not again.

Only a cache: whatever stands in it, the worst it can cause is that a file is read again. A file
counts as unchanged while its size and modification time are, which is what makes the hundredth job
of a study start as fast as the second.
"""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from train.storage.records import read_json, write_json

NAME = "verified.json"
SHARDS, FILES, DISJOINT = "shards", "files", "disjoint"
SECTIONS = (SHARDS, FILES, DISJOINT)
"""Token files, source files, and the content whose splits were found to share no document."""

Facts = dict[str, list[Any]]
"""What was checked, by name: sizes, times and hashes."""


def recall(folder: Path, section: str) -> Facts:
    """Return what passed before; nothing of what cannot be read or is not what was written."""
    try:
        known = read_json(folder / NAME).get(section)
    except (OSError, ValueError):
        return {}
    if not isinstance(known, dict):
        return {}
    return {name: facts for name, facts in known.items() if _is_flat(facts)}


def remember(folder: Path, section: str, facts: Mapping[str, list[Any]]) -> None:
    """Note what passed; a folder that cannot be written is verified anew each time."""
    known = {name: recall(folder, name) for name in SECTIONS}
    with contextlib.suppress(OSError):  # read-only, full, or another job is writing the same
        write_json(folder / NAME, {**known, section: dict(facts)})


def state_of(path: Path) -> list[int]:
    """Return size and modification time (ns) of a file."""
    facts = path.stat()
    return [facts.st_size, facts.st_mtime_ns]


def _is_flat(facts: Any) -> bool:  # noqa: ANN401
    """Whether it is a list of numbers and strings, as we write it."""
    return isinstance(facts, list) and all(isinstance(value, int | str) for value in facts)
