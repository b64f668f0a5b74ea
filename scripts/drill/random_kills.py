"""SIGKILL processes of a study at random moments, starting it again until it has finished.

Only this study's processes are killed: each carries a unique mark in its environment, which is
checked again, with a pidfd held open, just before the kill.
"""

import contextlib
import math
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from train.storage.records import append_jsonl, read_jsonl
from train.study.launch import STUDY_JOB
from train.study.run_status import study_status

MARK = "WINDTUNNEL_FAULT_DRILL"
POLL_SECONDS = 0.2
LOOK_SECONDS = 2.0
STALL_SECONDS = 900.0
EXPECTED_EXITS = (0, 73, 75, -signal.SIGKILL)
"""Done; locked by an orphaned job; preempted, run it again; killed by the drill."""

KINDS = ("one job", "launcher alone", "launcher with all jobs")
STARTUP_SHARE = 0.1
"""Share of the kills that may also hit while the study is starting and no job trains yet."""


@dataclass(frozen=True)
class Process:
    """One process of the study."""

    pid: int
    started: int
    """Start time in clock ticks since boot; with the pid it identifies a process uniquely."""
    is_job: bool


@dataclass(frozen=True, kw_only=True)
class Victim:
    """A run whose job was killed."""

    run_id: str | None
    """None when the job had not started training."""
    attempt: int = 0
    last_step: int = 0
    """Step of the last logged row, or else the attempt's first step."""


@dataclass(frozen=True, kw_only=True)
class Kill:
    """One SIGKILL of one or more processes."""

    kind: str
    seconds: float
    """Seconds since the storm began."""
    victims: tuple[Victim, ...]


