"""`python -m train` as a process, timed from outside."""

import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.measurement import LeftOutError
from train.engine.compile import CACHE

REPO = Path(__file__).resolve().parents[2]

TORCH_CACHE = "TORCHINDUCTOR_CACHE_DIR"
"""Overrides our own cache variable. train sets it in a process that has compiled something."""


@dataclass(frozen=True)
class Cost:
    """Time that a command took."""

    wall: float
    """Wall-clock seconds."""
    cpu: float
    """CPU seconds of the command and of all its child processes."""


def train(words: Sequence[str], *, folder: Path, cache: Path) -> Cost:
    """Run `python -m train` on synthetic text.

    Args:
        words: Command-line words.
        folder: Gets the folders runs/ and data/.
        cache: Folder for compiled code and kernel timings.

    Raises:
        LeftOutError: The command failed; the message ends with its standard error.
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
    cost = Cost(wall=time.perf_counter() - began, cpu=children_cpu() - before)
    if done.returncode:
        raise LeftOutError(f"{' '.join(command)}: exit {done.returncode}\n{done.stderr[-2000:]}")
    return cost


def environment(cache: Path) -> dict[str, str]:
    """This process's environment with another cache folder for compiled code and timings."""
    own = {name: value for name, value in os.environ.items() if name != TORCH_CACHE}
    return {**own, CACHE: str(cache)}


def children_cpu() -> float:
    """CPU seconds of all child processes that have ended, their own children included."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
