"""A job's end is read from the rows it wrote; a folder that is damaged or gone leaves its code."""

import shutil

import pytest

from tests.train.planned_runs import planned
from train import errors
from train.plan.grouping import RunGroup
from train.run_folder import run_folder
from train.run_folder.run_folder import RunFolder
from train.study.job import (
    RETRIES,
    Job,
    JobEnd,
    JobLauncher,
    JobRun,
    cause_of_end,
    job_of,
    read_ends,
)


def job_in(root, *names):
    runs = []
    for name in names:
        folder = RunFolder(root / "study" / name)
        folder.path.mkdir(parents=True)
        runs.append(JobRun(overrides=(f"seed={name}",), folder=folder))
    return Job(runs=tuple(runs))


@pytest.fixture
def job(tmp_path):
    return job_in(tmp_path, "run")


@pytest.fixture
def three(tmp_path):
    return job_in(tmp_path, "a", "b", "c")


def folder_of(job):
    return job.runs[0].folder


def causes(job, exit_code, rows_before=0):
    before = dict.fromkeys(job.run_ids, rows_before)
    return [end.cause for end in read_ends(job, rows_before=before, exit_code=exit_code).values()]


def begin(run, end=None, cause=None):
    """A start, and where given an end with its status."""
    run.folder.log_attempt("start", attempt=1)
    if end:
        run.folder.log_attempt("end", attempt=1, state=end, cause=cause)
        run.folder.write_status(end, step=1)


def test_a_job_is_named_after_its_runs_in_words_that_hydra_reads(job, three):
    assert (str(job), job.run_ids, job.words) == ("run", ("run",), ["seed=run"])
    assert (str(three), three.run_ids) == ("a and 2 more", ("a", "b", "c"))
    assert three.words == ["seed=a", "together=['b','c']"]


def test_a_job_of_a_group_has_its_runs_longest_first(make_config):
    runs = [planned(make_config(seed=seed), f"seed={seed}") for seed in (0, 1)]
    made = job_of(RunGroup(replicas=tuple((run,) for run in runs)))
    assert made.run_ids == tuple(run.plan.run_id for run in runs)
    assert [run.folder for run in made.runs] == [run_folder.folder_of(run) for run in runs]
    assert made.words == ["seed=0", f"together=['{runs[1].plan.run_id}']"]


def test_what_is_done_is_left_out(three):
    begin(three.runs[0], "completed")
    begin(three.runs[1], "failed", "bug")
    assert three.unfinished().words == ["seed=b", "together=['c']"]
    for run in three.runs:
        run.folder.write_status("diverged")
    assert three.unfinished() is None
    assert three.only([]) is None


def test_held_runs_are_counted(three):
    with three.runs[1].folder.locked():
        assert three.n_held() == 1
    assert three.n_held() == 0


def test_rows_of_earlier_attempts_are_not_the_job_s(job):
    begin(job.runs[0], "failed", "infrastructure")
    assert job.rows() == {"run": 2}
    assert causes(job, 1, rows_before=2) == ["bug"]


def test_a_job_killed_after_its_run_was_completed_is_done(job):
    folder_of(job).log_attempt("start", attempt=1)
    folder_of(job).log_attempt("end", attempt=1, state="completed", cause=None)
    assert job.unfinished() == job
    assert causes(job, -9) == ["killed"]  # the status is missing
    folder_of(job).write_status("completed", step=1)
    assert job.unfinished() is None
    assert causes(job, -9) == [None]


COMPLETED, DIVERGED, LOST = ("completed",), ("diverged", "diverged"), ("failed", "infrastructure")


