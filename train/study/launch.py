"""Run jobs as processes of this machine, one per slot; how they ended is read from run folders.

The jobs of a launcher that is killed continue: each depends on its runs' locks, not on its parent.
The next launch starts the other jobs, waits for those while they live, and takes over the runs of
those that die unfinished.
"""

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from train.config.compose import CONFIG_ROOT
from train.config.runtime import MachineConfig
from train.errors import InfrastructureError
from train.run_folder.run_folder import utc_now
from train.signals import stop_requests
from train.storage.records import append_jsonl
from train.study.job import RETRIES, Job, JobEnd, read_ends
from train.study.progress import StudyProgress
from train.study.slots import job_slots

STUDY_JOB = "WINDTUNNEL_STUDY_JOB"
"""Environment variable of launched jobs: they write their output to their run's job.log."""

JOB_COMMAND = (sys.executable, "-m", "train")

CONFIG_NAME = "train"
"""The root config that `python -m train` takes by itself."""

OF_THE_SWEEP = (
    "hydra.mode",
    "hydra.run",
    "hydra.sweep",
    "hydra/sweep",
    "hydra.launch",
    "hydra/launch",
)
"""Overrides of Hydra's that are not passed on to the jobs of a sweep."""

POLL_SECONDS = 0.2
"""Interval of looks at signals and other processes' locks; a job's end is noticed at once."""
END_POLL_SECONDS = 0.02
"""Interval of looks for ended jobs on systems without pidfd."""
HELD_SECONDS = 5.0
"""Seconds before the next look at a job that was refused a lock or has a run that is held."""


def launch_local(jobs: Sequence[Job], config: DictConfig) -> dict[str, JobEnd]:
    """Run `python -m train <words>` for every job, machine.workers at once.

    A job that fails or is killed does not affect the others; its unfinished runs are retried as
    job.RETRIES allows. A signal to stop is passed on to the jobs, which save before this raises.
    Slot usage is printed and added to the study's launch.jsonl.

    Args:
        jobs: In starting order.
        config: The composed config, with Hydra's own node.

    Returns:
        How the last process of each run ended, by run_id.

    Raises:
        InterruptedByUserError, PreemptedError: A signal asked for a stop.
        InfrastructureError: The machine starts no more processes.
    """
    machine = OmegaConf.to_object(config.machine)
    assert isinstance(machine, MachineConfig)
    study_folder = Path(config.paths.runs) / config.study.name
    with stop_requests() as stop, StudyProgress(study_folder) as progress:
        launch = _Launch(jobs, job_slots(machine), _hydra_words(config), progress)
        try:
            while launch.is_open():
                launch.advance(may_start=not stop)
                launch.show_progress()
                if stop:
                    raise stop.error("with jobs under way")
                wait_for_any(launch.running, POLL_SECONDS)
            progress.refresh(n_elsewhere=0, now=True)
        finally:
            # no job is left behind, whatever was raised
            launch.stop_all(stop.signal or signal.SIGTERM)
            if jobs:
                launch.record(study_folder)
    return launch.ends


@dataclass(frozen=True, kw_only=True)
class _Started:
    """A running job, its slot's environment, and its runs' attempt rows before it started."""

    job: Job
    slot: dict[str, str]
    rows_before: dict[str, int]
    began: float = field(default_factory=lambda: time.monotonic())


@dataclass(frozen=True, kw_only=True)
class _Elsewhere:
    """A job some of whose runs other processes hold, and the time of the next look."""

    job: Job
    n_held: int
    look_at: float


