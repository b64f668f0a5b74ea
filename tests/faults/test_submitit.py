"""S4: under submitit, a preempted run saves first and is then requeued by submitit's own handler.

The control does not pass the signal on. Submitit's worker, which handles the signal, is run as a
child, and its exit code read, as submitit's local controller does; the controller itself takes part
in the slow test. Its `job._interrupt()` (1.5.4) signals the controller, which dies of it, so the
signal goes to the worker, as a scheduler sends it.
"""

import os
import signal
import time
from pathlib import Path

import pytest
import submitit
from submitit.core.utils import DelayedSubmission
from submitit.local.local import LOCAL_REQUEUE_RETURN_CODE

from faults.runner import DEADLINE, ends, run_folder, start_steps
from faults.same_run import assert_same_run
from faults.submitit_job import Training, work
from train.storage.records import read_jsonl

TESTS = Path(__file__).resolve().parents[1]


@pytest.fixture
def submitted(tmp_path, monkeypatch):
    """Return what leaves a job for the next worker of this test."""
    folder = tmp_path / "submitit"
    for name, value in {
        "FOLDER": str(folder),
        "EXECUTOR": "local",
        "LOCAL_JOB_ID": "1",
        "LOCAL_LOCALID": "0",
        "LOCAL_GLOBALID": "0",
    }.items():
        monkeypatch.setenv(f"SUBMITIT_{name}", value)

    def submit(training):
        job = DelayedSubmission(training)
        job.set_timeout(5, 3)
        folder.mkdir()
        job.dump(folder / "1_submitted.pkl")

    return submit


def preempted(start, config, hold):
    worker = start(config, command=work)
    worker.wait_for(hold.exists)
    worker.send(signal.SIGUSR2)
    hold.unlink()
    return worker.wait().exit_code


def test_s4_a_preempted_worker_saves_is_requeued_and_goes_on(
    submitted, started, tiny, tmp_path, reference_run
):
    submitted(Training(tiny(), hold=tmp_path / "hold"))
    assert preempted(started, tiny(), tmp_path / "hold") == LOCAL_REQUEUE_RETURN_CODE
    assert started(tiny(), command=work).wait().exit_code == 0
    assert [row["cause"] for row in ends(run_folder(tiny()))] == ["preempted", None]
    assert start_steps(run_folder(tiny())) == [0, 11]  # not 7: it saved before it was requeued
    assert_same_run(reference_run, run_folder(tiny()))


def test_s4_control_a_worker_that_keeps_the_signal_to_itself_is_not_requeued(
    submitted, started, tiny, tmp_path
):
    submitted(Training(tiny(), hold=tmp_path / "hold", chains=False))
    assert preempted(started, tiny(), tmp_path / "hold") == 1
    assert (tmp_path / "submitit" / "1_0_result.pkl").exists()  # the job is over, with an error
    assert run_folder(tiny()).state() == "preempted"


@pytest.mark.slow
def test_s4_submitits_own_controller_starts_a_preempted_job_again(
    tiny, tmp_path, monkeypatch, reference_run
):
    monkeypatch.setenv("PYTHONPATH", f"{TESTS}{os.pathsep}{TESTS.parent}")
    executor = submitit.LocalExecutor(tmp_path / "submitit")
    executor.update_parameters(timeout_min=5)
    folder, hold = run_folder(tiny()), tmp_path / "hold"
    job = executor.submit(Training(tiny(), hold=hold))
    deadline = time.monotonic() + DEADLINE
    while not hold.exists():
        assert not job.done(), job.stderr()
        assert time.monotonic() < deadline, "the worker did not get to step 10"
        time.sleep(0.01)
    os.kill(read_jsonl(folder.attempts)[-1]["pid"], signal.SIGUSR2)
    hold.unlink()
    assert job.result() == "trained"
    assert "Caught signal SIGUSR2" in str(job.stderr())
    assert [row["cause"] for row in ends(folder)] == ["preempted", None]
    assert start_steps(folder) == [0, 11]
    assert_same_run(reference_run, folder)