@pytest.mark.parametrize(
    ("rows", "exit_code", "ends"),
    [
        # killed: what had not ended
        ([COMPLETED, DIVERGED, ()], -9, [None, "diverged", "killed"]),
        # a diverged replica is the end of it alone
        ([COMPLETED, DIVERGED, COMPLETED], 5, [None, "diverged", None]),
        # a run that the job never began ended as the others did
        ([COMPLETED, LOST], 75, [None, "infrastructure", "infrastructure"]),
        # no row: the exit code
        ([], 73, ["locked"] * 3),
        ([], 2, ["config"] * 3),
    ],
)
def test_every_run_of_a_job_has_an_end_of_its_own(three, rows, exit_code, ends):
    for run, row in zip(three.runs, rows, strict=False):
        begin(run, *row)
    assert causes(three, exit_code) == ends
    final = [JobEnd(cause=cause, exit_code=exit_code).is_final for cause in ends]
    assert final == [cause in (None, "diverged") for cause in ends]


def test_without_rows_of_its_own_the_exit_code_has_to_do(job):
    folder_of(job).write_status("diverged")  # it was to restart, and was killed before
    assert causes(job, -9) == ["killed"]
    folder_of(job).attempts.write_text("garbage\n", encoding="utf-8")
    assert job.rows() == {"run": 0}
    assert causes(job, -9) == ["killed"]
    shutil.rmtree(folder_of(job).path)
    assert causes(job, 3) == ["storage"]


def test_a_launcher_of_ours_is_told_by_its_method():
    class Ours:
        def launch_jobs(self, jobs):
            return {}

    assert isinstance(Ours(), JobLauncher)
    assert not isinstance(object(), JobLauncher)


# causes and retries


def row(event, cause=None):
    return {"event": event} if event == "start" else {"event": event, "cause": cause}


START = row("start")


def test_only_what_may_pass_by_itself_is_tried_again_and_only_twice():
    limits = {cause: limit for cause, limit in RETRIES.items() if limit}
    assert limits == {"killed": 2, "infrastructure": 2}


def test_every_cause_of_an_error_has_its_line_in_the_table():
    classes = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    causes = {
        kind.cause
        for kind in classes
        if issubclass(kind, errors.WindTunnelError) and kind is not errors.WindTunnelError
    }
    assert causes - {"locked"} | {"killed", "bug"} == set(RETRIES)


@pytest.mark.parametrize(
    ("rows", "exit_code", "cause"),
    [
        ([START, row("end")], 0, None),
        ([], 0, None),  # it was finished before
        ([START, row("end", "infrastructure")], 75, "infrastructure"),
        ([START, row("end", "preempted")], 75, "preempted"),
        ([START, row("end", "bug")], 0, "bug"),  # SystemExit(0) in the middle
        ([START, row("end", "out_of_memory"), START, row("end", "storage")], 3, "storage"),
        ([START, row("end", "out_of_memory"), START], -9, "killed"),
        ([START, row("end", "out_of_memory")], -9, "killed"),  # while it started anew
        ([START], -9, "killed"),
        ([START], -11, "killed"),
        ([], -9, "killed"),  # before its first row
        ([START], 137, "killed"),  # a start without an end
        ([START], 3, "storage"),  # the disk that was full took no row
        ([START, row("end", "AnUnknownWord")], 1, "bug"),
        ([], 1, "bug"),
        ([], 2, "config"),
        ([], 4, "checkpoint"),
        ([], 5, "diverged"),
        ([], 73, "locked"),
        ([], 75, "preempted"),
        ([], 130, "interrupted"),
        ([{"event": "end", "cause": ["list"]}], 1, "bug"),
    ],
)
def test_the_end_is_judged_by_the_rows_and_by_the_exit_code_without_them(rows, exit_code, cause):
    assert cause_of_end(rows, exit_code) == cause


@pytest.mark.parametrize(
    ("cause", "exit_code", "words"),
    [
        ("killed", -9, "killed by SIGKILL"),
        ("killed", -50, "killed by signal 50"),
        ("bug", 1, "bug (exit 1)"),
        (None, -9, "done"),
    ],
)
def test_an_end_in_words(cause, exit_code, words):
    assert str(JobEnd(cause=cause, exit_code=exit_code)) == words
