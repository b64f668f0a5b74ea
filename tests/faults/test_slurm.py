"""S7 under a real Slurm: scripts/slurm_job.sh saves on USR2, is requeued, and goes on.

Needs root and Debian's `apt-get install slurm-wlm munge`; the daemons listen on loopback alone.
"""

import re
import sys
import time
from pathlib import Path

import pytest

from faults.overrides import as_overrides
from faults.runner import run_folder, run_here, start_steps
from faults.same_run import assert_same_run
from faults.slurm_cluster import missing_programs, start_cluster, stop_cluster
from train.config.experiment import BudgetConfig
from train.config.runtime import StudyConfig
from train.storage.records import read_jsonl

pytestmark = pytest.mark.slow

REPO = Path(__file__).resolve().parents[2]
SCRIPT = REPO / "scripts" / "slurm_job.sh"
STEPS = 600
"""About ten seconds, in which Slurm's commands reach the run."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    if missing := missing_programs():
        pytest.skip(f"a Slurm to test with needs {', '.join(missing)}")
    root = tmp_path_factory.mktemp("slurm")
    try:
        yield start_cluster(root)
    finally:
        stop_cluster(root)


@pytest.fixture
def config(tiny):
    return tiny(
        budget=BudgetConfig(tokens=STEPS * 256),
        data__allow_repeat=True,
        machine__checkpoint_steps=200,
    )


def submit(cluster, config, log, script=SCRIPT):
    """Queue the run and return the job's number once it has trained 20 steps."""
    words = ["sbatch", "--parsable", f"--output={log}", f"--chdir={REPO}"]
    words += [f"--export=ALL,PYTHON={sys.executable}", str(script), *as_overrides(config)]
    job = cluster.command(*words).strip()
    metrics = run_folder(config).metrics
    deadline = time.monotonic() + 90.0
    while not metrics.exists() or len(read_jsonl(metrics)) < 20:
        assert time.monotonic() < deadline, (cluster.facts(job), log.read_text("utf-8"))
        time.sleep(0.05)
    return job


def ended(facts):
    return facts["JobState"] not in ("PENDING", "RUNNING", "COMPLETING", "REQUEUED")


def test_s7_a_job_that_gets_usr2_saves_is_requeued_and_completes(cluster, config, tmp_path):
    log = tmp_path / "job.log"
    job = submit(cluster, config, log)
    cluster.command("scancel", "--signal=USR2", "--batch", job)
    cluster.wait_for(job, lambda facts: facts["JobState"] == "PENDING" and facts["Restarts"] == "1")
    folder = run_folder(config)
    assert folder.state() == "preempted"
    saved = int(re.findall(r"SIGUSR2 after step (\d+)", log.read_text("utf-8"))[0])
    # without this it waits two minutes; at once, the node still refuses its old credential
    cluster.command("scontrol", "update", f"JobId={job}", "StartTime=now+5")
    assert cluster.wait_for(job, ended)["JobState"] == "COMPLETED"
    assert start_steps(folder) == [0, saved]
    assert saved % 200  # at the signal, not at the last periodic checkpoint
    assert "completed, validation loss" in log.read_text("utf-8")  # appended to the first part
    config.study = StudyConfig(name="undisturbed")
    assert_same_run(run_here(config), folder)


def test_s7_a_job_that_is_cancelled_saves_and_is_not_requeued(cluster, config, tmp_path):
    job = submit(cluster, config, tmp_path / "job.log")
    cluster.command("scancel", job)
    facts = cluster.wait_for(job, ended)
    assert (facts["JobState"], facts["Restarts"]) == ("CANCELLED", "0")
    assert_saved_by("SIGTERM", run_folder(config))


def assert_saved_by(name, folder):
    deadline = time.monotonic() + 30.0
    while folder.state() == "running":  # Slurm does not wait for the processes
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert f"stopped by {name} after step" in folder.read_status()["reason"]


def test_s7_control_without_traps_usr2_ends_the_job_and_saves_nothing(cluster, config, tmp_path):
    naive = tmp_path / "naive.sh"
    text = re.sub(r"^trap .*$", "", SCRIPT.read_text("utf-8"), flags=re.MULTILINE)
    naive.write_text(text, "utf-8")
    job = submit(cluster, config, tmp_path / "job.log", naive)
    cluster.command("scancel", "--signal=USR2", "--batch", job)
    facts = cluster.wait_for(job, ended)
    assert (facts["JobState"], facts["Restarts"]) == ("FAILED", "0")
    assert run_folder(config).state() == "running"  # what a killed run leaves behind
