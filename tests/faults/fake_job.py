"""Stands in for `python -m train` under a launcher: the real lock and the real records, no torch.

    python fake_job.py folder=runs/s/r acts=killed,completed

Each start does the next act: completed, killed (SIGKILL in mid-run), raised, exited (SystemExit),
infrastructure, preempted, diverged, dead (an import error: before any row), vanished (its folder is
removed under it), or `wait:PATH` (trains until PATH is gone, then completes).

The runs of `together=['r2',...]` begin with the first, and share its fate unless a file
`<run_id>.act` beside the folders says that one of them is `completed` or `diverged` before that.
"""

import contextlib
import os
import re
import shutil
import signal
import sys
import time
from pathlib import Path

from train.errors import (
    DivergedError,
    InfrastructureError,
    PreemptedError,
    WindTunnelError,
    as_storage_error,
)
from train.run_folder.run_folder import RunFolder
from train.storage.records import write_json

STEPS = 10
STARTED = "started"
"""File beside the run folders with a line per start: `<run_id> <act>`."""

ERRORS = {
    "raised": ZeroDivisionError("a bug"),
    "exited": SystemExit(7),
    "infrastructure": InfrastructureError("the device failed; the same command continues"),
    "preempted": PreemptedError("stopped by SIGTERM; the same command continues"),
    "diverged": DivergedError("step 4: loss nan"),
}


def run(folders, act):
    """Train, as far as the act lets it."""
    attempts = {}
    for folder in folders:
        if folder.state() not in ("completed", "diverged"):
            attempts[folder] = folder.attempt_number() + 1
            folder.log_attempt("start", attempt=attempts[folder])
            folder.write_status("running", step=4, total_steps=STEPS, seconds=1.0)
    if not attempts:
        return
    diverged = end_some_early(attempts)
    name, _, argument = act.partition(":")
    try:
        if name == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if name == "vanished":
            shutil.rmtree(folders[0].path)
        while name == "wait" and Path(argument).exists():
            time.sleep(0.01)
        if name in ERRORS:
            raise ERRORS[name]
        for folder, attempt in attempts.items():
            complete(folder, attempt)
    except BaseException as error:
        for folder, attempt in attempts.items():
            fail(folder, attempt, error)
        raise
    if diverged:
        raise ERRORS["diverged"]


def end_some_early(attempts):
    """End the runs that have a file of their own, and say whether one diverged."""
    diverged = False
    for folder, attempt in list(attempts.items()):
        own = folder.path.with_name(f"{folder.path.name}.act")
        if own.exists():
            del attempts[folder]
            if own.read_text(encoding="utf-8") == "diverged":
                fail(folder, attempt, ERRORS["diverged"])
                diverged = True
            else:
                complete(folder, attempt)
    return diverged


def complete(folder, attempt):
    write_json(folder.result, {"row": {"loss": 2.0}})
    folder.log_attempt("end", attempt=attempt, state="completed", cause=None)
    folder.write_status("completed", step=STEPS, total_steps=STEPS, seconds=2.0)


def fail(folder, attempt, error):
    known = as_storage_error(error) if isinstance(error, OSError) else error
    cause = known.cause if isinstance(known, WindTunnelError) else "bug"
    state = {"preempted": "preempted", "diverged": "diverged"}.get(cause, "failed")
    code = known.exit_code if isinstance(known, WindTunnelError) else 1
    if folder.path.exists():
        folder.write_status(state, reason=str(known), step=4, seconds=1.0, exit_code=code)
        folder.log_attempt("end", attempt=attempt, state=state, cause=cause)


def main():
    words = dict(word.split("=", 1) for word in sys.argv[1:])
    folder, acts = RunFolder(Path(words["folder"])), words["acts"].split(",")
    together = re.findall(r"'([^']+)'", words.get("together", ""))
    folders = [folder, *(RunFolder(folder.path.with_name(name)) for name in together)]
    log = folder.path.parent / STARTED
    earlier = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    n_before = sum(line.split()[0] == folder.path.name for line in earlier)
    act = acts[min(n_before, len(acts) - 1)]
    with log.open("a", encoding="utf-8") as file:
        file.write(" ".join([folder.path.name, act, *together]) + "\n")
    if act == "dead":
        raise ImportError("no module named torch")
    try:
        with contextlib.ExitStack() as locks:
            for each in folders:
                locks.enter_context(each.locked())
            run(folders, act)
    except WindTunnelError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    except OSError as error:
        storage = as_storage_error(error)
        sys.stderr.write(f"error: {storage}\n")
        return storage.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
