"""One CPU thread per process, for benchmarks."""

import os
import sys

VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def restart_with_one_thread() -> None:
    """Start this script again with one thread, unless it runs with one already.

    NumPy and torch read the variables once, when they are imported, so setting them here is too
    late.
    """
    if any(os.environ.get(name) != "1" for name in VARIABLES):
        environment = {**os.environ, **dict.fromkeys(VARIABLES, "1")}
        os.execve(sys.executable, [sys.executable, *sys.argv], environment)  # noqa: S606
