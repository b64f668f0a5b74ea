"""What the tests of W&B share: an environment, a fake that strikes, a trainer without a mirror."""

import json
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faults.patches import EVERY, At
from train.config.runtime import TrackerKind

REPO = Path(__file__).resolve().parents[2]
FAKE = REPO / "tests" / "train" / "fake_wandb"
STEPS, EVALS = 60, 4


def leave_no_key(home, monkeypatch):
    """A user without a key or a terminal."""
    for name in list(os.environ):
        if name.startswith("WANDB_") or name == "NETRC":
            monkeypatch.delenv(name)
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))


def use_fake(calls, monkeypatch):
    """Return where the fake wandb writes down its calls."""
    monkeypatch.setenv("PYTHONPATH", str(FAKE))
    monkeypatch.setenv("FAKE_WANDB_CALLS", str(calls))
    return calls


def of_kind(calls, kind):
    if not calls.exists():
        return []
    lines = [json.loads(line) for line in calls.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line["call"] == kind]


def mirrored(tiny, **changes):
    return tiny(tracker__kind=TrackerKind.wandb, **changes)


@dataclass
class CallsWandbItself:
    """The protection removed: the trainer loads wandb and logs to it after each row."""

    path: str = str(FAKE)
    mode: str = "online"
    folder: str = "."
    runs: list[Any] = field(default_factory=list)

    def __call__(self):
        if not self.runs:
            sys.path.insert(0, self.path)
            import wandb

            self.runs.append(wandb.init(mode=self.mode, dir=self.folder, id="r", project="p"))
        self.runs[0].log({"train/loss": 1.0})


def patched(**words):
    return At(
        "train.training.loop:log_metrics", CallsWandbItself(**words), call=EVERY, when="after"
    )


def wait_until(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
