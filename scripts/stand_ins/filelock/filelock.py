"""Stands in for filelock on a machine without it, or with one from before its leases: flock."""

import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path

POLL_SECONDS = 0.05


class Timeout(TimeoutError):
    """Another process holds the lock."""


class BaseFileLock:
    """A lock on a file that stays where it is."""

    def __init__(
        self,
        path: Path,
        *,
        timeout: float = -1,
        fallback_to_soft: bool = False,
        on_acquired: Callable[[int], None] | None = None,
    ) -> None:
        del fallback_to_soft  # there is nothing to fall back to
        self._path, self._timeout, self._on_acquired = path, timeout, on_acquired
        self._descriptor = -1

    def acquire(self) -> None:
        """Wait for it, for ever at a negative timeout."""
        began, self._descriptor = time.monotonic(), os.open(self._path, os.O_RDWR | os.O_CREAT)
        while True:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if 0 <= self._timeout < time.monotonic() - began:
                    os.close(self._descriptor)
                    raise Timeout(str(self._path)) from None
                time.sleep(POLL_SECONDS)
        if self._on_acquired is not None:
            self._on_acquired(self._descriptor)

    def release(self) -> None:
        """Let another have it."""
        os.close(self._descriptor)

    def __enter__(self) -> "BaseFileLock":
        self.acquire()
        return self

    def __exit__(self, *error: object) -> None:
        self.release()


FileLock = BaseFileLock


class SoftFileLease:
    """Leases, for file systems without flock, need the real package."""

    owner = None

    def __init__(self, path: Path, **_: object) -> None:
        self._path = path

    def acquire(self, **_: object) -> None:
        """Refuse."""
        raise OSError(f"{self._path}: a lease needs filelock 4.1.2 or newer")
