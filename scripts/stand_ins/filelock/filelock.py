"""Stands in for filelock on a machine without it, or with one from before its leases: flock.

Besides train, torch's compiler locks its cache with it, so what that uses is here too.
"""

import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path

POLL_SECONDS = 0.05


class Timeout(TimeoutError):
    """Another process holds the lock."""


class BaseFileLock:
    """A lock on a file that stays where it is; whoever holds it may take it again."""

    def __init__(
        self,
        lock_file: str | Path,
        timeout: float = -1,
        *,
        on_acquired: Callable[[int], None] | None = None,
        **_: object,
    ) -> None:
        self.lock_file, self.timeout = str(lock_file), timeout
        self._on_acquired = on_acquired
        self._descriptor, self._times = -1, 0

    @property
    def is_locked(self) -> bool:
        """Whether this object holds it."""
        return self._times > 0

    def acquire(self, timeout: float | None = None, **_: object) -> "_Held":
        """Wait for it, for ever at a negative timeout."""
        if self._times == 0:
            self._take(self.timeout if timeout is None else timeout)
        self._times += 1
        return _Held(self)

    def _take(self, timeout: float) -> None:
        Path(self.lock_file).parent.mkdir(parents=True, exist_ok=True)
        began, descriptor = time.monotonic(), os.open(self.lock_file, os.O_RDWR | os.O_CREAT)
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if 0 <= timeout <= time.monotonic() - began:
                    os.close(descriptor)
                    raise Timeout(self.lock_file) from None
                time.sleep(POLL_SECONDS)
        self._descriptor = descriptor
        if self._on_acquired is not None:
            self._on_acquired(descriptor)

    def release(self, **_: object) -> None:
        """Let another have it."""
        self._times = max(0, self._times - 1)
        if self._times == 0 and self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> "BaseFileLock":
        self.acquire()
        return self

    def __exit__(self, *error: object) -> None:
        self.release()


class _Held:
    """What acquire returns: released at the end of a with."""

    def __init__(self, lock: BaseFileLock) -> None:
        self.lock = lock

    def __enter__(self) -> BaseFileLock:
        return self.lock

    def __exit__(self, *error: object) -> None:
        self.lock.release()


FileLock = BaseFileLock


class SoftFileLease:
    """Leases, for file systems without flock, need the real package."""

    owner = None

    def __init__(self, path: Path, **_: object) -> None:
        self._path = path

    def acquire(self, **_: object) -> None:
        """Refuse."""
        raise OSError(f"{self._path}: a lease needs filelock 4.1.2 or newer")
