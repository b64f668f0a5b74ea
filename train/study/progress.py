"""Progress of a launch: share of the study's FLOPs, runs done, and the time left."""

import contextlib
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from train.errors import WindTunnelError
from train.storage.records import FINISHED_STATES
from train.study.run_status import RunStatus, study_status

LOOK_SECONDS = 2.0
"""Least interval between two reads of the run folders."""
LOOK_SHARE = 0.05
"""Largest share of the launcher's time spent on reading them, however many runs there are."""
LINE_SECONDS = 20.0
"""Interval of progress lines where there is no terminal for a bar."""


class StudyProgress:
    """A bar on a terminal, and a line every LINE_SECONDS elsewhere."""

    def __init__(self, study_folder: Path) -> None:
        self._folder = study_folder
        self._console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}% of FLOPs  {task.fields[facts]}"),
            TimeElapsedColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task: TaskID = self._bar.add_task(study_folder.name, total=1.0, facts="")
        self._began = time.monotonic()
        self._began_share: float | None = None
        self._next_look = self._next_line = 0.0
        self._n_elsewhere = 0
        self._runs: list[RunStatus] = []

    def __enter__(self) -> "StudyProgress":
        """Show the bar."""
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Stop the bar and leave it visible."""
        with contextlib.suppress(OSError, ValueError):
            self._bar.stop()

    def say(self, line: str) -> None:
        """Print a line above the bar; a closed terminal stops no job."""
        with contextlib.suppress(OSError, ValueError):
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def refresh(self, *, n_elsewhere: int, now: bool = False) -> None:
        """Read the run folders every few seconds and show the progress.

        Args:
            n_elsewhere: Runs that other processes train.
            now: Whether to read them now, whenever the last time was.
        """
        clock = time.monotonic()
        changed, self._n_elsewhere = n_elsewhere != self._n_elsewhere, n_elsewhere
        if not (now or changed or clock >= self._next_look):
            return
        share, facts = self._facts(n_elsewhere)
        looked = time.monotonic() - clock
        self._next_look = clock + max(LOOK_SECONDS, looked / LOOK_SHARE)
        with contextlib.suppress(OSError, ValueError):
            self._bar.update(self._task, completed=share, facts=facts)
        if self._bar.disable and (now or changed or clock >= self._next_line):
            self._next_line = clock + LINE_SECONDS
            self.say(f"{self._folder.name}  {share:4.0%} of FLOPs  {facts}")

    def _facts(self, n_elsewhere: int) -> tuple[float, str]:
        # a damaged manifest stops no job under way
        with contextlib.suppress(WindTunnelError):
            self._runs = study_status(self._folder)
        runs = self._runs
        total = sum(run.flops for run in runs)
        share = sum(run.flops * run.share for run in runs) / max(1, total)
        if self._began_share is None:
            self._began_share = share
        done = sum(run.state in FINISHED_STATES for run in runs)
        facts = f"{done}/{len(runs)} runs"
        if n_elsewhere:
            trained = "1 run is" if n_elsewhere == 1 else f"{n_elsewhere} runs are"
            facts += f"  {trained} trained by other processes"
        gained = share - self._began_share
        if gained > 0.01:
            seconds = (time.monotonic() - self._began) / gained * (1 - share)
            facts += f"  {seconds:.0f} s left"
        return share, facts
