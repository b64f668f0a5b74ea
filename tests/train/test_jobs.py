"""A job's end is read from the rows it wrote; a folder that is damaged or gone leaves its code."""

from pathlib import Path

import pytest

from train.jobs import Job, JobEnd, JobLauncher, read_end
from train.rundir import RunFolder


@pytest.fixture
def job(tmp_path: Path) -> Job:
    folder = RunFolder(tmp_path / "study" / "run")
    folder.path.mkdir(parents=True)
    return Job(overrides=("seed=0",), folder=folder)


def test_a_job_is_named_after_its_run(job: Job) -> None:
    assert job.run_id == "run"


def test_rows_of_earlier_attempts_are_not_the_job_s(job: Job) -> None:
    job.folder.log_attempt("start", attempt=1)
    job.folder.log_attempt("end", attempt=1, state="failed", cause="infrastructure")
    before = job.rows()
    assert before == 2
    end = read_end(job, rows_before=before, exit_code=1)
    assert end == JobEnd(cause="bug", exit_code=1)
    assert str(end) == "bug (exit 1)"


def test_a_job_killed_after_its_run_was_completed_is_done(job: Job) -> None:
    job.folder.log_attempt("start", attempt=1)
    job.folder.log_attempt("end", attempt=1, state="completed", cause=None)
    assert not job.is_finished()
    assert read_end(job, rows_before=0, exit_code=-9).cause == "killed"  # the status is missing
    job.folder.write_status("completed", step=1)
    assert job.is_finished()
    end = read_end(job, rows_before=0, exit_code=-9)
    assert end.cause is None
    assert str(end) == "done"


def test_damaged_rows_leave_the_exit_code(job: Job) -> None:
    job.folder.attempts.write_text("garbage\n", encoding="utf-8")
    assert job.rows() == 0
    assert read_end(job, rows_before=0, exit_code=-9).cause == "killed"


def test_a_folder_that_is_gone_leaves_the_exit_code(job: Job) -> None:
    job.folder.path.rmdir()
    assert read_end(job, rows_before=0, exit_code=3).cause == "storage"


def test_a_launcher_of_ours_is_told_by_its_method() -> None:
    class Ours:
        def launch_jobs(self, jobs: object) -> dict[str, JobEnd]:
            return {}

    assert isinstance(Ours(), JobLauncher)
    assert not isinstance(object(), JobLauncher)
