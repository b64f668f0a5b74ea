"""The mirror of the run folder as the trainer sees it: nothing, or a process of its own.

Training waits for W&B only once, at the end, and at most mirror.LIMIT_SECONDS; whatever happens to
the mirror is said there, and never raised.
"""

import contextlib
import os
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from train.config.runtime import TrackerConfig, TrackerKind, WandbMode
from train.errors import MissingExtraError
from train.tracking.mirror import MirrorProcess, MirrorRequest


class Tracker(Protocol):
    """What the loop knows of a mirror."""

    attempt_id: str | None

    def finish(self, state: str, summary: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """The attempt is over. Returns how the mirror ended, for attempts.jsonl."""


class NullTracker:
    """No mirror."""

    attempt_id: str | None = None

    def finish(self, state: str, summary: Mapping[str, Any]) -> None:
        """Do nothing."""


class MirrorTracker:
    """One W&B run per attempt, kept by a process that dies with the trainer at the latest."""

    def __init__(self, request: MirrorRequest, folder: Path) -> None:
        self.attempt_id: str | None = request.id
        self._group = request.group
        self._has_ended = False
        self._process = MirrorProcess(request, folder)

    def finish(self, state: str, summary: Mapping[str, Any]) -> Mapping[str, Any]:
        """Wait for the mirror's end and say once when there was none; see MirrorProcess.finish."""
        report = self._process.finish(state, summary)
        if report["mode"] == "off" and not self._has_ended:
            with contextlib.suppress(OSError, ValueError):
                sys.stderr.write(
                    f"warning: {self.attempt_id} is not mirrored to W&B: {report['reason']}; the "
                    f"run folder has everything, and scripts/wandb_push.py study={self._group} "
                    f"rebuilds W&B from it\n"
                )
        self._has_ended = True
        return report


def require_tracker(config: TrackerConfig) -> None:
    """Refuse a mirror whose package is missing, before anything is written.

    Raises:
        MissingExtraError: tracker=wandb and wandb is not installed.
    """
    if config.kind is TrackerKind.none or config.mode is WandbMode.off:
        return
    require_wandb("tracker=wandb")


def require_wandb(purpose: str) -> None:
    """Refuse what needs wandb when it is not installed; does not load it.

    Raises:
        MissingExtraError: wandb is not installed.
    """
    spec = find_spec("wandb")
    if spec is None or spec.origin is None:  # a folder ./wandb of logs is found too, without origin
        raise MissingExtraError("wandb", "wandb", purpose)


def build_tracker(
    config: TrackerConfig,
    *,
    study: str,
    run_id: str,
    attempt: int,
    start_step: int,
    science: Mapping[str, Any],
    folder: Path,
) -> Tracker:
    """Start the mirror that the config asks for: one W&B run per attempt, grouped by study.

    Called when the run folder has been rewound to `start_step`.

    Raises:
        MissingExtraError: tracker=wandb and wandb is not installed.
    """
    require_tracker(config)
    mode = resolve_mode(config.mode)
    if config.kind is TrackerKind.none or mode == "off":
        return NullTracker()
    request = MirrorRequest(
        id=f"{run_id}-a{attempt}",
        name=run_id,
        group=study,
        project=config.project,
        entity=config.entity,
        mode=mode,
        config=science,
        start_step=start_step,
    )
    return MirrorTracker(request, folder)


WANDB_MODES = {
    "online": "online",
    "run": "online",
    "offline": "offline",
    "dryrun": "offline",
    "disabled": "off",
}
"""What wandb takes in its environment, and what it comes to here."""


def resolve_mode(mode: WandbMode) -> str:
    """What auto comes to: `WANDB_MODE` in the environment wins over it, as wandb's users expect."""
    word = os.environ.get("WANDB_MODE", "") if mode is WandbMode.auto else ""
    return WANDB_MODES.get(word, mode.name)
