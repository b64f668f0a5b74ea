"""Checkpoints: written atomically, verified by hash when loaded, pruned to the newest few.

`step_00000700/` holds model.pt, optim.pt, state.json and, written last, DONE.json with the size and
SHA-256 of the others and of itself. It is written as `step_00000700.partial` and renamed, so a kill
at any moment leaves either it or the checkpoint before it complete. Damaged checkpoints are moved
to `bad/` with the reason, never deleted.

The hashes detect damage, not an attacker. Code in a checkpoint never runs: tensors are loaded only
here, with `weights_only=True`.
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
from train.storage.records import file_sha256, read_json, sync_folder, write_json

SCHEMA = 3
"""Version of the format; increased by every change that makes older checkpoints unreadable."""

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
"""Exceptions of a truncated, altered or foreign checkpoint."""

STEP_FOLDER = re.compile(r"step_(\d{8,})")
FILES = ("model.pt", "optim.pt", "state.json")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A verified checkpoint; tensors on the CPU."""

    step: int
    """Updates applied; also the position in the data."""
    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    state: dict[str, Any]
    """State of the training loop, JSON values."""
    set_aside: tuple[str, ...] = ()
    """Newer checkpoints that were damaged and moved to `bad/`: name and reason."""


def save_checkpoint(
    root: Path,
    step: int,
    *,
    model: Mapping[str, Tensor],
    optimizer: Mapping[str, Tensor],
    state: Mapping[str, Any],
    keep: int,
) -> Path:
    """Write a checkpoint atomically, then delete all but the newest `keep`.

    Args:
        root: The run's checkpoint folder.
        step: Updates applied.
        model: Weights by name. No tensor may be a view: torch.save would write its whole storage.
        optimizer: Tensors of the optimiser, likewise.
        state: State of the training loop, JSON values; floats keep their bits.
        keep: Number of checkpoints kept.

    Raises:
        StorageError: The disk is full or cannot be written; earlier checkpoints are unchanged.
    """
    final = root / f"step_{step:08d}"
    partial = root / f"{final.name}.partial"
    tensors = {"model.pt": dict(model), "optim.pt": dict(optimizer)}
    refused = None
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        _write(partial, step, tensors, state)
        # a sound checkpoint of the same step: damaged ones are in bad/ by now
        if final.exists():
            _discard(final)
        partial.replace(final)
        _fsync(root)
    except (OSError, RuntimeError) as error:
        refused = _cannot_be_written(partial, tensors, error)
        if refused is None:
            raise
    # outside the except block, where the error would keep torch's file open and its disk space used
    if refused is not None:
        shutil.rmtree(partial, ignore_errors=True)
        raise refused
    for old in _step_folders(root)[:-keep]:
        _discard(old)
    return final


def committed_steps(root: Path) -> list[int]:
    """Steps of all checkpoints under `root`, damaged ones included, oldest first."""
    return [_step_of(folder) for folder in _step_folders(root)]


def load_newest(root: Path, *, at_most: int | None = None) -> Checkpoint | None:
    """Load the undamaged checkpoint of the highest step; None if there are no checkpoints.

    A damaged one is moved to `bad/` with its reason, and the one before it is tried.

    Args:
        root: The run's checkpoint folder.
        at_most: Ignore checkpoints of later steps, and delete them once one is loaded.

    Raises:
        CheckpointError: All checkpoints are damaged, or one has another SCHEMA.
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
        # a disk that cannot be read (any other OSError) or a lack of memory is no damage
        except DAMAGE as error:
            if is_out_of_memory(error):
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
    """Sync the files, then write their sizes and hashes to DONE.json."""
    files = {
        name: {"bytes": (partial / name).stat().st_size, "sha256": file_sha256(partial / name)}
        for name in FILES
    }
    for name in files:
        _fsync(partial / name)
    done = {"schema": SCHEMA, "step": step, "files": files}
    write_json(partial / "DONE.json", {**done, "sha256": _digest(done)})
    _fsync(partial)


def _load(folder: Path) -> Checkpoint:
    done = read_json(folder / "DONE.json")
    # earlier schemas have no hash of DONE.json
    digest = done.pop("sha256", None)
    if digest != _digest(done) and (digest is not None or done["schema"] == SCHEMA):
        raise ValueError("DONE.json is not what was written (its own SHA-256 differs)")
    if done["schema"] != SCHEMA:
        raise CheckpointError(
            f"{folder}: has schema {done['schema']}, and this version reads {SCHEMA}; finish the "
            f"run with the version that began it, or start it again with restart=true"
        )
    for name in FILES:
        path, recorded = folder / name, done["files"][name]
        if path.stat().st_size != recorded["bytes"] or file_sha256(path) != recorded["sha256"]:
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
    except UnpicklingError as error:
        # torch's message recommends weights_only=False, so only the name in it is kept
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"{named[1]} in it" if named else "what is in it"
        raise ValueError(f"{path.name}: weights_only=True refuses {what}") from None
    if not isinstance(value, dict):
        raise TypeError(f"{path.name} holds a {type(value).__name__}, not a state dict")
    return value


def _cannot_be_written(
    partial: Path, tensors: Mapping[str, Mapping[str, Tensor]], error: OSError | RuntimeError
) -> StorageError | None:
    """Convert a failure of the disk, which torch.save reports as RuntimeError; None for others."""
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
    """Delete a checkpoint; a kill meanwhile leaves no incomplete one under its name."""
    doomed = folder.with_name(f"{folder.name}.old.partial")
    delete(doomed)
    folder.replace(doomed)
    delete(doomed)


def _step_of(folder: Path) -> int:
    return int(folder.name.removeprefix("step_"))


def _step_folders(root: Path) -> list[Path]:
    """Complete checkpoints, by ascending step."""
    if not root.exists():
        return []
    named = [(STEP_FOLDER.fullmatch(path.name), path) for path in root.iterdir()]
    return [path for _, path in sorted((int(m[1]), path) for m, path in named if m)]


def _digest(done: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(done, sort_keys=True).encode()).hexdigest()


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
    """Move a checkpoint to `bad/` beside it, and write the reason there."""
    bad = folder.parent / "bad"
    # the deletion below must not follow a link out of the run
    if bad.is_symlink():
        bad.unlink()
    bad.mkdir(exist_ok=True)
    target = bad / folder.name
    delete(target)
    folder.replace(target)
    write_json(bad / f"{folder.name}.json", {"reason": reason})


def known_bad(bad: Path) -> list[str]:
    """Names and reasons in `bad/`; "damaged" where the reason cannot be read."""
    reasons = {path.name: "damaged" for path in bad.iterdir() if path.suffix != ".json"}
    for path in bad.glob("*.json"):
        with contextlib.suppress(OSError, ValueError):
            reasons[path.stem] = str(read_json(path).get("reason", "damaged"))
    return [f"{name}: {reason}" for name, reason in sorted(reasons.items())]


def delete(path: Path) -> None:
    """Delete a folder, a file or a link; the target of a link stays."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)
