"""Jobs as processes of this machine, a few at once. Their ends are read from run folders.

A launcher that is killed leaves its jobs behind, and they go on: each is bound to its runs' locks,
not to its parent. The next launch starts the other jobs, waits for those while they live, and takes
over the runs of those that die unfinished.
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
from dataclasses import dataclass, replace
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from train.config.runtime import MachineConfig
from train.errors import InfrastructureError
from train.run_folder.run_folder import utc_now
from train.signals import stop_requests
from train.storage.records import append_jsonl
from train.study.job import Job, JobEnd, needs_more, read_ends
from train.study.launch_times import LaunchTimes
from train.study.progress import StudyProgress
from train.study.retries import RETRIES
from train.study.slots import job_slots

STUDY_JOB = "WINDTUNNEL_STUDY_JOB"
"""Set for jobs that a study launched: they write their output to their runs' job.log."""

JOB_COMMAND = (sys.executable, "-m", "train")

POLL_SECONDS = 0.2
"""Between two looks for signals and at what other processes train; an end is noticed at once."""
END_POLL_SECONDS = 0.02
"""Between two looks for ends where the system does not tell them."""
HELD_SECONDS = 5.0
"""How long a job is left alone that was refused a lock, or one of whose runs is held."""


def launch_local(jobs: Sequence[Job], config: DictConfig) -> dict[str, JobEnd]:
    """Run `python -m train <words>` for every job, machine.workers at once.

    A job that fails or is killed costs no other; what it leaves unfinished is started again as
    retries.RETRIES allows. A signal to stop is passed on, and the jobs have saved their state when
    this returns by raising. What the slots did is printed, and added to the study's launch.jsonl.

    Args:
        jobs: In the order in which they start.
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
        launch = _Launch(jobs, job_slots(machine), _config_dir_words(config), progress)
        try:
            while launch.is_open():
                launch.advance(may_start=not stop)
                launch.look()
                if stop:
                    raise stop.error("with jobs under way")
                wait_for_any(launch.running, POLL_SECONDS)
            progress.refresh(n_elsewhere=0, now=True)
        finally:  # whatever happens here, no job is left behind
            launch.stop_all(stop.signal or signal.SIGTERM)
            if jobs:
                _record(launch, study_folder)
    return launch.ends


@dataclass(frozen=True, kw_only=True)
class _Started:
    """A job under way: its slot, and how many rows its runs had before."""

    job: Job
    slot: dict[str, str]
    rows_before: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class _Elsewhere:
    """A job of which other processes hold some runs, and the time of the next look."""

    job: Job
    n_held: int
    look_at: float


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
        self.elsewhere: list[_Elsewhere] = []
        self.ends: dict[str, JobEnd] = {}
        self.retried: Counter[tuple[str, str]] = Counter()
        """Starts beyond the first, by run_id and cause."""
        self.times = LaunchTimes(n_slots=len(slots))
        self.n_jobs = 0
        self.run_ids: set[str] = set()
        """Of the jobs that were started."""

    def is_open(self) -> bool:
        """Whether any job is not at its end."""
        return bool(self.waiting or self.running or self.elsewhere)

    def advance(self, *, may_start: bool) -> None:
        """Look once at everything: collect what ended, take over what is free, fill the slots."""
        self._count_time()
        for process in [process for process in self.running if process.poll() is not None]:
            self._collect(self.running.pop(process), process.returncode)
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

    def look(self) -> None:
        """Show how far the study is; jobs that end meanwhile are noticed late."""
        began = time.monotonic()
        self.progress.refresh(n_elsewhere=sum(held.n_held for held in self.elsewhere))
        n_ended = sum(process.poll() is not None for process in self.running)
        self._count_time()
        self.times.notice_late(
            n_ended=n_ended, n_waiting=len(self.waiting), seconds=time.monotonic() - began
        )

    def stop_all(self, number: signal.Signals) -> None:
        """Ask every job to save and stop, and wait for it; a second signal is harmless."""
        for process in self.running:
            process.send_signal(number)
        for process in self.running:
            process.wait()
        self._count_time()

    def _count_time(self) -> None:
        self.times.count(n_running=len(self.running), n_waiting=len(self.waiting))

    def _start(self, job: Job) -> None:
        slot, rows_before = self.free.pop(0), job.rows()
        try:
            process = subprocess.Popen(
                [*JOB_COMMAND, *self.extra, *job.words],
                env={**os.environ, **slot, STUDY_JOB: "1"},
                stdin=subprocess.DEVNULL,
            )
        except OSError as error:
            raise InfrastructureError(
                f"no process can be started for {job} ({error.strerror}); the jobs under "
                f"way were asked to save and stop; the same command continues"
            ) from None
        self.times.count(n_running=len(self.running), n_waiting=len(self.waiting) + 1)
        self.running[process] = _Started(job=job, slot=slot, rows_before=rows_before)
        self.n_jobs += 1
        self.run_ids.update(job.run_ids)

    def _collect(self, started: _Started, exit_code: int) -> None:
        """Free the slot, and start again what the job left unfinished where its end allows that."""
        job = started.job
        self.free.append(started.slot)
        ends = read_ends(job, rows_before=started.rows_before, exit_code=exit_code)
        more = [name for name, end in ends.items() if needs_more(end)]
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
        """Whether a run may start again after its last end; that start is counted."""
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
    """Return when one of the processes has ended, or after `seconds`, without burning the CPU."""
    if any(process.returncode is not None for process in processes):
        return
    ends: list[int] = []
    try:
        ends.extend(os.pidfd_open(process.pid) for process in processes)
        poll = select.poll()
        for end in ends:
            poll.register(end, select.POLLIN)
        poll.poll(1000 * seconds)
    except (AttributeError, OSError):  # not on Linux, or an old one
        time.sleep(min(seconds, END_POLL_SECONDS))
    finally:
        for end in ends:
            os.close(end)


def _record(launch: _Launch, study_folder: Path) -> None:
    """Say what the slots did, and add it to launch.jsonl."""
    facts = {"jobs": launch.n_jobs, "runs": len(launch.run_ids)}
    row = {"time": utc_now(), "host": socket.gethostname(), **facts, **launch.times.row()}
    launch.progress.say(f"jobs {facts['jobs']}, runs {facts['runs']}; {launch.times}")
    try:
        append_jsonl(study_folder / "launch.jsonl", [row])
    except OSError as error:  # the launch itself is over
        launch.progress.say(f"{study_folder / 'launch.jsonl'}: not written ({error.strerror})")


def _config_dir_words(config: DictConfig) -> list[str]:
    """Pass --config-dir on, so that jobs find the user's own configs."""
    for source in config.hydra.runtime.config_sources:
        if source.provider == "command-line":
            return ["--config-dir", source.path]
    return []
