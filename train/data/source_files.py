"""The files a folder was made of: what they were then, and whether they still are.

Invariant: prepared tokens are never used for files that say something else by now. A file is hashed
when the folder is made, and again only when its size or modification time changed since it was last
found the same.
"""

import contextlib
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from train.config.experiment import DataConfig
from train.data import sources
from train.data.manifest import Manifest
from train.data.verified import FILES, Facts, recall, remember, state_of
from train.errors import DataError

KEY, BYTES_KEY = "files", "files_bytes"
"""In the manifest's source facts; folders made before files were hashed have the bytes alone."""

REMEDY = "delete that folder and run again, or use another data.name"


def hash_files(paths: Sequence[Path]) -> Facts:
    """Return size, modification time and SHA-256 of each file, by path."""
    return {str(path): [*state_of(path), _sha256(path)] for path in paths}


def source_facts(hashed: Facts) -> dict[str, Any]:
    """Return what the manifest records of hashed files."""
    entries = [
        {"path": path, "bytes": size, "sha256": sha256}
        for path, (size, _, sha256) in hashed.items()
    ]
    return {BYTES_KEY: sum(entry["bytes"] for entry in entries), KEY: entries}


def refuse_edited_meanwhile(hashed: Facts) -> None:
    """Refuse files that changed between their hashing and now, while they were read.

    Raises:
        DataError: Names the first one.
    """
    for path, (*state, _) in hashed.items():
        if not Path(path).exists() or state_of(Path(path)) != state:
            raise DataError(f"{path}: changed while it was read; run again when it is finished")


def refuse_changed_files(data: DataConfig, made: Manifest, folder: Path) -> None:
    """Refuse a folder whose files have changed since; files that are gone are not missed.

    Of a glob that still matches something, a file that is gone is missed: the glob then asks for
    other text than was prepared.

    Raises:
        DataError: Names the file that is new, missing or different.
    """
    recorded = made.source.get(KEY)
    if recorded is None:
        _refuse_other_size(data, made, folder)
        return
    try:
        known = {str(entry["path"]): entry for entry in recorded}
        present = {str(path): path for path in _present(data)}
        if not present:
            return
        _refuse_other_names(data, set(known), set(present), folder)
        seen = recall(folder, FILES)
        passed = {
            name: _refuse_other_content(path, known[name], seen.get(name), folder)
            for name, path in present.items()
        }
    except (KeyError, TypeError) as error:
        raise DataError(
            f"{folder}: its manifest does not say what its files were ({error!r}); {REMEDY}"
        ) from None
    if not passed.items() <= seen.items():
        remember(folder, FILES, {**seen, **passed})


def _refuse_other_size(data: DataConfig, made: Manifest, folder: Path) -> None:
    """Compare the total size, all that is known of a folder made before files were hashed."""
    prepared = made.source.get(BYTES_KEY)
    if prepared is None:
        return
    try:
        present = sum(path.stat().st_size for path in sources.files(data.files))
    except DataError:
        return
    if present != prepared:
        raise DataError(
            f"data.files hold {present} bytes, but {folder} was made of {prepared}; {REMEDY}"
        )


def _present(data: DataConfig) -> list[Path]:
    """Return the configured files that exist."""
    found: dict[Path, None] = {}
    for pattern in data.files:
        with contextlib.suppress(DataError):
            found.update(dict.fromkeys(sources.files([pattern])))
    return list(found)


def _refuse_other_names(data: DataConfig, known: set[str], present: set[str], folder: Path) -> None:
    """Refuse a glob that matches other files than it did."""
    if new := sorted(present - known):
        raise DataError(f"{new[0]}: data.files name it, and {folder} was made without it; {REMEDY}")
    if gone := sorted(known - present - set(data.files)):
        raise DataError(f"{gone[0]}: {folder} was made of it, and it is gone; {REMEDY}")


def _refuse_other_content(
    path: Path, known: Mapping[str, Any], seen: list[Any] | None, folder: Path
) -> list[Any]:
    """Return what to remember of a file that is as it was."""
    state = state_of(path)
    if state[0] != known["bytes"]:
        raise DataError(
            f"{path}: has {state[0]} bytes, and {folder} was made when it had {known['bytes']}; "
            f"{REMEDY}"
        )
    facts = [*state, known["sha256"]]
    if seen != facts and (sha256 := _sha256(path)) != known["sha256"]:
        raise DataError(
            f"{path}: was edited since {folder} was made of it (sha256 {sha256[:12]}, was "
            f"{str(known['sha256'])[:12]}, same size); {REMEDY}"
        )
    return facts


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
