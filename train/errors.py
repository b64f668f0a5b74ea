"""Every error a user can cause, each with the exit code its command ends with.

A message gives the value, the rule and the nearest right value. Anything else that escapes is a bug
of ours (exit 1, with its traceback).
"""

import difflib
import errno
from collections.abc import Iterable


class WindTunnelError(Exception):
    """Base of all errors that are reported without a traceback."""

    exit_code = 1
    cause = "error"
    """One word for attempts.jsonl, by which retries are counted."""


class ConfigError(WindTunnelError):
    """The request cannot be meant: an unknown key, a broken rule, an impossible budget."""

    exit_code = 2
    cause = "config"


class DataError(WindTunnelError):
    """The text or its token shards are missing, damaged or not what was promised."""

    exit_code = 2
    cause = "data"


class MissingExtraError(WindTunnelError):
    """An optional package is asked for and not installed."""

    exit_code = 2
    cause = "config"

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package}, which is not installed; "
            f"run in the project's folder: "
            f".venv/bin/python -m pip install -c constraints.txt -e '.[{extra}]'"
        )


class StorageError(WindTunnelError):
    """A disk is full, read-only or gone."""

    exit_code = 3
    cause = "storage"


class RecordsError(StorageError):
    """Rows of a run that its checkpoint vouches for are gone or damaged."""


STORAGE_ERRNOS = frozenset(
    (
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EROFS,
        errno.EACCES,
        errno.EPERM,
        errno.EIO,
        errno.EFBIG,
        errno.ESTALE,
        errno.ENOENT,
        errno.ENOTDIR,
        errno.ENAMETOOLONG,
    )
)
"""What a disk says that is full, read-only, failing, unmounted, removed or given a long name."""


def as_storage_error(error: OSError) -> StorageError | None:
    """Say in the user's terms what the disk refused; None when it was not the disk."""
    if error.errno not in STORAGE_ERRNOS:
        return None
    where = error.filename or "a file of the run"
    return StorageError(f"{where}: cannot be written or read ({error.strerror})")


class CheckpointError(WindTunnelError):
    """Checkpoints exist and none of them can be used."""

    exit_code = 4
    cause = "checkpoint"


class DivergedError(WindTunnelError):
    """A loss or gradient stopped being finite. A result, recorded; not fatal to a sweep."""

    exit_code = 5
    cause = "diverged"


class DeviceMemoryError(WindTunnelError):
    """One window at a time does not fit the device's memory."""

    exit_code = 2
    cause = "out_of_memory"


class InfrastructureError(WindTunnelError):
    """The device or the machine failed, not the run; the same command continues."""

    exit_code = 75
    cause = "infrastructure"


class LockedError(WindTunnelError):
    """Another live process owns this run or this study."""

    exit_code = 73
    cause = "locked"


class PreemptedError(WindTunnelError):
    """Stopped by a signal after saving; the same command continues."""

    exit_code = 75
    cause = "preempted"


class InterruptedByUserError(WindTunnelError):
    """Stopped by Ctrl-C after saving; the same command continues."""

    exit_code = 130
    cause = "interrupted"


def _likeness(a: str, b: str) -> float:
    return difflib.SequenceMatcher(None, a, b).ratio()


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """Return '; did you mean X?' for the nearest known names, else the list of them."""
    names = sorted(known)
    near = difflib.get_close_matches(wrong, names, n=3, cutoff=0.6)
    if near:
        best = _likeness(wrong, near[0])
        as_near = [name for name in near if _likeness(wrong, name) > best - 0.1]
        return f"; did you mean {' or '.join(as_near)}?"
    return f"; known: {', '.join(names)}" if names else ""


FULL_MEMORY = ("can't allocate memory", "CUDA error: out of memory", "STATUS_ALLOC_FAILED")
"""What the CPU's allocator, the CUDA driver, and cuBLAS and cuDNN say by a plain RuntimeError."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed; not only torch's own allocator on a GPU says so."""
    if isinstance(error, MemoryError) or _is_named(error, "OutOfMemoryError"):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in FULL_MEMORY)


def is_device_lost(error: BaseException) -> bool:
    """Whether the device failed, not the program; after it, this process cannot compute."""
    is_cuda = _is_named(error, "AcceleratorError") or (
        isinstance(error, RuntimeError) and "CUDA error" in str(error)
    )
    is_bug_of_ours = "device-side assert" in str(error)
    return is_cuda and not is_bug_of_ours and not is_out_of_memory(error)


def _is_named(error: BaseException, name: str) -> bool:
    """Whether it is torch's exception of that name; this module does not import torch."""
    return any(kind.__name__ == name for kind in type(error).__mro__)
