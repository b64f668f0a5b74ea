"""A job as its launcher sees it: its command line, how its process ended, and what is retried.

A job trains one run, or several that share work (plan/grouping.py). A launcher knows nothing else
about runs: no model, no torch.
"""

import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

from train.plan.grouping import RunGroup
from train.run_folder.run_folder import RunFolder, folder_of
from train.storage.records import FINISHED_STATES, read_jsonl

RETRIES: Mapping[str, int] = MappingProxyType(
    {
        # mostly by the host's out-of-memory killer: fewer jobs may be up at the next try
        "killed": 2,
        # the device was lost and may come back
        "infrastructure": 2,
        # the machine is wanted by someone else: the user repeats the command
        "preempted": 0,
        "interrupted": 0,
        # the job has already halved its micro-batch down to one window
        "out_of_memory": 0,
        # a result, not a failure
        "diverged": 0,
        # these fail the same way until someone changes something
        "config": 0,
        "data": 0,
        "storage": 0,
        "checkpoint": 0,
        "bug": 0,
    }
)
"""Retries of a run within one launch, by the cause that ended it. A run that another process holds
("locked") is waited for instead."""

CAUSE_OF_EXIT = MappingProxyType(
    {
        2: "config",
        3: "storage",
        4: "checkpoint",
        5: "diverged",
        73: "locked",
        75: "preempted",
        130: "interrupted",
    }
)
"""Cause by exit code, for a job that wrote no row."""


@dataclass(frozen=True, kw_only=True)
class JobRun:
    """One run of a job: its overrides and its folder."""

    overrides: tuple[str, ...]
    folder: RunFolder

    @property
    def run_id(self) -> str:
        """Name of its folder."""
        return self.folder.path.name


@dataclass(frozen=True, kw_only=True)
class Job:
    """One process, `python -m train <words>`: the first run by overrides, the others by run_id."""

    runs: tuple[JobRun, ...]

    @property
    def words(self) -> list[str]:
        """Arguments of the process."""
        first, *others = self.runs
        ids = ",".join(f"'{run.run_id}'" for run in others)
        return [*first.overrides, *([f"together=[{ids}]"] if others else [])]

    @property
    def run_ids(self) -> tuple[str, ...]:
        """run_id of each run."""
        return tuple(run.run_id for run in self.runs)

    def __str__(self) -> str:
        """`run`, or `run and 7 more`."""
        n_more = len(self.runs) - 1
        return self.runs[0].run_id + (f" and {n_more} more" if n_more else "")

    def n_held(self) -> int:
        """Runs whose lock a live process holds."""
        return sum(run.folder.is_locked() for run in self.runs)

    def unfinished(self) -> "Job | None":
        """The job without its finished runs; None when all are finished."""
        return self.only(
            [run.run_id for run in self.runs if run.folder.state() not in FINISHED_STATES]
        )

    def only(self, run_ids: Sequence[str]) -> "Job | None":
        """The job with these runs only; None when there are none."""
        runs = tuple(run for run in self.runs if run.run_id in run_ids)
        return replace(self, runs=runs) if runs else None

    def rows(self) -> dict[str, int]:
        """Length of each run's attempts.jsonl, by run_id: later rows are this job's."""
        return {run.run_id: len(_attempts(run.folder)) for run in self.runs}


def job_of(group: RunGroup) -> Job:
    """The job that trains a group of runs."""
    return Job(
        runs=tuple(
            JobRun(overrides=tuple(run.overrides), folder=folder_of(run)) for run in group.runs
        )
    )


@dataclass(frozen=True, kw_only=True)
class JobEnd:
    """How the last process of a run ended."""

    cause: str | None
    """A key of RETRIES or "locked"; None when the run is done."""
    exit_code: int
    """Of the process; negative for a signal."""

    @property
    def is_final(self) -> bool:
        """Whether the run has its result: it is completed or diverged."""
        return self.cause in (None, "diverged")

    def __str__(self) -> str:
        """`done`, `bug (exit 1)`, `killed by SIGKILL`."""
        if self.cause is None:
            return "done"
        if self.exit_code >= 0:
            return f"{self.cause} (exit {self.exit_code})"
        try:
            return f"{self.cause} by {signal.Signals(-self.exit_code).name}"
        except ValueError:  # real-time signals have no name
            return f"{self.cause} by signal {-self.exit_code}"


def read_ends(job: Job, *, rows_before: Mapping[str, int], exit_code: int) -> dict[str, JobEnd]:
    """Read how each run of an ended process ended, by run_id.

    A run that the process wrote no row of ended like those that have one, else by the exit code.

    Args:
        job: What the process trained.
        rows_before: Job.rows() at its start.
        exit_code: Of the process; negative for a signal.
    """
    written = {run.run_id: _attempts(run.folder)[rows_before[run.run_id] :] for run in job.runs}
    ends = {run.run_id: _read_end(run, written[run.run_id], exit_code) for run in job.runs}
    stopped = [end.cause for name, end in ends.items() if written[name] and not end.is_final]
    for name, end in ends.items():
        if stopped and exit_code > 0 and not written[name] and not end.is_final:
            ends[name] = replace(end, cause=stopped[0])
    return ends


def _read_end(run: JobRun, rows: Sequence[Mapping[str, object]], exit_code: int) -> JobEnd:
    cause, state = cause_of_end(rows, exit_code), run.folder.state()
    if state == "completed":
        cause = None
    elif state == "diverged" and rows and rows[-1].get("cause") == "diverged":
        # the process may have ended otherwise, on its other runs
        cause = "diverged"
    return JobEnd(cause=cause, exit_code=exit_code)


def cause_of_end(rows: Sequence[Mapping[str, Any]], exit_code: int) -> str | None:
    """What ended a run's process; None when nothing was left to do.

    Args:
        rows: Rows of attempts.jsonl that the process wrote; none where it ended early.
        exit_code: Of the process; negative for a signal.
    """
    # whatever it wrote before: it may have been restarting itself
    if exit_code < 0:
        return "killed"
    last = rows[-1] if rows else {}
    cause = last.get("cause")
    if last.get("event") == "end" and isinstance(cause, str) and cause in RETRIES:
        return cause
    if exit_code == 0:
        return None
    if exit_code in CAUSE_OF_EXIT:
        return CAUSE_OF_EXIT[exit_code]
    return "killed" if last.get("event") == "start" else "bug"


def _attempts(folder: RunFolder) -> list[dict[str, object]]:
    # a damaged or missing file: the exit code has to do
    try:
        return read_jsonl(folder.attempts)
    except (OSError, ValueError):
        return []


@runtime_checkable
class JobLauncher(Protocol):
    """A Hydra launcher that takes jobs and returns how they ended."""

    def launch_jobs(self, jobs: Sequence[Job]) -> Mapping[str, JobEnd]:
        """Run every job to its end; return the last end of each run, by run_id."""
