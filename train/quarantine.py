"""Damaged checkpoints: moved to `bad/` with their reasons, never deleted."""

import contextlib
import shutil
from pathlib import Path

from train.records import read_json, write_json


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
