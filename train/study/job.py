"""A job as its launcher sees it: the words that start it, and the folders that tell how it ended.

A job trains one run, or several that share work (grouping.py). Launchers read nothing else of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from train.plan.grouping import RunGroup
from train.run_folder.run_folder import RunFolder, folder_of
from train.storage.records import FINISHED_STATES, read_jsonl
from train.study.retries import cause_of_end, describe_end


@dataclass(frozen=True, kw_only=True)
class JobRun:
    """One run of a job: the overrides that describe it, and the folder of its records."""

    overrides: tuple[str, ...]
    folder: RunFolder

    @property
    def run_id(self) -> str:
        """The run's name."""
        return self.folder.path.name


@dataclass(frozen=True, kw_only=True)
class Job:
    """`python -m train <words>`: its first run by overrides, the others by run_id."""

    runs: tuple[JobRun, ...]

    @property
    def words(self) -> list[str]:
        """What the process is started with."""
        first, *others = self.runs
        ids = ",".join(f"'{run.run_id}'" for run in others)
        return [*first.overrides, *([f"together=[{ids}]"] if others else [])]

    @property
    def run_ids(self) -> tuple[str, ...]:
        """The names of its runs."""
        return tuple(run.run_id for run in self.runs)

    def __str__(self) -> str:
        """`run`, or `run and 7 more`."""
        n_more = len(self.runs) - 1
        return self.runs[0].run_id + (f" and {n_more} more" if n_more else "")

    def n_held(self) -> int:
        """Runs that a live process holds."""
        return sum(run.folder.is_locked() for run in self.runs)

    def unfinished(self) -> "Job | None":
        """The job without the runs that a start would leave alone; None when nothing is left."""
        return self.only(
            [run.run_id for run in self.runs if run.folder.state() not in FINISHED_STATES]
        )

    def only(self, run_ids: Sequence[str]) -> "Job | None":
        """The job with these runs alone; None without any."""
        runs = tuple(run for run in self.runs if run.run_id in run_ids)
        return replace(self, runs=runs) if runs else None

    def rows(self) -> dict[str, int]:
        """Rows of each run's attempts.jsonl, to tell a job's own from earlier ones."""
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
    """A cause of retries.RETRIES, or None when the run is done."""
    exit_code: int
    """Of the process; negative for a signal."""

    def __str__(self) -> str:
        """In words."""
        return describe_end(self.cause, self.exit_code) if self.cause else "done"


def read_ends(job: Job, *, rows_before: Mapping[str, int], exit_code: int) -> dict[str, JobEnd]:
    """Judge an ended process, run by run, by the rows it wrote; by run_id.

    A run without a row of this process ended as those that have one, else by the exit code.
    """
    written = {run.run_id: _attempts(run.folder)[rows_before[run.run_id] :] for run in job.runs}
    ends = {run.run_id: _read_end(run, written[run.run_id], exit_code) for run in job.runs}
    stopped = [end.cause for name, end in ends.items() if written[name] and needs_more(end)]
    for name, end in ends.items():
        if stopped and exit_code > 0 and not written[name] and needs_more(end):
            ends[name] = replace(end, cause=stopped[0])
    return ends


def needs_more(end: JobEnd) -> bool:
    """Whether a run that ended so has not been trained to its result."""
    return end.cause not in (None, "diverged")


def _read_end(run: JobRun, rows: Sequence[Mapping[str, object]], exit_code: int) -> JobEnd:
    cause, state = cause_of_end(rows, exit_code), run.folder.state()
    if state == "completed":
        cause = None
    elif state == "diverged" and rows and rows[-1].get("cause") == "diverged":
        cause = "diverged"  # and the process went on with other runs
    return JobEnd(cause=cause, exit_code=exit_code)


def _attempts(folder: RunFolder) -> list[dict[str, object]]:
    try:
        return read_jsonl(folder.attempts)
    except (OSError, ValueError):  # damaged or gone: the exit code has to do
        return []


@runtime_checkable
class JobLauncher(Protocol):
    """A Hydra launcher of ours: besides `launch`, it takes jobs and says how they ended."""

    def launch_jobs(self, jobs: Sequence[Job]) -> Mapping[str, JobEnd]:
        """Run every job to its end; return the last end of each run, by run_id."""
