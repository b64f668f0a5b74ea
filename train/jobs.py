"""A job as its launcher sees it: the words that start it, and the folder that tells how it ended.

Job and run are one to one here; launchers read nothing else of a run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from train.records import FINISHED_STATES, read_jsonl
from train.retries import cause_of_end, describe_end
from train.rundir import RunFolder


@dataclass(frozen=True, kw_only=True)
class Job:
    """`python -m train <overrides>`, whose records go to `folder`."""

    overrides: tuple[str, ...]
    folder: RunFolder

    @property
    def run_id(self) -> str:
        """The name of its run."""
        return self.folder.path.name

    def is_finished(self) -> bool:
        """Whether a start would find nothing left to do."""
        return self.folder.state() in FINISHED_STATES

    def rows(self) -> int:
        """Rows of attempts.jsonl, to tell a job's own from earlier ones."""
        return len(_attempts(self.folder))


@dataclass(frozen=True, kw_only=True)
class JobEnd:
    """How a job's last process ended."""

    cause: str | None
    """A cause of retries.RETRIES, or None when the run is done."""
    exit_code: int
    """Of the process; negative for a signal."""

    def __str__(self) -> str:
        """In words."""
        return describe_end(self.cause, self.exit_code) if self.cause else "done"


def read_end(job: Job, *, rows_before: int, exit_code: int) -> JobEnd:
    """Judge an ended process by the rows it wrote, and by its exit code where it wrote none."""
    cause = cause_of_end(_attempts(job.folder)[rows_before:], exit_code)
    is_completed = cause is not None and job.folder.state() == "completed"
    return JobEnd(cause=None if is_completed else cause, exit_code=exit_code)


def _attempts(folder: RunFolder) -> list[dict[str, object]]:
    try:
        return read_jsonl(folder.attempts)
    except (OSError, ValueError):  # damaged or gone: the exit code has to do
        return []


@runtime_checkable
class JobLauncher(Protocol):
    """A Hydra launcher of ours: besides `launch`, it takes jobs and says how they ended."""

    def launch_jobs(self, jobs: Sequence[Job]) -> Mapping[str, JobEnd]:
        """Run every job to its end; return the last end of each, by run_id."""
