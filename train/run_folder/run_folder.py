"""One run's folder: paths, the lock, the status, and what is archived.

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
"""Folder of what a run wrote before it was restarted from zero."""


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
    def lock(self) -> Path:
        """Held for the life of the process that trains the run; names it."""
        return self.path / "run.lock"

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
        except (OSError, ValueError):
            return {}

    def write_status(self, state: str, **facts: Any) -> None:  # noqa: ANN401
        """Replace the status; `facts` are the step, the reason and what else is known."""
        assert state in STATES
        write_json(self.status, {"state": state, **facts, "heartbeat": utc_now()}, sync=False)

    def attempt_number(self) -> int:
        """How many times a process has started this run, archived starts included.

        Numbers are never used twice: a W&B run is named after its attempt. A damaged row costs
        nothing but itself: this file is told of by the status, and no start depends on it.
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
        """Append a start or an end."""
        who = {"host": socket.gethostname(), "pid": os.getpid(), "time": utc_now()}
        append_jsonl(self.attempts, [{"event": event, **who, **facts}], sync=True)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run for the life of the process; the lock dies with its holder.

        Raises:
            LockedError: Another live process trains this run.
            StorageError: The folder cannot be made or written.
        """
        with hold(self.lock, task="is training this run"):
            if self._unfinished_archive() is not None:
                self.archive()
            yield

    def is_locked(self) -> bool:
        """Whether a live process holds the run."""
        return is_held(self.lock)

    def holder(self) -> Holder | None:
        """Who trains the run, or trained it last."""
        return read_holder(self.lock)

    def refuse_other_holder(self) -> None:
        """Stop this process before it writes to a run that is not its own any more.

        Whoever deletes the lock, or the whole folder, of a run under way makes room for a second
        start, which then names itself in the new lock.

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
        """Move what the run has written to `archive/<n>/`, so that it starts anew; return that.

        Only the holder of the lock may. The lock and the log that this process writes stay. A
        process killed half-way leaves `archive/<n>.partial`, which the next holder completes, so
        no start sees a part of the old run. The status goes first: from there on the run counts
        as planned.
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
        """What the run wrote before its last restart from zero."""
        numbers = [
            int(path.name) for path in self.path.glob(f"{ARCHIVE}/*") if path.name.isdecimal()
        ]
        return RunFolder(self.path / ARCHIVE / str(max(numbers))) if numbers else None

    def _unfinished_archive(self) -> Path | None:
        return next((self.path / ARCHIVE).glob("*.partial"), None)


def folder_of(run: PlannedRun) -> RunFolder:
    """Where a planned run's records go."""
    return RunFolder(run.path)


def utc_now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
