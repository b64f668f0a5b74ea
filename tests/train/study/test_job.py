"""A job's end is read from the rows it wrote; a folder that is damaged or gone leaves its code."""

from collections.abc import Callable
from pathlib import Path

import pytest

from train.config.schema import Config
from train.plan.grouping import RunGroup
from train.plan.planning import PlannedRun, plan_run
from train.run_folder.run_folder import RunFolder
from train.study.job import Job, JobEnd, JobLauncher, JobRun, job_of, needs_more, read_ends


def run_in(root: Path, name: str) -> JobRun:
    folder = RunFolder(root / "study" / name)
    folder.path.mkdir(parents=True)
    return JobRun(overrides=(f"seed={name}",), folder=folder)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(runs=(run_in(tmp_path, "run"),))


@pytest.fixture
def three(tmp_path: Path) -> Job:
    return Job(runs=tuple(run_in(tmp_path, name) for name in "abc"))


def folder_of(job: Job) -> RunFolder:
    return job.runs[0].folder


def read_end(job: Job, exit_code: int, rows_before: int = 0) -> JobEnd:
    (end,) = read_ends(job, rows_before={"run": rows_before}, exit_code=exit_code).values()
    return end


def ends_of(job: Job, exit_code: int) -> dict[str, str | None]:
    ends = read_ends(job, rows_before=dict.fromkeys(job.run_ids, 0), exit_code=exit_code)
    return {name: end.cause for name, end in ends.items()}


def begin(run: JobRun, end: str | None = None, cause: str | None = None) -> None:
    """A start, and where given an end with its status."""
    run.folder.log_attempt("start", attempt=1)
    if end:
        run.folder.log_attempt("end", attempt=1, state=end, cause=cause)
        run.folder.write_status(end, step=1)


def test_a_job_is_named_after_its_runs(job: Job, three: Job) -> None:
    assert (str(job), job.run_ids) == ("run", ("run",))
    assert (str(three), three.run_ids) == ("a and 2 more", ("a", "b", "c"))


def test_others_are_named_in_words_that_hydra_reads(job: Job, three: Job) -> None:
    assert job.words == ["seed=run"]
    assert three.words == ["seed=a", "together=['b','c']"]


def test_a_job_of_a_group_has_its_runs_longest_first(make_config: Callable[..., Config]) -> None:
    runs = []
    for seed in (0, 1):
        config = make_config(seed=seed)
        words = [f"seed={seed}"]
        runs.append(PlannedRun(overrides=words, config=config, plan=plan_run(config)))
    made = job_of(RunGroup(replicas=tuple((run,) for run in runs)))
    assert made.run_ids == tuple(run.plan.run_id for run in runs)
    assert [run.folder for run in made.runs] == [run.folder for run in runs]
    assert made.words == ["seed=0", f"together=['{runs[1].plan.run_id}']"]


def test_what_is_done_is_left_out(three: Job) -> None:
    begin(three.runs[0], "completed")
    begin(three.runs[1], "failed", "bug")
    left = three.unfinished()
    assert left is not None
    assert left.words == ["seed=b", "together=['c']"]
    for run in three.runs:
        run.folder.write_status("diverged")
    assert three.unfinished() is None
    assert three.only([]) is None


def test_held_runs_are_counted(three: Job) -> None:
    with three.runs[1].folder.locked():
        assert three.n_held() == 1
    assert three.n_held() == 0


def test_rows_of_earlier_attempts_are_not_the_job_s(job: Job) -> None:
    begin(job.runs[0], "failed", "infrastructure")
    before = job.rows()
    assert before == {"run": 2}
    end = read_end(job, 1, rows_before=2)
    assert end == JobEnd(cause="bug", exit_code=1)
    assert str(end) == "bug (exit 1)"


def test_a_job_killed_after_its_run_was_completed_is_done(job: Job) -> None:
    folder_of(job).log_attempt("start", attempt=1)
    folder_of(job).log_attempt("end", attempt=1, state="completed", cause=None)
    assert job.unfinished() == job
    assert read_end(job, -9).cause == "killed"  # the status is missing
    folder_of(job).write_status("completed", step=1)
    assert job.unfinished() is None
    end = read_end(job, -9)
    assert end.cause is None
    assert str(end) == "done"


def test_a_killed_job_kills_what_it_had_not_finished(three: Job) -> None:
    begin(three.runs[0], "completed")
    begin(three.runs[1], "diverged", "diverged")
    begin(three.runs[2])
    assert ends_of(three, -9) == {"a": None, "b": "diverged", "c": "killed"}


def test_a_run_that_was_to_restart_and_was_killed_before_is_not_done(job: Job) -> None:
    folder_of(job).write_status("diverged")
    assert read_end(job, -9).cause == "killed"


def test_a_diverged_replica_is_the_end_of_it_alone(three: Job) -> None:
    begin(three.runs[0], "completed")
    begin(three.runs[1], "diverged", "diverged")
    begin(three.runs[2], "completed")
    ends = read_ends(three, rows_before=dict.fromkeys("abc", 0), exit_code=5)
    assert [end.cause for end in ends.values()] == [None, "diverged", None]
    assert not any(map(needs_more, ends.values()))


def test_a_run_that_its_job_never_began_ended_as_the_others_did(three: Job) -> None:
    begin(three.runs[0], "completed")
    begin(three.runs[1], "failed", "infrastructure")
    ends = ends_of(three, 75)
    assert ends == {"a": None, "b": "infrastructure", "c": "infrastructure"}


def test_a_job_that_wrote_nothing_leaves_its_exit_code(three: Job) -> None:
    assert ends_of(three, 73) == dict.fromkeys("abc", "locked")
    assert ends_of(three, 2) == dict.fromkeys("abc", "config")


def test_damaged_rows_leave_the_exit_code(job: Job) -> None:
    folder_of(job).attempts.write_text("garbage\n", encoding="utf-8")
    assert job.rows() == {"run": 0}
    assert read_end(job, -9).cause == "killed"


def test_a_folder_that_is_gone_leaves_the_exit_code(job: Job) -> None:
    folder_of(job).path.rmdir()
    assert read_end(job, 3).cause == "storage"


def test_a_launcher_of_ours_is_told_by_its_method() -> None:
    class Ours:
        def launch_jobs(self, jobs: object) -> dict[str, JobEnd]:
            return {}

    assert isinstance(Ours(), JobLauncher)
    assert not isinstance(object(), JobLauncher)
