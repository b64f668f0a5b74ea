"""S6: a terminal that is closed, or a pipe that nobody reads, while a run writes to it."""

import errno
import io
import os
import signal
import sys
from collections.abc import Callable

import pytest

from faults.runner import run_folder, run_here, start_steps
from faults.same_run import assert_same_run
from faults.spoil import STEP, replace_step
from train.config.schema import Config
from train.engine.engine import Engine
from train.errors import PreemptedError, StorageError
from train.run_folder.run_folder import RunFolder
from train.training.progress import RunProgress

Tiny = Callable[..., Config]


class Terminal(io.StringIO):
    """Standard error until its window is closed."""

    is_gone = False

    def write(self, text: str) -> int:
        """Refuse as the kernel does, once it is gone."""
        if self.is_gone:
            raise OSError(errno.EIO, "Input/output error")
        return super().write(text)


def hang_up(patch: pytest.MonkeyPatch) -> None:
    """During step 20 the terminal goes away, and the kernel says so."""
    terminal, seen = Terminal(), 0
    patch.setattr("train.training.progress.LOG_SECONDS", -1.0)  # a line at every row
    patch.setattr(sys, "stderr", terminal)

    def step(engine: Engine) -> None:
        nonlocal seen
        seen += 1
        if seen == 20:
            terminal.is_gone = True
            os.kill(os.getpid(), signal.SIGHUP)
        STEP(engine)

    replace_step(patch, step)


def test_s6_a_closed_terminal_loses_no_step(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, reference_run: RunFolder
) -> None:
    config = tiny()
    with monkeypatch.context() as patch:
        hang_up(patch)
        with pytest.raises(PreemptedError, match="stopped by SIGHUP after step 20"):
            run_here(config)
    assert_same_run(run_here(config), reference_run)
    assert start_steps(run_folder(config)) == [0, 20]


def test_s6_control_a_line_that_cannot_be_printed_comes_before_the_save(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny()
    monkeypatch.setattr(RunProgress, "update", RunProgress._show)
    with monkeypatch.context() as patch:
        hang_up(patch)
        with pytest.raises(StorageError, match="Input/output error"):
            run_here(config)
    run_here(config)
    assert start_steps(run_folder(config)) == [0, 14]
