"""One holder at a time of a run or a study, for the life of the process.

The lock is flock on a file that names its holder; the kernel frees it the moment the holder dies,
however it dies, and no child inherits it. Where the file system has no flock, a lease takes its
place: a file made with O_EXCL that the holder touches, and that others may take once it is old.
Processes on several machines exclude each other only where the file system carries flock between
them (NFS with a lock daemon, Lustre mounted with -o flock).
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
"""How long a start waits: is_held shares the lock for an instant when it looks."""

LEASE_SECONDS = 30.0
"""Seconds without a touch after which a lease may be taken; its holder touches it three times in
that time."""

NO_FLOCK = frozenset((errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP))
"""What a file system answers that cannot lock."""


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Who held a lock last, by its own word."""

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
    """Hold the lock file `path`, made with its folder where it is missing.

    Args:
        path: The lock file; it stays when the lock is free again.
        task: What its holder does, for the message to the next one: "is training this run".
        patience: Seconds to wait for another holder.

    Raises:
        LockedError: Another live process holds it.
        StorageError: The folder or the file cannot be made or written.
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
    """Raise the LockedError of `hold` when the lock is held, without taking it."""
    if is_held(path):
        raise _refusal(path, task)


def is_held(path: Path) -> bool:
    """Whether a live process holds the lock file `path`; looking never refuses anyone a start."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:  # it was never held, or this process may not look
        return _is_leased(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in NO_FLOCK or _is_leased(path)
    finally:
        os.close(descriptor)
    return _is_leased(path)


def read_holder(path: Path) -> Holder | None:
    """Who holds the lock file, or held it last; None when that was not written down."""
    with contextlib.suppress(OSError):
        if (owner := _lease(path).owner) is not None:
            touched = datetime.fromtimestamp(_lease_path(path).stat().st_mtime, UTC)
            host = owner.hostname.partition("?")[0]  # a container's name has a mark after it
            return Holder(host=host, pid=owner.pid, since=touched)
    try:
        with path.open("rb") as file:
            record = json.loads(file.read(1_000))
        host, since = str(record["host"]), datetime.fromisoformat(record["since"])
        if not re.fullmatch(r"[\w.-]{1,253}", host) or since.tzinfo is None:
            return None  # it goes to a terminal: a name, or nothing
        return Holder(host=host, pid=int(record["pid"]), since=since)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def this_host() -> str:
    """The name by which a holder on this machine calls it."""
    return socket.gethostname()


def _refusal(path: Path, task: str) -> LockedError:
    return LockedError(f"{path.parent}: {read_holder(path) or 'another process'} {task}")


def _acquire(path: Path, patience: float) -> BaseFileLock:
    lock = FileLock(path, timeout=patience, fallback_to_soft=False, on_acquired=_write_down_holder)
    try:
        lock.acquire()
    except OSError as error:  # Timeout is one too, without a number
        if error.errno not in NO_FLOCK:
            raise
        warnings.warn(  # the same words for every file, so that they are said once
            f"the file system has no flock ({error.strerror}); leases of {LEASE_SECONDS:g} s "
            f"stand in for its locks",
            stacklevel=2,
        )
        return _acquire_lease(path, patience)
    return lock


def _write_down_holder(descriptor: int) -> None:
    since = datetime.now(UTC).isoformat(timespec="seconds")
    record = {"host": this_host(), "pid": os.getpid(), "since": since}
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(record).encode() + b"\n", 0)


def _lease_path(path: Path) -> Path:
    """Beside the lock file, which stays without a record where flock is missing."""
    return path.with_suffix(".lease")


def _lease(path: Path) -> SoftFileLease:
    return SoftFileLease(
        _lease_path(path), lease_duration=LEASE_SECONDS, on_compromise=_stop_without_lease
    )


def _acquire_lease(path: Path, patience: float) -> SoftFileLease:
    """Take the lease, which needs a watch of LEASE_SECONDS when its holder seems to be gone."""
    lease = _lease(path)
    seems_gone = _lease_path(path).exists() and not _is_leased(path)
    lease.acquire(timeout=patience + (1.1 * LEASE_SECONDS if seems_gone else 0))
    return lease


def _is_leased(path: Path) -> bool:
    """Whether the lease was touched lately.

    A holder that died on this machine is not told apart; a start takes its lease at once anyhow.
    """
    try:
        return time.time() - _lease_path(path).stat().st_mtime < LEASE_SECONDS
    except OSError:
        return False


def _stop_without_lease(loss: object) -> None:
    """End this process at once: it slept through its lease, and another may own its files now."""
    sys.stderr.write(f"error: the lease was lost ({loss}); another process may have taken over\n")
    sys.stderr.flush()
    os._exit(LockedError.exit_code)
