"""What the tests of W&B share: an environment, a fake that strikes, a trainer without a mirror."""

import sys
from dataclasses import dataclass, field
from typing import Any

from faults.patches import EVERY, At
from tests.train.mirror_requests import FAKE, calls_of
from train.config.runtime import TrackerKind

STEPS, EVALS = 60, 4


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


def logged(calls):
    """The logged rows, by W&B run id."""
    ids = {call["pid"]: call["words"]["id"] for call in calls_of(calls, "init")}
    rows = {name: [] for name in ids.values()}
    for call in calls_of(calls, "log"):
        rows[ids[call["pid"]]].append(call["values"])
    return rows