class _Launch:
    """Jobs of a launch by state: waiting, running, held by other processes, ended."""

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
        self.elsewhere: list[_Elsewhere] = []
        self.ends: dict[str, JobEnd] = {}
        self.retried: Counter[tuple[str, str]] = Counter()
        """Retries by run_id and cause."""
        self.n_slots, self.began = len(slots), time.monotonic()
        self.busy_seconds = 0.0
        """Lifetimes of ended job processes."""
        self.n_jobs, self.run_ids = 0, set[str]()
        """Processes started, and the runs in them."""

    def is_open(self) -> bool:
        """Whether any job has not ended."""
        return bool(self.waiting or self.running or self.elsewhere)

    def advance(self, *, may_start: bool) -> None:
        """Collect jobs that ended, take over runs that are no longer held, fill free slots."""
        for process in [process for process in self.running if process.poll() is not None]:
            self._collect(self._ended(process), process.returncode)
        for held in [each for each in self.elsewhere if time.monotonic() >= each.look_at]:
            self.elsewhere.remove(held)
            if n_held := held.job.n_held():
                self.elsewhere.append(replace(held, n_held=n_held))
            elif left := held.job.unfinished():
                self.waiting.append(left)
        while self.waiting and self.free and may_start:
            job = self.waiting.popleft()
            if n_held := job.n_held():
                self._leave_alone(job, n_held)
            else:
                self._start(job)

    def show_progress(self) -> None:
        """Show how much of the study is done."""
        self.progress.refresh(n_elsewhere=sum(held.n_held for held in self.elsewhere))

    def stop_all(self, number: signal.Signals) -> None:
        """Signal every job to save and stop, and wait for it; a second signal is harmless."""
        for process in self.running:
            process.send_signal(number)
        for process in list(self.running):
            process.wait()
            self._ended(process)

    def record(self, study_folder: Path) -> None:
        """Print the launch's slot usage, and add it to launch.jsonl."""
        seconds = time.monotonic() - self.began
        row = {
            "time": utc_now(),
            "host": socket.gethostname(),
            "jobs": self.n_jobs,
            "runs": len(self.run_ids),
            "slots": self.n_slots,
            "seconds": round(seconds, 3),
            "busy_seconds": round(self.busy_seconds, 3),
        }
        self.progress.say(
            f"jobs {self.n_jobs}, runs {len(self.run_ids)}; {seconds:.1f} s on {self.n_slots} slot"
            f"{'s' if self.n_slots > 1 else ''}, {self.busy_seconds / self.n_slots / seconds:.1%} "
            f"busy"
        )
        try:
            append_jsonl(study_folder / "launch.jsonl", [row])
        except OSError as error:
            # nothing depends on this file
            self.progress.say(f"{study_folder / 'launch.jsonl'}: not written ({error.strerror})")

    def _start(self, job: Job) -> None:
        started = _Started(job=job, slot=self.free.pop(0), rows_before=job.rows())
        try:
            process = subprocess.Popen(
                [*JOB_COMMAND, *self.extra, *job.words],
                env={**os.environ, **started.slot, STUDY_JOB: "1"},
                stdin=subprocess.DEVNULL,
            )
        except OSError as error:
            raise InfrastructureError(
                f"no process can be started for {job} ({error.strerror}); the jobs under "
                f"way were asked to save and stop; the same command continues"
            ) from None
        self.running[process] = started
        self.n_jobs += 1
        self.run_ids.update(job.run_ids)

    def _ended(self, process: subprocess.Popen[bytes]) -> _Started:
        """Take an ended process off the running ones."""
        started = self.running.pop(process)
        self.busy_seconds += time.monotonic() - started.began
        return started

    def _collect(self, started: _Started, exit_code: int) -> None:
        """Free the slot; queue the job's unfinished runs again where their cause allows it."""
        job = started.job
        self.free.append(started.slot)
        ends = read_ends(job, rows_before=started.rows_before, exit_code=exit_code)
        more = [name for name, end in ends.items() if not end.is_final]
        is_locked = any(end.cause == "locked" for end in ends.values())
        if is_locked and (held := job.only(more)):
            self.ends.update({name: end for name, end in ends.items() if name not in more})
            self._leave_alone(held, 1)
            return
        self.ends.update(ends)
        again = [name for name in more if self._may_retry(name)]
        if left := job.only(again):
            end = ends[again[0]]
            assert end.cause is not None
            count, limit = self.retried[again[0], end.cause], RETRIES[end.cause]
            them = "it" if len(again) == 1 else "them"
            self.progress.say(f"{left}: {end}; starting {them} again ({count} of {limit})")
            self.waiting.append(left)

    def _may_retry(self, run_id: str) -> bool:
        """Whether a run may start again after its last end; counts the retry."""
        cause = self.ends[run_id].cause
        assert cause is not None
        if self.retried[run_id, cause] >= RETRIES.get(cause, 0):
            return False
        self.retried[run_id, cause] += 1
        return True

    def _leave_alone(self, job: Job, n_held: int) -> None:
        look_at = time.monotonic() + HELD_SECONDS
        self.elsewhere.append(_Elsewhere(job=job, n_held=n_held, look_at=look_at))


def wait_for_any(processes: Collection[subprocess.Popen[bytes]], seconds: float) -> None:
    """Sleep until one of the processes has ended, or for `seconds`."""
    if any(process.returncode is not None for process in processes):
        return
    ends: list[int] = []
    try:
        ends.extend(os.pidfd_open(process.pid) for process in processes)
        poll = select.poll()
        for end in ends:
            poll.register(end, select.POLLIN)
        poll.poll(1000 * seconds)
    except (AttributeError, OSError):  # macOS, or a Linux before 5.3
        time.sleep(min(seconds, END_POLL_SECONDS))
    finally:
        for end in ends:
            os.close(end)


def _hydra_words(config: DictConfig) -> list[str]:
    """Hydra's own options and overrides that a job composes its config with."""
    options = {"main": "--config-path", "command-line": "--config-dir"}
    words = []
    for source in config.hydra.runtime.config_sources:
        if source.provider in options and source.path != str(CONFIG_ROOT):
            words += [options[source.provider], source.path]
    name = config.hydra.job.config_name
    if name != CONFIG_NAME:
        words += ["--config-name", name]
    overrides = config.hydra.overrides.hydra
    words += [word for word in overrides if not word.lstrip("+~").startswith(OF_THE_SWEEP)]
    if "hydra.mode=MULTIRUN" not in overrides:
        # a config file made this a sweep, and would make one of each job
        words.append("hydra.mode=RUN")
    if config.hydra.run.dir != ".":
        # of a single job; the paths of a study start from the command's folder
        words.append("hydra.run.dir=.")
    return words
