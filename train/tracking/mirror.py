"""Starts the mirror's process, tells it what to keep, and waits for its end, but not for long.

The process (wandb_mirror.py) reads the rows from the run folder. It is told of nothing but
its folder on its command line, which wandb records; the rest goes through its standard input.
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
from pathlib import Path
from typing import Any

LIMIT_SECONDS = 20.0
"""How long the end of an attempt waits for its mirror."""

REAP_SECONDS = 2.0
"""How long a killed process may take to go."""

SEND_SECONDS = 5.0
"""How long the start waits when the request is larger than the pipe, 64 kB."""

SOURCE_ROOT = Path(__file__).resolve().parents[2]


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
    resume: str = "never"
    """wandb's word for an id that exists: never refuses it, allow adds the rows that it lacks."""
    config: Mapping[str, Any]
    start_step: int
    """Rows after this step are mirrored."""
    limit_seconds: float = LIMIT_SECONDS
    """From the last word of the trainer to the end of the process."""
    trainer_pid: int = field(default_factory=os.getpid)
    """The parent, by which its death is seen while a child of it holds the pipe open."""


class MirrorProcess:
    """A mirror of one folder's rows. Nothing here raises once the process has been asked for."""

    def __init__(self, request: MirrorRequest, folder: Path) -> None:
        self._limit = request.limit_seconds
        self._report: dict[str, Any] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._process = _start(folder)
            _send(self._process, request)
        except (OSError, ValueError, TypeError) as error:
            self._report = {"mode": "off", "reason": f"its process could not start ({error})"}
            self._kill()

    def finish(self, state: str, summary: Mapping[str, Any]) -> dict[str, Any]:
        """Wait for the mirror's end, at most the request's limit; the second call only repeats.

        Returns:
            `{"mode": "online" | "offline", "rows": n}` with a `reason` when auto went offline, or
            `{"mode": "off", "reason": why}`.
        """
        if self._report is None:
            try:
                self._report = self._close({"state": state, "summary": dict(summary)})
            except Exception as error:  # whatever it is, the run has ended well without it
                self._report = {"mode": "off", "reason": f"{type(error).__name__}: {error}"}
            self._kill()
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

    def _kill(self) -> None:
        """End the process, its worker too, and let go of its pipes."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.returncode != 0:  # a worker may be left of one that died
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
        [sys.executable, "-P", "-m", "train.tracking.wandb_mirror", str(folder)],
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
