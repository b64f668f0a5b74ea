"""One run's folder: paths, the lock, the status, and rewinding its records to a checkpoint.

The folder is the truth about a run. Only the process that holds its lock writes to it.
"""

import contextlib
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from train.errors import LockedError, StorageError
from train.records import STATES, append_jsonl, read_json, read_jsonl, write_json

GLANCE_SECONDS = 0.5
"""How long a start waits for the lock: train.status holds it for an instant when it looks."""


@dataclass(frozen=True)
class RunFolder:
    """`runs/<study>/<run_id>/`, DESIGN section 7."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved config."""
        return self.path / "config.yaml"

    @property
    def run(self) -> Path:
        """Facts: counts, hashes, versions, device."""
        return self.path / "run.json"

    @property
    def status(self) -> Path:
        """State, reason, step."""
        return self.path / "status.json"

    @property
    def attempts(self) -> Path:
        """One row per start and end of a process."""
        return self.path / "attempts.jsonl"

    @property
    def metrics(self) -> Path:
        """One row per logged step."""
        return self.path / "metrics.jsonl"

    @property
    def evals(self) -> Path:
        """One row per evaluation."""
        return self.path / "evals.jsonl"

    @property
    def replayed(self) -> Path:
        """Rows past the checkpoint that a resumed run computed again."""
        return self.path / "replayed.jsonl"

    @property
    def checkpoints(self) -> Path:
        """Folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def result(self) -> Path:
        """The row of the runs table, written once."""
        return self.path / "result.json"

    @property
    def log(self) -> Path:
        """What the job printed when a study launched it."""
        return self.path / "job.log"

    def state(self) -> str:
        """The recorded state; `planned` before the first start."""
        return str(self.read_status().get("state", "planned"))

    def read_status(self) -> dict[str, Any]:
        """status.json, or nothing before the first start or when it is unreadable."""
        try:
            return read_json(self.status)
        except (FileNotFoundError, ValueError):
            return {}

    def write_status(self, state: str, **facts: Any) -> None:  # noqa: ANN401
        """Replace the status; `facts` are the step, the reason and what else is known."""
        assert state in STATES
        write_json(self.status, {"state": state, **facts, "heartbeat": utc_now()})

    def attempt_number(self) -> int:
        """How many times a process has started this run."""
        return sum(row.get("event") == "start" for row in read_jsonl(self.attempts))

    def log_attempt(self, event: str, **facts: Any) -> None:  # noqa: ANN401
        """Append a start or an end."""
        who = {"host": socket.gethostname(), "pid": os.getpid(), "time": utc_now()}
        append_jsonl(self.attempts, [{"event": event, **who, **facts}], sync=True)

    def rewind(self, step: int) -> int:
        """Set rows after `step` aside in replayed.jsonl; a torn last line is dropped with them."""
        set_aside = 0
        for path in (self.metrics, self.evals):
            if not path.exists():
                continue
            rows = read_jsonl(path)
            late = [{"file": path.name, **row} for row in rows if row["step"] > step]
            if late:
                append_jsonl(self.replayed, late)
            partial = path.with_name(path.name + ".partial")
            partial.unlink(missing_ok=True)
            append_jsonl(partial, [row for row in rows if row["step"] <= step], sync=True)
            partial.replace(path)
            set_aside += len(late)
        return set_aside

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run for the life of the process; the lock dies with its holder.

        Raises:
            LockedError: Another live process trains this run.
            StorageError: The folder cannot be made or written.
        """
        lock = FileLock(self.path / "run.lock", timeout=GLANCE_SECONDS)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout:
            raise LockedError(f"{self.path}: {self._holder()} is training this run") from None
        except OSError as error:
            raise StorageError(f"{self.path}: cannot be written ({error.strerror})") from None
        try:
            yield
        finally:
            lock.release()

    def is_locked(self) -> bool:
        """Whether a live process holds the run."""
        if not (self.path / "run.lock").exists():
            return False
        try:
            with FileLock(self.path / "run.lock", timeout=0):
                return False
        except Timeout:
            return True

    def _holder(self) -> str:
        starts = [row for row in read_jsonl(self.attempts) if row.get("event") == "start"]
        if not starts:
            return "another process"
        last = starts[-1]
        return f"process {last['pid']} on {last['host']} (since {last['time']})"


def utc_now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
