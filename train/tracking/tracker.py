"""Trackers, the trainer's interface to W&B: one does nothing, the other starts a mirror process.

Training waits for W&B only at the end, at most mirror.LIMIT_SECONDS, and a failure of the mirror is
a warning there, never an error.
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
    """Interface of the training loop to W&B."""

    attempt_id: str | None

    def finish(self, state: str, summary: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """End the attempt; return the mirror's report for attempts.jsonl."""


class NullTracker:
    """Tracker that does nothing."""

    attempt_id: str | None = None

    def finish(self, state: str, summary: Mapping[str, Any]) -> None:
        """Do nothing."""


class MirrorTracker:
    """Tracker with one W&B run per attempt, mirrored by a process that ends with the trainer."""

    def __init__(self, request: MirrorRequest, folder: Path) -> None:
        self.attempt_id: str | None = request.id
        self._group = request.group
        self._has_ended = False
        self._process = MirrorProcess(request, folder)

    def finish(self, state: str, summary: Mapping[str, Any]) -> Mapping[str, Any]:
        """Wait for the mirror, see MirrorProcess.finish; warn once if it failed."""
        report = self._process.finish(state, summary)
        if report["mode"] == "off" and not self._has_ended:
            with contextlib.suppress(OSError, ValueError):
                sys.stderr.write(
                    f"warning: {self.attempt_id} is not mirrored to W&B: {report['reason']}; the "
                    f"run folder has all rows, and `python -m train.tracking.push "
                    f"study={self._group}` rebuilds W&B from it\n"
                )
        self._has_ended = True
        return report


def require_tracker(config: TrackerConfig) -> None:
    """Check that wandb is installed if the config asks for it, without importing it.

    Raises:
        MissingExtraError: tracker=wandb and wandb is not installed.
    """
    if config.kind is TrackerKind.none or config.mode is WandbMode.off:
        return
    require_wandb("tracker=wandb")


def require_wandb(purpose: str) -> None:
    """Check that wandb is installed, without importing it.

    Args:
        purpose: Setting or command that needs it, for the message.

    Raises:
        MissingExtraError: wandb is not installed.
    """
    spec = find_spec("wandb")
    # ./wandb, a folder of logs, counts as a namespace package, but without origin
    if spec is None or spec.origin is None:
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
    """Start the tracker that the config asks for: one W&B run per attempt, grouped by study.

    The run folder must have no rows after `start_step`.

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
"""Mode by value of WANDB_MODE."""


def resolve_mode(mode: WandbMode) -> str:
    """Resolve mode=auto by the environment variable WANDB_MODE, as wandb does."""
    word = os.environ.get("WANDB_MODE", "") if mode is WandbMode.auto else ""
    return WANDB_MODES.get(word, mode.name)
