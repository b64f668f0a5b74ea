"""Start and stop the mirror process of one run folder.

The process (wandb_mirror.py) reads rows from the run folder. wandb records its command line, which
therefore names only the folder; everything else goes through standard input.
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
"""Time limit for the mirror at the end of an attempt."""

REAP_SECONDS = 2.0
"""Time limit for a killed process to disappear."""

SEND_SECONDS = 5.0
"""Time limit for the process to read a request larger than the pipe (64 kB)."""

SOURCE_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, kw_only=True)
class MirrorRequest:
    """Request to the process, sent as one JSON line on its standard input."""

    id: str
    """W&B run id, unique in the project."""
    name: str
    group: str
    project: str
    entity: str | None
    mode: str
    """One of "auto" (online, or offline when that fails), "online", "offline"."""
    resume: str = "never"
    """wandb.init(resume=): "never" refuses an existing id, "allow" adds missing rows to it."""
    config: Mapping[str, Any]
    start_step: int
    """Rows up to this step are not mirrored."""
    limit_seconds: float = LIMIT_SECONDS
    """Seconds from the trainer's last line to the end of the process."""
    trainer_pid: int = field(default_factory=os.getpid)
    """pid of the trainer, watched because a child of it may keep the pipe open after its death."""


class MirrorProcess:
    """Mirror process of one run folder; `finish` reports its failures, none is raised."""

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
        """Close the W&B run and wait for the process, at most limit_seconds.

        A second call returns the first report.

        Args:
            state: Final state of the attempt.
            summary: Row of the runs table, or empty.

        Returns:
            `{"mode": "online" | "offline", "rows": n}`, with a `reason` if auto went offline; or
            `{"mode": "off", "reason": why}`.
        """
        if self._report is None:
            try:
                self._report = self._close({"state": state, "summary": dict(summary)})
            # the run has ended, whatever happens to its mirror
            except Exception as error:
                self._report = {"mode": "off", "reason": f"{type(error).__name__}: {error}"}
            self._kill()
        return self._report

    def _close(self, ending: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process is not None
        try:
            answer, _ = self._process.communicate(
                json.dumps(ending).encode() + b"\n", timeout=self._limit
            )
        except subprocess.TimeoutExpired:
            return {"mode": "off", "reason": f"its process gave no answer in {self._limit:g} s"}
        if not answer.endswith(b"}\n"):
            code = self._process.returncode
            how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
            return {"mode": "off", "reason": f"its process {how}"}
        report = json.loads(answer)
        assert isinstance(report, dict)
        return report

    def _kill(self) -> None:
        """Kill the process and its worker, and close the pipes."""
        process, self._process = self._process, None
        if process is None:
            return
        # a dead process may have left its worker
        if process.returncode != 0:
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError, ValueError):
                if pipe is not None:
                    pipe.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(REAP_SECONDS)


def _start(folder: Path) -> subprocess.Popen[bytes]:
    """Start the process with only the folder on its command line."""
    known = os.environ.get("PYTHONPATH")
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "train.tracking.wandb_mirror", str(folder)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(SOURCE_ROOT), known)))},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
        # keeps signals to the trainer's process group from the mirror
        start_new_session=True,
    )


def _send(process: subprocess.Popen[bytes], request: MirrorRequest) -> None:
    """Write the request.

    Raises:
        OSError: The process did not read it within SEND_SECONDS.
    """
    assert process.stdin is not None
    os.set_blocking(process.stdin.fileno(), False)
    left = json.dumps(asdict(request)).encode() + b"\n"
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdin, selectors.EVENT_WRITE)
        while left := left[process.stdin.write(left) or 0 :]:
            if not selector.select(SEND_SECONDS):
                raise OSError(f"it did not read its request within {SEND_SECONDS:g} s")
