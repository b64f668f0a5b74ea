"""The mirror of the run folder as the trainer sees it: nothing, or a process of its own.

The process (train/wandb_mirror.py) reads the rows from the run folder, so training waits for W&B
only once, at the end, and at most LIMIT_SECONDS. Nothing here raises once training has begun.
"""

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from train.config import TrackerConfig, TrackerKind, WandbMode
from train.errors import MissingExtraError

LIMIT_SECONDS = 20.0
"""How long the end of an attempt waits for its mirror."""

REAP_SECONDS = 2.0
"""How long a killed process may take to go."""

SEND_SECONDS = 5.0
"""How long the start waits when the request is larger than the pipe, 64 kB."""

SOURCE_ROOT = Path(__file__).resolve().parents[1]


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


@dataclass(frozen=True, kw_only=True)
class MirrorRequest:
    """What the process is asked to keep: one JSON line on its standard input, never its argv."""

    id: str
    """W&B's own, unique in the project."""
    name: str
    group: str
    project: str
    entity: str | None
    mode: str
    """auto (online, and offline when that fails), online or offline."""
    resume: str | None = "never"
    """wandb's word for an id that exists: never refuses it, null overwrites it."""
    config: Mapping[str, Any]
    start_step: int
    """Rows after this step are mirrored."""
    limit_seconds: float = LIMIT_SECONDS
    """From the last word of the trainer to the end of the process."""
    trainer_pid: int = field(default_factory=os.getpid)
    """The parent, by which its death is seen while a child of it holds the pipe open."""


class MirrorTracker:
    """A mirror of one folder's rows, kept by a process that dies with the trainer at the latest."""

    def __init__(self, request: MirrorRequest, folder: Path) -> None:
        self.attempt_id: str | None = request.id
        self._limit = request.limit_seconds
        self._group = request.group
        self._report: Mapping[str, Any] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._process = _start(folder)
            _send(self._process, request)
        except (OSError, ValueError, TypeError) as error:
            self._report = self._off(f"its process could not start ({error})")

    def finish(self, state: str, summary: Mapping[str, Any]) -> Mapping[str, Any]:
        """Wait for the mirror's end, at most the request's limit; the second call only repeats.

        Returns:
            `{"mode": "online" | "offline", "rows": n}`, or `{"mode": "off", "reason": why}`.
        """
        if self._report is None:
            try:
                report = self._close({"state": state, "summary": dict(summary)})
            except Exception as error:  # whatever it is, the run has ended well without it
                report = {"mode": "off", "reason": f"{type(error).__name__}: {error}"}
            self._kill()
            self._report = self._off(report["reason"]) if report["mode"] == "off" else report
        return self._report

    def _close(self, ending: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process is not None
        try:
            told, _ = self._process.communicate(
                json.dumps(ending).encode() + b"\n", timeout=self._limit
            )
        except subprocess.TimeoutExpired:
            return {"mode": "off", "reason": f"its process gave no answer in {self._limit:g} s"}
        if not told.endswith(b"}\n"):
            code = self._process.returncode
            how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
            return {"mode": "off", "reason": f"its process {how}"}
        report = json.loads(told)
        assert isinstance(report, dict)
        return report

    def _off(self, reason: str) -> dict[str, Any]:
        self._kill()
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(
                f"warning: {self.attempt_id} is not mirrored to W&B: {reason}; the run folder has "
                f"everything, and scripts/wandb_push.py study={self._group} rebuilds W&B from it\n"
            )
        return {"mode": "off", "reason": reason}

    def _kill(self) -> None:
        """End the process, its worker too, and let go of its pipes."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.returncode is None:
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError, ValueError):
                if pipe is not None:
                    pipe.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(REAP_SECONDS)


def _start(folder: Path) -> subprocess.Popen[bytes]:
    """Start the process; wandb records argv, so it holds the folder and nothing else."""
    known = os.environ.get("PYTHONPATH")
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "train.wandb_mirror", str(folder)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(SOURCE_ROOT), known)))},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
        start_new_session=True,  # a signal to the trainer's group is not meant for the mirror
    )


def _send(process: subprocess.Popen[bytes], request: MirrorRequest) -> None:
    """Write the request; a reader that never comes costs SEND_SECONDS."""
    assert process.stdin is not None
    os.set_blocking(process.stdin.fileno(), False)
    left = json.dumps(asdict(request)).encode() + b"\n"
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdin, selectors.EVENT_WRITE)
        while left := left[process.stdin.write(left) or 0 :]:
            if not selector.select(SEND_SECONDS):
                raise OSError(f"it did not read its request within {SEND_SECONDS:g} s")


def require_tracker(config: TrackerConfig) -> None:
    """Refuse a mirror whose package is missing, before anything is written.

    Raises:
        MissingExtraError: tracker=wandb and wandb is not installed.
    """
    if config.kind is TrackerKind.none or config.mode is WandbMode.off:
        return
    spec = find_spec("wandb")
    if spec is None or spec.origin is None:  # a folder ./wandb of logs is found too, without origin
        raise MissingExtraError("wandb", "wandb", "tracker=wandb")


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


def resolve_mode(mode: WandbMode) -> str:
    """What auto comes to: `WANDB_MODE` in the environment wins over it, as wandb's users expect."""
    from_environment = os.environ.get("WANDB_MODE", "")
    if mode is not WandbMode.auto or from_environment not in ("online", "offline", "disabled"):
        return mode.value
    return "off" if from_environment == "disabled" else from_environment
