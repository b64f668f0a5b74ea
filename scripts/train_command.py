"""The real command, `python -m train`, run and timed from outside."""

import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from measurement import LeftOutError

from train.engine.compile import CACHE

REPO = Path(__file__).resolve().parents[1]

TORCH_CACHE = "TORCHINDUCTOR_CACHE_DIR"
"""Set in a process that has compiled something, where it would win over another cache."""


@dataclass(frozen=True)
class Spent:
    """What a command took."""

    wall: float
    """Seconds by the clock on the wall."""
    cpu: float
    """CPU seconds of the command and of every process that it waited for."""


def train(words: Sequence[str], *, folder: Path, cache: Path) -> Spent:
    """Run `python -m train` on synthetic text.

    Args:
        words: Overrides.
        folder: For runs and data.
        cache: Of compiled code and timings.

    Raises:
        LeftOutError: The command failed; its last words are the message.
    """
    command = [sys.executable, "-m", "train", *words, "data=synthetic"]
    command += [f"paths.runs={folder}/runs", f"paths.data={folder}/data"]
    before, began = children_cpu(), time.perf_counter()
    done = subprocess.run(
        command,
        cwd=REPO,
        env=environment(cache),
        capture_output=True,
        text=True,
        check=False,
    )
    spent = Spent(wall=time.perf_counter() - began, cpu=children_cpu() - before)
    if done.returncode:
        raise LeftOutError(f"{' '.join(command)}: exit {done.returncode}\n{done.stderr[-2000:]}")
    return spent


def environment(cache: Path) -> dict[str, str]:
    """Return this process's environment with another cache of compiled code and timings."""
    own = {name: value for name, value in os.environ.items() if name != TORCH_CACHE}
    return {**own, CACHE: str(cache)}


def children_cpu() -> float:
    """CPU seconds of the processes that this one has waited for, and of those they waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
