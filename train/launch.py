"""Jobs as processes of this machine, a few at once. Their ends are read from run folders.

A launcher that is killed leaves its jobs behind, and they go on: each is bound to its run's lock,
not to its parent. The next launch starts the other runs, waits for those jobs while they live, and
takes over the runs of those that die unfinished.
"""

import os
import signal
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from train.config import MachineConfig
from train.errors import InfrastructureError
from train.jobs import Job, JobEnd, read_end
from train.retries import RETRIES
from train.signals import stop_requests
from train.slots import job_slots
from train.study_progress import StudyProgress

STUDY_JOB = "WINDTUNNEL_STUDY_JOB"
"""Set for jobs that a study launched: they write their output to their run's job.log."""

JOB_COMMAND = (sys.executable, "-m", "train")

POLL_SECONDS = 0.2
HELD_SECONDS = 5.0
"""How long a run is left alone whose job was refused its lock, or was found to be held."""


def launch_local(jobs: Sequence[Job], config: DictConfig) -> dict[str, JobEnd]:
    """Run `python -m train <overrides>` for every job, machine.workers at once.

    A job that fails or is killed costs no other; it is started again as retries.RETRIES allows. A
    signal to stop is passed on, and the jobs have saved their state when this returns by raising.

    Args:
        jobs: In the order in which they start.
        config: The composed config, with Hydra's own node.

    Returns:
        How the last process of each job ended, by run_id.

    Raises:
        InterruptedByUserError, PreemptedError: A signal asked for a stop.
        InfrastructureError: The machine starts no more processes.
    """
    machine = OmegaConf.to_object(config.machine)
    assert isinstance(machine, MachineConfig)
    study_folder = Path(config.paths.runs) / config.study.name
    with stop_requests() as stop, StudyProgress(study_folder) as progress:
        launch = _Launch(jobs, job_slots(machine), _config_dir_words(config), progress)
        try:
            while launch.is_open():
                launch.advance(may_start=not stop)
                progress.refresh(n_elsewhere=len(launch.elsewhere))
                if stop:
                    raise stop.error("with jobs under way")
                time.sleep(POLL_SECONDS)
            progress.refresh(n_elsewhere=0, now=True)
        finally:  # whatever happens here, no job is left behind
            launch.stop_all(stop.signal or signal.SIGTERM)
    return launch.ends


@dataclass(frozen=True, kw_only=True)
class _Started:
    """A job under way: its slot, and how many rows its run had before."""

    job: Job
    slot: dict[str, str]
    rows_before: int


class _Launch:
    """Where every job of a launch is: waiting, running, held by another process, or ended."""

    def __init__(
        self,
        jobs: Sequence[Job],
        slots: Sequence[dict[str, str]],
        extra: list[str],
        progress: StudyProgress,
    ) -> None:
        self.waiting = deque(jobs)
        self.free = list(slots)
        self.extra = extra
        self.progress = progress
        self.running: dict[subprocess.Popen[bytes], _Started] = {}
        self.elsewhere: dict[str, tuple[Job, float]] = {}
        """By run_id, with the time of the next look."""
        self.ends: dict[str, JobEnd] = {}
        self.retried: Counter[tuple[str, str]] = Counter()
        """Starts beyond the first, by run_id and cause."""

    def is_open(self) -> bool:
        """Whether any job is not at its end."""
        return bool(self.waiting or self.running or self.elsewhere)

    def advance(self, *, may_start: bool) -> None:
        """Look once at everything: collect what ended, take over what is free, fill the slots."""
        for process in [process for process in self.running if process.poll() is not None]:
            self._collect(self.running.pop(process), process.returncode)
        for run_id, (job, look_at) in list(self.elsewhere.items()):
            if time.monotonic() >= look_at and not job.folder.is_locked():
                del self.elsewhere[run_id]
                if not job.is_finished():
                    self.waiting.append(job)
        while self.waiting and self.free and may_start:
            job = self.waiting.popleft()
            if job.folder.is_locked():
                self._leave_alone(job)
            else:
                self._start(job)

    def stop_all(self, number: signal.Signals) -> None:
        """Ask every job to save and stop, and wait for it; a second signal is harmless."""
        for process in self.running:
            process.send_signal(number)
        for process in self.running:
            process.wait()

    def _start(self, job: Job) -> None:
        slot, rows_before = self.free.pop(0), job.rows()
        try:
            process = subprocess.Popen(
                [*JOB_COMMAND, *self.extra, *job.overrides],
                env={**os.environ, **slot, STUDY_JOB: "1"},
                stdin=subprocess.DEVNULL,
            )
        except OSError as error:
            raise InfrastructureError(
                f"no process can be started for {job.run_id} ({error.strerror}); the jobs under "
                f"way were asked to save and stop; the same command continues"
            ) from None
        self.running[process] = _Started(job=job, slot=slot, rows_before=rows_before)

    def _collect(self, started: _Started, exit_code: int) -> None:
        """Free the slot, and start the run again where its end allows that."""
        job = started.job
        self.free.append(started.slot)
        end = read_end(job, rows_before=started.rows_before, exit_code=exit_code)
        if end.cause == "locked":
            self._leave_alone(job)
            return
        self.ends[job.run_id] = end
        if end.cause is None:
            return
        limit, key = RETRIES.get(end.cause, 0), (job.run_id, end.cause)
        if self.retried[key] < limit:
            self.retried[key] += 1
            self.progress.say(
                f"{job.run_id}: {end}; starting it again ({self.retried[key]} of {limit})"
            )
            self.waiting.append(job)

    def _leave_alone(self, job: Job) -> None:
        self.elsewhere[job.run_id] = job, time.monotonic() + HELD_SECONDS


def _config_dir_words(config: DictConfig) -> list[str]:
    """Pass --config-dir on, so that jobs find the user's own configs."""
    for source in config.hydra.runtime.config_sources:
        if source.provider == "command-line":
            return ["--config-dir", source.path]
    return []
