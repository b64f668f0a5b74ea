"""One run's folder: its files, lock, status, attempts, and the archive of restarted runs.

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

from train.errors import LockedError
from train.plan.planning import PlannedRun
from train.storage.lock import Holder, hold, is_held, read_holder, this_host
from train.storage.records import STATES, append_jsonl, read_json, sound_rows, write_json

ARCHIVE = "archive"
"""Folder of a run's files from before restart=true."""


class _File:
    """Attribute of RunFolder: the path of a file in it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, folder: "RunFolder", owner: type) -> Path:
        return folder.path / self.name


@dataclass(frozen=True)
class RunFolder:
    """`runs/<study>/<run_id>/`, DESIGN section 7."""

    path: Path

    config = _File("config.yaml")
    """The resolved config."""
    run = _File("run.json")
    """Facts that do not change: counts, hashes, versions, device."""
    status = _File("status.json")
    """State, reason, step, cost."""
    attempts = _File("attempts.jsonl")
    """One row per start and end of a training process."""
    metrics = _File("metrics.jsonl")
    """One row per logged step."""
    evals = _File("evals.jsonl")
    """One row per evaluation and split."""
    replayed = _File("replayed.jsonl")
    """Rows after the checkpoint, which a resumed run computes again."""
    checkpoints = _File("checkpoints")
    """Folder of the checkpoints."""
    result = _File("result.json")
    """Written once, at completion; holds the row of the runs table."""
    lock = _File("run.lock")
    """Held by the process that trains the run; names it."""
    log = _File("job.log")
    """Output of a job that a study launched."""

    def state(self) -> str:
        """The recorded state; `planned` before the first start."""
        return str(self.read_status().get("state", "planned"))

    def read_status(self) -> dict[str, Any]:
        """Content of status.json; empty before the first start and for an unreadable file."""
        try:
            return read_json(self.status)
        except (OSError, ValueError):
            return {}

    def write_status(self, state: str, **facts: Any) -> None:  # noqa: ANN401
        """Replace status.json; `facts` are the step, the reason and the like."""
        assert state in STATES
        write_json(self.status, {"state": state, **facts, "heartbeat": utc_now()}, sync=False)

    def attempt_number(self) -> int:
        """Number of the newest attempt, archived ones included; 0 before the first.

        Numbers are never reused: W&B runs are named after them. Damaged rows are skipped: no start
        may fail because of them.
        """
        archived = self.path.glob(f"{ARCHIVE}/*/{self.attempts.name}")
        return max(
            (
                row["attempt"]
                for path in (*archived, self.attempts)
                for row in sound_rows(path)
                if row.get("event") == "start" and isinstance(row.get("attempt"), int)
            ),
            default=0,
        )

    def log_attempt(self, event: str, **facts: Any) -> None:  # noqa: ANN401
        """Append the start or the end of an attempt to attempts.jsonl."""
        who = {"host": socket.gethostname(), "pid": os.getpid(), "time": utc_now()}
        append_jsonl(self.attempts, [{"event": event, **who, **facts}], sync=True)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run's lock; it is freed when its process dies.

        Raises:
            LockedError: Another live process trains this run.
            StorageError: The folder cannot be made or written.
        """
        with hold(self.lock, task="is training this run"):
            if self._unfinished_archive() is not None:
                self.archive()
            yield

    def is_locked(self) -> bool:
        """Whether a live process holds the lock."""
        return is_held(self.lock)

    def holder(self) -> Holder | None:
        """Process that trains the run, or trained it last."""
        return read_holder(self.lock)

    def refuse_other_holder(self) -> None:
        """Stop this process before it writes to a run that another one took over.

        That happens where someone deletes the lock or the folder of a run under way: the next
        start makes a new lock, with its own name.

        Raises:
            LockedError: Another process holds the run.
        """
        holder = self.holder()
        if holder is not None and (holder.host, holder.pid) != (this_host(), os.getpid()):
            raise LockedError(
                f"{self.path}: its lock was deleted while this process trained the run, and "
                f"{holder} trains it now; this process stops and leaves everything to that one"
            )

    def archive(self) -> Path:
        """Move the run's files to `archive/<n>/`, so that it starts from zero; return that folder.

        Only the holder of the lock may call this. The lock and job.log stay. A killed process
        leaves `archive/<n>.partial`, which the next holder completes, so that no start sees parts
        of the old run. status.json goes first: from then on the run counts as planned.
        """
        partial = self._unfinished_archive()
        if partial is None:
            root = self.path / ARCHIVE
            newest = self.newest_archive()
            number = int(newest.path.name) + 1 if newest is not None else 1
            partial = root / f"{number}.partial"
            partial.mkdir(parents=True)
        stays = {ARCHIVE, self.lock.name, self.lock.with_suffix(".lease").name, self.log.name}
        entries = [path for path in self.path.iterdir() if path.name not in stays]
        for path in sorted(entries, key=lambda path: path.name != self.status.name):
            path.rename(partial / path.name)
        return partial.rename(partial.with_suffix(""))

    def newest_archive(self) -> "RunFolder | None":
        """Folder of the run from before its last restart; None without one."""
        numbers = [
            int(path.name) for path in self.path.glob(f"{ARCHIVE}/*") if path.name.isdecimal()
        ]
        return RunFolder(self.path / ARCHIVE / str(max(numbers))) if numbers else None

    def _unfinished_archive(self) -> Path | None:
        return next((self.path / ARCHIVE).glob("*.partial"), None)


def folder_of(run: PlannedRun) -> RunFolder:
    """Folder of a planned run."""
    return RunFolder(run.path)


def utc_now() -> str:
    """Time in UTC, in seconds, as ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")
