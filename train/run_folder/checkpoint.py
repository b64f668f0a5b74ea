"""Checkpoints: written beside their target, hashed, renamed, then the oldest pruned.

`step_00000700/` holds model.pt, optim.pt, state.json and, written last, DONE.json with the size and
SHA-256 of the others, and its own. A folder under that name is complete, because it is made under
another one (`.partial`) and renamed; a kill at any moment leaves it, or the one before it, whole.
The hashes guard against damage, not against an attacker; against code in a checkpoint guards
`weights_only=True`, and this is the one place that loads tensors.

Damaged checkpoints: moved to `bad/` with their reasons, never deleted.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from train.errors import (
    CheckpointError,
    StorageError,
    as_storage_error,
    is_device_lost,
    is_out_of_memory,
)
from train.storage.records import read_json, sync_folder, write_json

SCHEMA = 3
"""Raised by every change after which an older checkpoint could be half understood."""

DAMAGE = (
    FileNotFoundError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    RuntimeError,
    EOFError,
    UnpicklingError,
    NotADirectoryError,
)
"""What a truncated, altered or foreign checkpoint raises, by where it was hit."""

STEP_FOLDER = re.compile(r"step_(\d{8,})")
FILES = ("model.pt", "optim.pt", "state.json")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A verified checkpoint, its tensors on the CPU."""

    step: int
    """Updates applied, which is also the data's position."""
    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    state: dict[str, Any]
    """The loop's own state, JSON values."""
    set_aside: tuple[str, ...] = ()
    """Newer ones that were damaged and are in `bad/` now, each with its reason."""


def save_checkpoint(
    root: Path,
    step: int,
    *,
    model: Mapping[str, Tensor],
    optimizer: Mapping[str, Tensor],
    state: Mapping[str, Any],
    keep: int,
) -> Path:
    """Commit a checkpoint of `step` updates and prune all but the newest `keep`.

    Args:
        root: The run's checkpoint folder.
        step: Updates applied.
        model: Weights by name, each a tensor of its own: of one that views a larger one, all that
            it views would be written.
        optimizer: The optimiser's tensors, alike.
        state: The loop's own state, JSON values; floats keep their bits.
        keep: Checkpoints that remain.

    Raises:
        StorageError: The disk is full or refuses; earlier checkpoints are as they were.
    """
    final = root / f"step_{step:08d}"
    partial = root / f"{final.name}.partial"
    tensors = {"model.pt": dict(model), "optim.pt": dict(optimizer)}
    refused = None
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        _write(partial, step, tensors, state)
        if final.exists():  # one that was found damaged is in bad/, so this is a sound twin
            _discard(final)
        partial.replace(final)
        _fsync(root)
    except (OSError, RuntimeError) as error:
        refused = _cannot_be_written(partial, tensors, error)
        if refused is None:
            raise
    if refused is not None:  # only here: the error holds torch's file open, which keeps its space
        shutil.rmtree(partial, ignore_errors=True)
        raise refused
    for old in _step_folders(root)[:-keep]:
        _discard(old)
    return final


def committed_steps(root: Path) -> list[int]:
    """Steps of the checkpoints under `root`, sound or not, oldest first."""
    return [_step_of(folder) for folder in _step_folders(root)]


def load_newest(root: Path, *, at_most: int | None = None) -> Checkpoint | None:
    """Return the newest sound checkpoint, newest by step number, or None without any.

    A damaged one is moved to `bad/` with its reason and the one before it is tried. Those beyond
    `at_most` steps are deleted once a sound one was found: the run goes on from before them, and
    its rows are cut to match.

    Raises:
        CheckpointError: Checkpoints exist and none is sound, or one is of another version;
            starting from zero would hide it.
    """
    if not root.exists():
        return None
    for stale in root.glob("step_*.partial"):
        delete(stale)
    reasons: list[str] = []
    folders = _step_folders(root)
    beyond = [each for each in folders if at_most is not None and _step_of(each) > at_most]
    for folder in reversed(folders[: len(folders) - len(beyond)]):
        try:
            found = replace(_load(folder), set_aside=tuple(reasons))
        except DAMAGE as error:  # not any OSError: a disk that fails to read condemns nothing
            if is_out_of_memory(error):  # nor does a machine that is full
                raise
            reason = str(error).split("\n", 1)[0] or type(error).__name__
            reasons.append(f"{folder.name}: {reason}")
            quarantine(folder, str(error) or type(error).__name__)
        else:
            for later in beyond:
                _discard(later)
            return found
    if reasons or (root / "bad").exists():
        listed = "\n  ".join(reasons or known_bad(root / "bad"))
        raise CheckpointError(
            f"no usable checkpoint in {root}:\n  {listed}\n"
            f"nothing was changed but that they are in bad/; bring a sound one back, or start the "
            f"run again from zero with restart=true"
        )
    return None


