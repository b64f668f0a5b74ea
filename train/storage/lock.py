"""Lock files: one process at a time per run, study or preparation of data.

A lock is flock on a file that names its holder. The kernel releases it when the holder dies, and
child processes do not inherit it. A file system without flock gets a lease instead: a file created
with O_EXCL, whose modification time the holder renews, and which others may take over once it has
expired. Between machines flock works only where the file system carries it (NFS with a lock daemon,
Lustre mounted with -o flock).
"""

import contextlib
import errno
import fcntl
import json
import os
import re
import socket
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLease, Timeout

from train.errors import LockedError, StorageError

START_SECONDS = 0.5
"""Seconds that `hold` waits by default, since `is_held` takes the lock in shared mode briefly."""

LEASE_SECONDS = 30.0
"""Seconds until an unrenewed lease expires; its holder renews it every third of that time."""

NO_FLOCK = frozenset((errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP))
"""Errors of a file system without flock."""


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Process that holds a lock, or held it last, according to the lock file."""

    host: str
    pid: int
    since: datetime

    def __str__(self) -> str:
        """`process 7 on box (since 2026-01-01T00:00:00+00:00, 12 s ago)`."""
        age = max(0, round((datetime.now(UTC) - self.since).total_seconds()))
        since = self.since.isoformat(timespec="seconds")
        return f"process {self.pid} on {self.host} (since {since}, {age} s ago)"


@contextlib.contextmanager
def hold(path: Path, *, task: str, patience: float = START_SECONDS) -> Iterator[None]:
    """Hold the lock file `path`, creating it and its folder where they are missing.

    Args:
        path: The lock file; it is not deleted when the lock is released.
        task: Work of the holder, for the message to others: "is training this run".
        patience: Seconds to wait for another holder; negative waits forever.

    Raises:
        LockedError: Another live process holds it.
        StorageError: The folder or the file cannot be created or written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = _acquire(path, patience)
    except Timeout:
        raise _refusal(path, task) from None
    except OSError as error:
        raise StorageError(f"{path.parent}: cannot be written ({error.strerror})") from None
    try:
        yield
    finally:
        lock.release()


def refuse_if_held(path: Path, *, task: str) -> None:
    """Raise LockedError, as `hold` does, if the lock is held; never take it."""
    if is_held(path):
        raise _refusal(path, task)


def is_held(path: Path) -> bool:
    """Whether a live process holds the lock file `path`."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        # never held, or not readable
        return _is_leased(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in NO_FLOCK or _is_leased(path)
    finally:
        os.close(descriptor)
    return _is_leased(path)


def read_holder(path: Path) -> Holder | None:
    """Process that holds the lock, or held it last; None where the file does not name it."""
    with contextlib.suppress(OSError):
        if (owner := _lease(path).owner) is not None:
            touched = datetime.fromtimestamp(_lease_path(path).stat().st_mtime, UTC)
            # filelock appends "?..." to the host name inside a container
            host = owner.hostname.partition("?")[0]
            return Holder(host=host, pid=owner.pid, since=touched)
    try:
        with path.open("rb") as file:
            record = json.loads(file.read(1_000))
        host, since = str(record["host"]), datetime.fromisoformat(record["since"])
        # the name is printed to a terminal: no control characters
        if not re.fullmatch(r"[\w.-]{1,253}", host) or since.tzinfo is None:
            return None
        return Holder(host=host, pid=int(record["pid"]), since=since)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def this_host() -> str:
    """Host name that lock files record for this machine."""
    return socket.gethostname()


def _refusal(path: Path, task: str) -> LockedError:
    return LockedError(f"{path.parent}: {read_holder(path) or 'another process'} {task}")


def _acquire(path: Path, patience: float) -> BaseFileLock:
    lock = FileLock(path, timeout=patience, fallback_to_soft=False, on_acquired=_write_holder)
    try:
        lock.acquire()
    except OSError as error:
        # filelock's Timeout is an OSError without errno
        if error.errno not in NO_FLOCK:
            raise
        # the same text for every file, so that Python shows the warning once
        warnings.warn(
            f"the file system has no flock ({error.strerror}); leases of {LEASE_SECONDS:g} s "
            f"stand in for its locks",
            stacklevel=2,
        )
        return _acquire_lease(path, patience)
    return lock


def _write_holder(descriptor: int) -> None:
    since = datetime.now(UTC).isoformat(timespec="seconds")
    record = {"host": this_host(), "pid": os.getpid(), "since": since}
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(record).encode() + b"\n", 0)


def _lease_path(path: Path) -> Path:
    """Path of the lease that replaces a lock file; the lock file then stays empty."""
    return path.with_suffix(".lease")


def _lease(path: Path) -> SoftFileLease:
    return SoftFileLease(
        _lease_path(path), lease_duration=LEASE_SECONDS, on_compromise=_stop_without_lease
    )


def _acquire_lease(path: Path, patience: float) -> SoftFileLease:
    """Take the lease, waiting for an expired one to stay so for LEASE_SECONDS."""
    lease = _lease(path)
    seems_gone = _lease_path(path).exists() and not _is_leased(path)
    lease.acquire(timeout=patience + (1.1 * LEASE_SECONDS if seems_gone else 0))
    return lease


def _is_leased(path: Path) -> bool:
    """Whether the lease was renewed within LEASE_SECONDS, even if its holder has died since."""
    try:
        return time.time() - _lease_path(path).stat().st_mtime < LEASE_SECONDS
    except OSError:
        return False


def _stop_without_lease(loss: object) -> None:
    """End this process at once: its lease expired, and another process may write its files now."""
    sys.stderr.write(f"error: the lease was lost ({loss}); another process may have taken over\n")
    sys.stderr.flush()
    os._exit(LockedError.exit_code)
