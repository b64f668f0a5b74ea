"""The folder of one run: its files, lock, status, attempts, and the archive of restarts.

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
"""Folder of the files that restart=true moved away."""


class _File:
    """Attribute of RunFolder: path of a file in the folder."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, folder: "RunFolder", owner: type) -> Path:
        return folder.path / self.name


@dataclass(frozen=True)
class RunFolder:
    """`runs/<study>/<run_id>/`."""

    path: Path

    config = _File("config.yaml")
    """The resolved config."""
    run = _File("run.json")
    """Counts, FLOPs, hashes, versions, device."""
    status = _File("status.json")
    """State, reason, step, cost."""
    attempts = _File("attempts.jsonl")
    """One row per start and end of a training process."""
    metrics = _File("metrics.jsonl")
    """One row per logged step."""
    evals = _File("evals.jsonl")
    """One row per evaluation and split."""
    replayed = _File("replayed.jsonl")
    """Rows from after the checkpoint, which a resume recomputes."""
    checkpoints = _File("checkpoints")
    """Folder of checkpoints."""
    result = _File("result.json")
    """Row of the runs table, costs; written once, at completion."""
    lock = _File("run.lock")
    """Lock of the process that trains the run; holds its name."""
    log = _File("job.log")
    """Output of a job that a study launched."""

    def state(self) -> str:
        """Recorded state; `planned` before the first start."""
        return str(self.read_status().get("state", "planned"))

    def read_status(self) -> dict[str, Any]:
        """Content of status.json; empty where it is missing or cannot be read."""
        try:
            return read_json(self.status)
        except (OSError, ValueError):
            return {}

    def write_status(self, state: str, **values: Any) -> None:  # noqa: ANN401
        """Replace status.json; `values` are further keys, such as step, reason and cost."""
        assert state in STATES
        write_json(self.status, {"state": state, **values, "heartbeat": utc_now()}, sync=False)

    def attempt_number(self) -> int:
        """Number of the newest attempt; 0 before the first.

        Archived attempts count too, because W&B runs are named after these numbers. Damaged rows
        are skipped.
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

    def log_attempt(self, event: str, **values: Any) -> None:  # noqa: ANN401
        """Append the start or end of an attempt to attempts.jsonl."""
        who = {"host": socket.gethostname(), "pid": os.getpid(), "time": utc_now()}
        append_jsonl(self.attempts, [{"event": event, **who, **values}], sync=True)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock; the kernel releases it when the process dies.

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
        """Process that holds the lock, or held it last."""
        return read_holder(self.lock)

    def refuse_other_holder(self) -> None:
        """Refuse to write to a run that another process has taken over.

        This happens when the lock or the folder of a running run is deleted: the next process to
        start makes a new lock.

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
        """Move the files of the run to `archive/<n>/` and return it; the run then starts from zero.

        Only the holder of the lock may call this. The lock and job.log stay. A kill leaves
        `archive/<n>.partial`, which the next holder completes before it reads the run. status.json
        is moved first: from then on the state is `planned`.
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
        """Files from before the last restart; None without one."""
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
    """Current time in UTC as ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
