"""Faults that a child injects into itself: something happens at a call of a product function.

    run_child(config, at_step(8, Kill()))      # after 7 steps
    run_child(config, At("torch:save", Kill(), mentions="step_00000014", when="after"))

A fault that never strikes leaves a run that completes, so tests assert the exit code.
"""

import functools
import importlib
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

STEP = "train.engine.engine:Engine.advance"
"""Called once per step of a run that logs every step, with nothing of the step done yet."""

EVERY = 0
"""`call` of a fault that strikes at each call."""


@dataclass(frozen=True)
class At:
    """Patch `target` so that `action` happens at one of its calls, or at every one."""

    target: str
    """`module:name` or `module:Class.name`, where the product looks the function up."""
    action: Callable[[], object]
    call: int = 1
    """Which call, counted from 1 among those that match; EVERY is each."""
    mentions: str = ""
    """Only calls match of which a path, string or number among the arguments contains this."""
    when: Literal["before", "after"] = "before"

    def __call__(self):
        owner, name = _find(self.target)
        real = getattr(owner, name)
        seen = 0

        @functools.wraps(real)
        def patched(*args, **kwargs):
            nonlocal seen
            matches = self.mentions in _words((*args, *kwargs.values()))
            seen += matches
            strikes = matches and self.call in (EVERY, seen)
            if strikes and self.when == "before":
                self.action()
            result = real(*args, **kwargs)
            if strikes and self.when == "after":
                self.action()
            return result

        setattr(owner, name, patched)


@dataclass(frozen=True)
class Replace:
    """Patch `target` with another function, module-level: a protection that is removed."""

    target: str
    by: Callable[..., Any]

    def __call__(self):
        owner, name = _find(self.target)
        setattr(owner, name, self.by)


@dataclass(frozen=True)
class Send:
    number: signal.Signals

    def __call__(self):
        os.kill(os.getpid(), self.number)


@dataclass(frozen=True)
class Kill(Send):
    number: signal.Signals = signal.SIGKILL


@dataclass(frozen=True)
class Sleep:
    seconds: float

    def __call__(self):
        time.sleep(self.seconds)


@dataclass(frozen=True)
class Hold:
    """The process stops at this point, where the test can see it, until the test lets it go.

    The test waits for `path` to exist, does what it wants, and removes it.
    """

    path: Path

    def __call__(self):
        self.path.touch()
        while self.path.exists():
            time.sleep(0.002)


@dataclass(frozen=True)
class Fail:
    error: Exception

    def __call__(self):
        raise self.error


def at_step(number, action, **changes):
    """Before the update of this number, or of EVERY one."""
    return At(STEP, action, number, **changes)


def kill_after_step(step):
    """Killed when `step` updates and all that belongs to them are done, before the next."""
    return at_step(step + 1, Kill())


def _words(values):
    return " ".join(str(value) for value in values if isinstance(value, str | int | Path))


def _find(target):
    module, _, names = target.partition(":")
    *path, name = names.split(".")
    return functools.reduce(getattr, path, importlib.import_module(module)), name
