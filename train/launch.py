"""Jobs as processes of this machine, a few at once. Their ends are read from run folders."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from train.config import MachineConfig
from train.signals import stop_requests
from train.slots import job_slots
from train.status import study_status

STUDY_JOB = "WINDTUNNEL_STUDY_JOB"
"""Set for jobs that a study launched: they write their output to their run's job.log."""

POLL_SECONDS = 0.2
STATUS_SECONDS = 2.0
LINE_SECONDS = 20.0


def launch_local(jobs: list[list[str]], config: DictConfig) -> None:
    """Run `python -m train <overrides>` for every job, machine.workers at once.

    A job that fails or is killed costs no other. A signal to stop is passed on, and the jobs have
    saved their state when this returns by raising.

    Args:
        jobs: Overrides of each job, in the order in which they start.
        config: The composed config, with Hydra's own node.

    Raises:
        InterruptedByUserError, PreemptedError: A signal asked for a stop.
    """
    machine = OmegaConf.to_object(config.machine)
    assert isinstance(machine, MachineConfig)
    study_folder = Path(config.paths.runs) / config.study.name
    extra = _config_dir_words(config)
    waiting, free = list(jobs), job_slots(machine)
    running: dict[subprocess.Popen[bytes], dict[str, str]] = {}
    with stop_requests() as stop, _StudyProgress(study_folder) as progress:
        try:
            while waiting or running:
                while waiting and free and not stop:
                    slot = free.pop(0)
                    running[_start(waiting.pop(0), extra, slot)] = slot
                for process in [process for process in running if process.poll() is not None]:
                    free.append(running.pop(process))
                progress.refresh()
                if stop:
                    raise stop.error("with jobs under way")
                time.sleep(POLL_SECONDS)
            progress.refresh(now=True)
        finally:  # whatever happens here, no job is left behind
            _stop_all(running, stop.signal or signal.SIGTERM)


def _start(overrides: list[str], extra: list[str], slot: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "train", *extra, *overrides],
        env={**os.environ, **slot, STUDY_JOB: "1"},
        stdin=subprocess.DEVNULL,
    )


def _config_dir_words(config: DictConfig) -> list[str]:
    """Pass --config-dir on, so that jobs find the user's own configs."""
    for source in config.hydra.runtime.config_sources:
        if source.provider == "command-line":
            return ["--config-dir", source.path]
    return []


def _stop_all(running: Iterable[subprocess.Popen[bytes]], number: signal.Signals) -> None:
    """Ask every job to save and stop, and wait for it; a second signal is harmless."""
    for process in running:
        process.send_signal(number)
    for process in running:
        process.wait()


class _StudyProgress:
    """Share of the study's FLOPs, runs done, and the time left at the rate of this launch."""

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
        self._looked = self._last_line = -LINE_SECONDS

    def __enter__(self) -> "_StudyProgress":
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def refresh(self, *, now: bool = False) -> None:
        """Read the run folders every few seconds and show the sum."""
        clock = time.monotonic()
        if not now and clock - self._looked < STATUS_SECONDS:
            return
        self._looked = clock
        runs = study_status(self._folder)
        total = sum(run.flops for run in runs)
        share = sum(run.flops * run.share for run in runs) / max(1, total)
        if self._began_share is None:
            self._began_share = share
        done = sum(run.state in ("completed", "diverged") for run in runs)
        facts = f"{done}/{len(runs)} runs"
        gained = share - self._began_share
        if gained > 0.01:
            facts += f"  {(clock - self._began) / gained * (1 - share):.0f} s left"
        self._bar.update(self._task, completed=share, facts=facts)
        if self._bar.disable and (now or clock - self._last_line >= LINE_SECONDS):
            self._last_line = clock
            line = f"{self._folder.name}  {share:4.0%} of FLOPs  {facts}"
            self._console.print(line, highlight=False, soft_wrap=True)
