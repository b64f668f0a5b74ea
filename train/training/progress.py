"""What a person sees of one job: a live line on a terminal, a line now and then in a log."""

import contextlib
import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column

from train.plan.identity import short_count

LOG_SECONDS = 20.0
"""Seconds between lines when there is no terminal."""


def _shortened(*, ratio: int) -> Column:
    """A column that gives way where a line is narrow: numbers are not to be pushed out of it."""
    return Column(ratio=ratio, no_wrap=True, overflow="ellipsis")


class RunProgress:
    """Steps done, loss, tokens/s, MFU and time left."""

    def __init__(
        self, run_id: str, *, total_steps: int, start_step: int, is_shown: bool = True
    ) -> None:
        self._console = Console(file=sys.stderr, quiet=not is_shown)
        self._run_id, self._total, self._start = run_id, total_steps, start_step
        self._began = self._last_line = time.monotonic()
        self._bar = Progress(
            TextColumn("{task.description}", table_column=_shortened(ratio=2)),
            BarColumn(bar_width=10),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[facts]}", table_column=_shortened(ratio=3)),
            console=self._console,
            expand=True,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task(run_id, total=total_steps, completed=start_step, facts="")

    def prepare(self, what: str) -> None:
        """Say what goes on before the first step, which may take a while."""
        with contextlib.suppress(OSError, ValueError):
            self._bar.update(self._task, facts=what)
            if self._bar.disable:
                self._console.print(f"{self._run_id}  {what}", highlight=False, soft_wrap=True)

    def begin(self) -> None:
        """The first step is next: time left is reckoned from here."""
        self._began = time.monotonic()
        self._bar.reset(self._task, completed=self._start, total=self._total, facts="")

    def __enter__(self) -> Self:
        with contextlib.suppress(OSError, ValueError):
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._bar.stop()

    def update(self, step: int, row: Mapping[str, Any]) -> None:
        """Show where the run is; `row` is a row of metrics.jsonl.

        A terminal that was closed, or a pipe that nobody reads, is no reason to stop a run.
        """
        with contextlib.suppress(OSError, ValueError):
            self._show(step, row)

    def _show(self, step: int, row: Mapping[str, Any]) -> None:
        speed = short_count(row["tokens_per_second"])
        facts = f"train loss {row['loss']:.4f}  {speed} tokens/s  mfu {row['mfu']:.0%}"
        self._bar.update(self._task, completed=step, facts=facts)
        now = time.monotonic()
        if self._bar.disable and (now - self._last_line > LOG_SECONDS or step == self._total):
            self._last_line = now
            left = (now - self._began) / max(1, step - self._start) * (self._total - step)
            self._console.print(
                f"{self._run_id}  step {step}/{self._total}  {facts}  {left:.0f} s left",
                highlight=False,
                soft_wrap=True,
            )