@dataclass(kw_only=True)
class Storm:
    """Runs a study's command under random kills, starting it again until the study has finished."""

    command: Sequence[str]
    folder: Path
    """The study's folder."""
    mark: str
    kills_wanted: int
    seconds_alone: float
    """Seconds that the study takes undisturbed."""
    rng: Random
    say: Callable[["Storm"], None] = lambda storm: None
    kills: list[Kill] = field(default_factory=list)
    launches: int = 0
    unexpected: list[int] = field(default_factory=list)
    """Exit codes that no kill explains."""
    seconds: float = 0.0
    share: float = 0.0
    """Share of the study's planned FLOPs that is done."""
    _began: float = 0.0
    _moved: float = 0.0
    _looked: float = 0.0
    _launcher: "subprocess.Popen[bytes] | None" = None

    def run(self) -> None:
        """Run until the study ends; give up after 5 unexpected exits or 15 idle minutes."""
        self._began = self._moved = time.monotonic()
        try:
            while len(self.unexpected) < 5 and not self._is_stalled():
                code = self._watch(self._launch())
                self.share = share_done(self.folder)
                if code == 0:
                    break
                if code not in EXPECTED_EXITS:
                    self.unexpected.append(code)
                # orphaned jobs still hold the locks of the runs that are left
                if code in (73, 75):
                    time.sleep(1.0)
            self._wait_for_orphans()
        finally:
            self.seconds = time.monotonic() - self._began
            self._end_all()

    def run_until_it_trains(self) -> None:
        """Start the command, and kill all its processes as soon as a job trains."""
        launcher = self._launch()
        try:
            while launcher.poll() is None and not self._training():
                time.sleep(POLL_SECONDS)
        finally:
            self._end_all()

    def processes(self) -> list[Process]:
        """All live processes of the study."""
        pids = (int(name.name) for name in Path("/proc").iterdir() if name.name.isdigit())
        found = (look_up(pid, self.mark) for pid in pids if pid != os.getpid())
        return [process for process in found if process]

    def _launch(self) -> "subprocess.Popen[bytes]":
        self.launches += 1
        with (self.folder / "drill.log").open("ab") as log:
            self._launcher = subprocess.Popen(
                self.command,
                env={**os.environ, MARK: self.mark},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        return self._launcher

    def _watch(self, launcher: "subprocess.Popen[bytes]") -> int:
        """Kill at random moments until the launcher ends; return its exit code."""
        delay, counts_startup = self._draw()
        while launcher.poll() is None and not self._is_stalled():
            nap = min(POLL_SECONDS, delay)
            time.sleep(nap)
            if counts_startup or self._training():
                delay -= nap
            if delay <= 0 and len(self.kills) < self.kills_wanted:
                self._kill(launcher)
                delay, counts_startup = self._draw()
            self._look()
        return launcher.returncode if launcher.returncode is not None else 1

    def _draw(self) -> tuple[float, bool]:
        """Draw the seconds to the next kill, and whether they also run during start-up."""
        left = self.kills_wanted - len(self.kills)
        if left <= 0:
            return math.inf, False
        work = self.seconds_alone * max(0.02, 1 - self.share)
        delay = min(self.rng.expovariate(left / (0.5 * work)), 0.7 * work)
        return max(0.05, delay), self.rng.random() < STARTUP_SHARE

    def _training(self) -> dict[int, list[tuple[str, int, int]]]:
        """Run id, attempt and last logged step of the runs in training, by the pid of their job."""
        found: dict[int, list[tuple[str, int, int]]] = {}
        for path in self.folder.glob("*/attempts.jsonl"):
            last = (read_jsonl(path) or [{}])[-1]
            if last.get("event") == "start":
                rows = read_jsonl(path.parent / "metrics.jsonl")
                step = rows[-1]["step"] if rows else last["start_step"]
                found.setdefault(last["pid"], []).append((path.parent.name, last["attempt"], step))
        alive = {process.pid for process in self.processes()}
        return {pid: facts for pid, facts in found.items() if pid in alive}

    def _kill(self, launcher: "subprocess.Popen[bytes]") -> None:
        everyone = self.processes()
        jobs = [process for process in everyone if process.is_job]
        kind = self.rng.choice(KINDS if jobs else KINDS[1:])
        chosen = {
            "one job": [self.rng.choice(jobs)] if jobs else [],
            "launcher alone": [process for process in everyone if process.pid == launcher.pid],
            "launcher with all jobs": sorted(everyone, key=lambda p: p.pid != launcher.pid),
        }[kind]
        at_work = self._training()
        hit = kill_all(chosen, self.mark)
        # the processes had ended in the meantime
        if not hit:
            return
        dead = [process for process in hit if process.is_job]
        victims = [victim for job in dead for victim in self._victims(at_work.get(job.pid, []))]
        kill = Kill(kind=kind, seconds=time.monotonic() - self._began, victims=tuple(victims))
        self.kills.append(kill)
        self._moved = time.monotonic()
        record = {"kind": kind, "seconds": kill.seconds, "victims": [vars(v) for v in victims]}
        append_jsonl(self.folder / "kills.jsonl", [record])

    def _victims(self, at_work: list[tuple[str, int, int]]) -> list[Victim]:
        """The last logged step of a dead job's runs; read after its death, so it is final."""
        victims = []
        for run_id, attempt, step in at_work:
            rows = read_jsonl(self.folder / run_id / "metrics.jsonl")
            last = rows[-1]["step"] if rows else step
            victims.append(Victim(run_id=run_id, attempt=attempt, last_step=last))
        return victims or [Victim(run_id=None)]

    def _look(self) -> None:
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        share = share_done(self.folder)
        if share > self.share:
            self._moved = time.monotonic()
        self.share, self.seconds = share, time.monotonic() - self._began
        self.say(self)

    def _is_stalled(self) -> bool:
        return time.monotonic() - self._moved > STALL_SECONDS

    def _end_all(self) -> None:
        kill_all(self.processes(), self.mark)
        if self._launcher:
            self._launcher.wait()

    def _wait_for_orphans(self) -> None:
        deadline = time.monotonic() + 60
        while self.processes() and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)


def share_done(folder: Path) -> float:
    """Share of the study's planned FLOPs that is done, from its run folders."""
    runs = study_status(folder)
    return sum(run.flops * run.share for run in runs) / max(1, sum(run.flops for run in runs))


def look_up(pid: int, mark: str) -> Process | None:
    """Describe the process with this pid; None unless it is alive and carries the mark."""
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        if f"{MARK}={mark}".encode() not in environment:
            return None
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        started = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return None
    is_job = f"{STUDY_JOB}=1".encode() in environment and command[1:3] == [b"-m", b"train"]
    return Process(pid, started, is_job)


def kill_all(processes: Sequence[Process], mark: str) -> list[Process]:
    """SIGKILL these processes and wait for their deaths; return those that were killed."""
    handles: dict[int, Process] = {}
    death = select.poll()
    try:
        for process in processes:
            # the process may have ended
            with contextlib.suppress(OSError):
                handles[os.pidfd_open(process.pid)] = process
        # its pid may have been given to another process
        mine = {
            handle: process
            for handle, process in handles.items()
            if look_up(process.pid, mark) == process
        }

        for handle in mine:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
            death.register(handle, select.POLLIN)
        for handle in mine:
            death.poll(10_000)
            death.unregister(handle)
        return list(mine.values())
    finally:
        for handle in handles:
            os.close(handle)
