"""Checkpoints: written beside their target, hashed, renamed, then the oldest pruned.

`step_00000700/` holds model.pt, optim.pt, state.json and, written last, DONE.json with the size and
SHA-256 of the others. The hashes guard against damage, not against an attacker; against code in a
checkpoint guards `weights_only=True`, and this is the one place that loads tensors.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from train.errors import CheckpointError, StorageError
from train.records import SCHEMA_VERSION, read_json, write_json

DAMAGE = (FileNotFoundError, ValueError, KeyError, RuntimeError, EOFError, UnpicklingError)
"""What a truncated, altered or foreign checkpoint raises."""

STEP_FOLDER = re.compile(r"step_(\d{8})")


def save_checkpoint(
    root: Path,
    step: int,
    *,
    model: Mapping[str, Any],
    optimizer: Mapping[str, Any],
    state: Mapping[str, Any],
    keep: int,
) -> Path:
    """Commit a checkpoint of `step` updates and prune all but the newest `keep`.

    Args:
        root: The run's checkpoint folder.
        step: Updates applied.
        model: The model's state dict.
        optimizer: The optimiser's state dict.
        state: The loop's own state, JSON values; floats keep their bits.
        keep: Checkpoints that remain.
    """
    final = root / f"step_{step:08d}"
    partial = root / f"{final.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    _save_tensors(model, partial / "model.pt")
    _save_tensors(optimizer, partial / "optim.pt")
    (partial / "state.json").write_text(json.dumps(state), encoding="utf-8")
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": _sha256(path)}
        for path in sorted(partial.iterdir())
    }
    for name in files:
        _fsync(partial / name)
    write_json(partial / "DONE.json", {"schema": SCHEMA_VERSION, "step": step, "files": files})
    _fsync(partial)
    if final.exists():  # the same step again, after a resume from an older checkpoint
        shutil.rmtree(final)
    partial.replace(final)
    _fsync(root)
    for old in _step_folders(root)[:-keep]:
        shutil.rmtree(old)
    return final


def load_newest(root: Path) -> tuple[int, dict[str, Any], dict[str, Any], dict[str, Any]] | None:
    """Return (step, model, optimizer, state) of the newest sound checkpoint, or None without any.

    A damaged one is moved to `bad/` with its reason and the one before it is tried.

    Raises:
        CheckpointError: Checkpoints exist and none is sound; starting from zero would hide it.
    """
    if not root.exists():
        return None
    for stale in root.glob("*.partial"):
        shutil.rmtree(stale)
    reasons = []
    for folder in reversed(_step_folders(root)):
        try:
            return _load(folder)
        except DAMAGE as error:  # not any OSError: a disk that fails to read condemns nothing
            reasons.append(f"{folder.name}: {error}")
            _quarantine(folder, str(error))
    if reasons or (root / "bad").exists():
        raise CheckpointError(
            f"no usable checkpoint in {root} ({'; '.join(reasons) or 'all are in bad/'}); "
            f"move the run's folder away to start it from zero"
        )
    return None


def _save_tensors(value: Mapping[str, Any], path: Path) -> None:
    """torch.save, whose way to say that the disk is full is a RuntimeError."""
    try:
        torch.save(value, path)
    except RuntimeError as error:
        free = shutil.disk_usage(path.parent).free
        raise StorageError(
            f"{path}: the checkpoint could not be written ({str(error).splitlines()[0]}); "
            f"{free / 1e6:.0f} MB are free there"
        ) from None


def _load(folder: Path) -> tuple[int, dict[str, Any], dict[str, Any], dict[str, Any]]:
    done = read_json(folder / "DONE.json")
    for name, facts in done["files"].items():
        path = folder / name
        if path.stat().st_size != facts["bytes"] or _sha256(path) != facts["sha256"]:
            raise ValueError(f"{name} is not what was written (size or SHA-256 differs)")
    model = torch.load(folder / "model.pt", weights_only=True, map_location="cpu")
    optimizer = torch.load(folder / "optim.pt", weights_only=True, map_location="cpu")
    return done["step"], model, optimizer, read_json(folder / "state.json")


def _quarantine(folder: Path, reason: str) -> None:
    bad = folder.parent / "bad"
    bad.mkdir(exist_ok=True)
    target = bad / folder.name
    if target.exists():
        shutil.rmtree(target)
    folder.replace(target)
    write_json(bad / f"{folder.name}.json", {"reason": reason})


def _step_folders(root: Path) -> list[Path]:
    """Committed checkpoints, oldest first by step number, never by a clock."""
    return sorted(path for path in root.iterdir() if STEP_FOLDER.fullmatch(path.name))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
