"""Requests to the mirror process, and a fake wandb that records its calls."""

import json
import os
import time
from pathlib import Path

from train.tracking.mirror import MirrorRequest

FAKE = Path(__file__).parent / "fake_wandb"
ENDING = {"state": "completed", "summary": {"loss": 2.5}}


def request(**changes):
    fields = {
        "id": "r-a1",
        "name": "r",
        "group": "s",
        "project": "p",
        "entity": None,
        "mode": "offline",
        "config": {"seed": 0},
        "start_step": 0,
    }
    return MirrorRequest(**{**fields, **changes})


def leave_no_key(home, monkeypatch):
    """A user without a key or a terminal."""
    for name in list(os.environ):
        if name.startswith("WANDB_") or name == "NETRC":
            monkeypatch.delenv(name)
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))


def use_fake(folder, monkeypatch):
    """Make processes import the fake wandb; return the file to which it writes its calls."""
    monkeypatch.setenv("PYTHONPATH", str(FAKE))
    monkeypatch.setenv("FAKE_WANDB_CALLS", str(folder / "calls"))
    return folder / "calls"


def calls_of(path, kind):
    """The recorded calls of one kind, such as "log"; none before the first call."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [call for call in map(json.loads, lines) if call["call"] == kind]


def wait_for(condition, *, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
