"""Errors that users can cause, each with its exit code; any other exception is a bug (exit 1).

A message names the value, the rule and the nearest valid value.
"""

import difflib
import errno
from collections.abc import Iterable


class WindTunnelError(Exception):
    """Base class; reported as a message without traceback."""

    exit_code = 1
    cause = "error"
    """Cause in attempts.jsonl; retries depend on it."""


class ConfigError(WindTunnelError):
    """The config is invalid: an unknown key, a broken rule, an impossible budget."""

    exit_code = 2
    cause = "config"


class DataError(WindTunnelError):
    """The text or its token shards are missing, damaged, or differ from the manifest."""

    exit_code = 2
    cause = "data"


class MissingExtraError(WindTunnelError):
    """An optional package is needed but not installed."""

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
    """Rows before the checkpoint of a run are missing or damaged."""


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
"""Errors of a disk that is full, read-only, failing or gone, and of a name too long."""


def as_storage_error(error: OSError) -> StorageError | None:
    """Convert an OSError; None if its errno is not in STORAGE_ERRNOS."""
    if error.errno not in STORAGE_ERRNOS:
        return None
    where = error.filename or "a file of the run"
    return StorageError(f"{where}: cannot be written or read ({error.strerror})")


class CheckpointError(WindTunnelError):
    """Checkpoints exist, but none is usable."""

    exit_code = 4
    cause = "checkpoint"


class DivergedError(WindTunnelError):
    """A loss or gradient was not finite: a recorded result, after which a sweep continues."""

    exit_code = 5
    cause = "diverged"


class DeviceMemoryError(WindTunnelError):
    """The job needs more memory than its device has."""

    exit_code = 2
    cause = "out_of_memory"


class InfrastructureError(WindTunnelError):
    """The device or machine failed, not the run. The same command continues the run."""

    exit_code = 75
    cause = "infrastructure"


class LockedError(WindTunnelError):
    """Another live process holds the lock of the run or study."""

    exit_code = 73
    cause = "locked"


class PreemptedError(WindTunnelError):
    """Stopped by a signal, after saving. The same command continues the run."""

    exit_code = 75
    cause = "preempted"


class InterruptedByUserError(WindTunnelError):
    """Stopped by Ctrl-C, after saving. The same command continues the run."""

    exit_code = 130
    cause = "interrupted"


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """Return '; did you mean X?' with similar names, or the list of all names."""
    names = sorted(known)
    near = difflib.get_close_matches(wrong, names, n=3, cutoff=0.6)
    if near:
        ratios = [difflib.SequenceMatcher(None, wrong, name).ratio() for name in near]
        as_near = [
            name for name, ratio in zip(near, ratios, strict=True) if ratio > ratios[0] - 0.1
        ]
        return f"; did you mean {' or '.join(as_near)}?"
    return f"; known: {', '.join(names)}" if names else ""


OUT_OF_MEMORY_TEXTS = ("can't allocate memory", "CUDA error: out of memory", "STATUS_ALLOC_FAILED")
"""Texts of a RuntimeError of the CPU allocator, the CUDA driver, and cuBLAS or cuDNN."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on the host or on the device."""
    if isinstance(error, MemoryError) or _is_named(error, "OutOfMemoryError"):
        return True
    return isinstance(error, RuntimeError) and any(
        text in str(error) for text in OUT_OF_MEMORY_TEXTS
    )


def is_device_lost(error: BaseException) -> bool:
    """Whether the CUDA device failed, not the program; this process can then not continue."""
    is_cuda = _is_named(error, "AcceleratorError") or (
        isinstance(error, RuntimeError) and "CUDA error" in str(error)
    )
    is_bug = "device-side assert" in str(error)
    return is_cuda and not is_bug and not is_out_of_memory(error)


def _is_named(error: BaseException, name: str) -> bool:
    """Whether `error` is an instance of a class with this name; torch is not imported here."""
    return any(kind.__name__ == name for kind in type(error).__mro__)