def _write(partial: Path, step: int, tensors: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    for name, value in tensors.items():
        torch.save(value, partial / name)
    (partial / "state.json").write_text(json.dumps(state, allow_nan=False), encoding="utf-8")
    _seal(partial, step)


def _seal(partial: Path, step: int) -> None:
    """Put the files on disk, then vouch for them in DONE.json."""
    files = {
        name: {"bytes": (partial / name).stat().st_size, "sha256": _sha256(partial / name)}
        for name in FILES
    }
    for name in files:
        _fsync(partial / name)
    done = {"schema": SCHEMA, "step": step, "files": files}
    write_json(partial / "DONE.json", {**done, "sha256": _digest(done)})
    _fsync(partial)


def _load(folder: Path) -> Checkpoint:
    done = read_json(folder / "DONE.json")
    digest = done.pop("sha256", None)  # versions before it are told by their schema alone
    if digest != _digest(done) and (digest is not None or done["schema"] == SCHEMA):
        raise ValueError("DONE.json is not what was written (its own SHA-256 differs)")
    if done["schema"] != SCHEMA:
        raise CheckpointError(
            f"{folder}: has schema {done['schema']}, and this version reads {SCHEMA}; finish the "
            f"run with the version that began it, or start it again with restart=true"
        )
    for name in FILES:
        path, facts = folder / name, done["files"][name]
        if path.stat().st_size != facts["bytes"] or _sha256(path) != facts["sha256"]:
            raise ValueError(f"{name} is not what was written (size or SHA-256 differs)")
    if f"step_{done['step']:08d}" != folder.name:
        raise ValueError(f"DONE.json is of step {done['step']}")
    return Checkpoint(
        step=done["step"],
        model=_load_tensors(folder / "model.pt"),
        optimizer=_load_tensors(folder / "optim.pt"),
        state=read_json(folder / "state.json"),
    )


def _load_tensors(path: Path) -> dict[str, Any]:
    try:
        value = torch.load(path, weights_only=True, map_location="cpu")
    except UnpicklingError as error:  # its text goes on with advice to load the file all the same
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"{named[1]} in it" if named else "what is in it"
        raise ValueError(f"{path.name}: weights_only=True refuses {what}") from None
    if not isinstance(value, dict):
        raise TypeError(f"{path.name} holds a {type(value).__name__}, not a state dict")
    return value


def _cannot_be_written(
    partial: Path, tensors: Mapping[str, Mapping[str, Tensor]], error: OSError | RuntimeError
) -> StorageError | None:
    """What the disk refused, in the user's terms; torch.save says it by a RuntimeError."""
    if isinstance(error, OSError):
        is_storage = as_storage_error(error) is not None
    else:
        is_storage = not (is_out_of_memory(error) or is_device_lost(error))
    if not is_storage:
        return None
    first_line = (getattr(error, "strerror", None) or str(error)).splitlines()[0]
    needed = sum(tensor.nbytes for named in tensors.values() for tensor in named.values())
    place = partial.parent
    while not place.exists():
        place = place.parent
    return StorageError(
        f"{partial}: the checkpoint could not be written ({first_line}); it needs "
        f"{needed / 1e6:.1f} MB, and {shutil.disk_usage(place).free / 1e6:.1f} MB are free there"
    )


def _discard(folder: Path) -> None:
    """Delete a checkpoint so that a kill in the middle leaves no half of one under its name."""
    doomed = folder.with_name(f"{folder.name}.old.partial")
    delete(doomed)
    folder.replace(doomed)
    delete(doomed)


def _step_of(folder: Path) -> int:
    return int(folder.name.removeprefix("step_"))


def _step_folders(root: Path) -> list[Path]:
    """Committed checkpoints, oldest first by step number, never by a clock."""
    if not root.exists():
        return []
    named = [(STEP_FOLDER.fullmatch(path.name), path) for path in root.iterdir()]
    return [path for _, path in sorted((int(m[1]), path) for m, path in named if m)]


def _digest(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fsync(path: Path) -> None:
    if path.is_dir():
        sync_folder(path)
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def quarantine(folder: Path, reason: str) -> None:
    """Move a checkpoint to `bad/` beside it, and its reason."""
    bad = folder.parent / "bad"
    if bad.is_symlink():  # it would lead the deletion below out of the run
        bad.unlink()
    bad.mkdir(exist_ok=True)
    target = bad / folder.name
    delete(target)
    folder.replace(target)
    write_json(bad / f"{folder.name}.json", {"reason": reason})


def known_bad(bad: Path) -> list[str]:
    """Earlier quarantines; a note that cannot be read says nothing."""
    reasons = {path.name: "damaged" for path in bad.iterdir() if path.suffix != ".json"}
    for path in bad.glob("*.json"):
        with contextlib.suppress(OSError, ValueError):
            reasons[path.stem] = str(read_json(path).get("reason", "damaged"))
    return [f"{name}: {reason}" for name, reason in sorted(reasons.items())]


def delete(path: Path) -> None:
    """Delete a folder, or whatever a person put under its name; a link's target stays."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)
