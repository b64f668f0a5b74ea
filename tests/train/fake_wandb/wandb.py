"""A fake wandb for the mirror process, found first on its PYTHONPATH.

Each call is appended to $FAKE_WANDB_CALLS as a JSON line. $FAKE_WANDB_FAULTS, also JSON, maps the
n-th call of a kind ("init online", "log 3", "finish 1") to a fault: raise, hang, die or stop.
"""

import json
import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

if os.environ.get("FAKE_WANDB_HANGS_AT_IMPORT"):
    time.sleep(3_600)

_counts = Counter()


def _call(kind, number=None, **what):
    _counts[kind] += 1
    with Path(os.environ["FAKE_WANDB_CALLS"]).open("a", encoding="utf-8") as file:
        file.write(json.dumps({"call": kind, "pid": os.getpid(), **what}, default=str) + "\n")
    faults = json.loads(os.environ.get("FAKE_WANDB_FAULTS", "{}"))
    fault = faults.get(f"{kind} {number or _counts[kind]}")
    if fault == "raise":
        raise RuntimeError(f"{kind} is broken")
    if fault == "hang":
        time.sleep(3_600)
    if fault == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)


class Settings(dict[str, Any]):
    """Accepts every setting."""


class Summary:
    def update(self, values):
        _call("summary", values=values)


class Run:
    def __init__(self):
        self.summary = Summary()

    def define_metric(self, name, **named):
        _call("define_metric", name=name, named=named)

    def log(self, values):
        _call("log", values=values)

    def finish(self, **named):
        _call("finish", named=named)


def init(**words):
    sys.stdout.write("wandb speaks on standard output\n")
    _call("init", words["mode"], words=words)
    if words["mode"] == "online" and not os.environ.get("WANDB_API_KEY"):
        raise ValueError("No API key configured.")
    return Run()
