"""A launcher's slots, retries, stops and runs of others, on jobs without torch: fake_job.py.

That other jobs survive a death, and what orphans come to, is in tests/faults.
"""

import contextlib
import errno
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from faults.fake_job import STARTED
from faults.fake_study import REPO, hydra_node, use_fake_jobs
from omegaconf import OmegaConf

from train.config.compose import CONFIG_ROOT
from train.config.runtime import Device, MachineConfig
from train.errors import ConfigError, InfrastructureError, InterruptedByUserError, PreemptedError
from train.run_folder.run_folder import RunFolder
from train.storage.records import read_jsonl
from train.study import launch
from train.study.job import RETRIES, Job, JobEnd, JobRun
from train.study.launch import launch_local, wait_for_any

DONE = JobEnd(cause=None, exit_code=0)


@pytest.fixture(autouse=True)
def _fake_jobs(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(REPO))
    use_fake_jobs(monkeypatch.setattr)


@pytest.fixture
def gate(tmp_path):
    """Jobs that wait for it end when it is removed."""
    path = tmp_path / "gate"
    path.touch()
    return path


def config(root, *, workers=2, sources=()):
    machine = MachineConfig(device=Device.cpu, workers=workers, threads=3)
    return OmegaConf.create(
        {
            "machine": OmegaConf.structured(machine),
            "paths": {"runs": str(root)},
            "study": {"name": "s"},
            "hydra": hydra_node(*sources),
        }
    )


def jobs(root, **acts):
    made = []
    for name, words in acts.items():
        folder = RunFolder(root / "s" / name)
        folder.path.mkdir(parents=True)
        run = JobRun(overrides=(f"folder={folder.path}", f"acts={words}"), folder=folder)
        made.append(Job(runs=(run,)))
    return made


def folder_of(job):
    return job.runs[0].folder


def one_job(jobs):
    """The runs of all of them in one."""
    return Job(runs=tuple(run for job in jobs for run in job.runs))


def acts_of(root, **acts):
    """What runs of a job do before their job ends."""
    for name, act in acts.items():
        (root / "s" / f"{name}.act").write_text(act, encoding="utf-8")


def started(root):
    path = root / "s" / STARTED
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def causes(ends):
    return {name: end.cause for name, end in ends.items()}


def wait_until(condition):
    deadline = time.monotonic() + 30
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)


def all_running(work):
    return all(folder_of(job).state() == "running" for job in work)


@contextlib.contextmanager
def meanwhile(*steps):
    """In a thread: do each step, one after the other."""
    thread = threading.Thread(target=lambda: [step() for step in steps])
    thread.start()
    yield
    thread.join()


@contextlib.contextmanager
def held_elsewhere(folder, until, *, state=None):
    """Another thread holds a run's lock until a condition is true, and may complete the run."""
    entered = threading.Event()

    def hold():
        with folder.locked():
            entered.set()
            wait_until(until)
            if state:
                time.sleep(0.3)
                folder.write_status(state, step=10)

    with meanwhile(hold):
        entered.wait()
        yield


def stop(number=signal.SIGTERM):
    os.kill(os.getpid(), number)


def test_every_job_ends_and_its_end_is_told(tmp_path):
    work = jobs(tmp_path, a="completed", b="diverged", c="raised", d="completed")
    assert launch_local(work, config(tmp_path)) == {
        "a": DONE,
        "b": JobEnd(cause="diverged", exit_code=5),
        "c": JobEnd(cause="bug", exit_code=1),
        "d": DONE,
    }
    assert launch_local([], config(tmp_path)) == {}


def test_a_job_is_told_its_slot_and_where_the_user_s_configs_are(tmp_path, monkeypatch):
    code = (
        "import json, os, sys; from pathlib import Path; "
        "Path(sys.argv[-1]).write_text(json.dumps([sys.argv[1:], dict(os.environ)]))"
    )
    monkeypatch.setattr(launch, "JOB_COMMAND", (sys.executable, "-c", code))
    told = tmp_path / "told.json"
    run = JobRun(overrides=("seed=1", str(told)), folder=RunFolder(tmp_path / "s" / "r"))
    sources = [
        {"provider": "main", "path": str(CONFIG_ROOT)},
        {"provider": "command-line", "path": "/my/own"},
    ]
    launch_local([Job(runs=(run,))], config(tmp_path, sources=sources))
    words, environment = json.loads(told.read_text(encoding="utf-8"))
    assert words == ["--config-dir", "/my/own", "seed=1", str(told)]
    assert environment[launch.STUDY_JOB] == "1"
    assert environment["OMP_NUM_THREADS"] == "3"


def test_no_more_jobs_run_at_once_than_there_are_slots(tmp_path, gate):
    work = jobs(tmp_path, a=f"wait:{gate}", b=f"wait:{gate}", c="completed")
    seen = []

    def look():
        wait_until(lambda: all_running(work[:2]))
        time.sleep(0.3)
        seen.extend(started(tmp_path))
        gate.unlink()

    with meanwhile(look):
        ends = launch_local(work, config(tmp_path, workers=2))
    assert sorted(line.split()[0] for line in seen) == ["a", "b"]
    assert ends == dict.fromkeys("abc", DONE)


# retries


def test_a_job_that_is_tried_again_waits_for_its_turn(tmp_path):
    work = jobs(tmp_path, a="killed,completed", b="completed", c="completed")
    ends = launch_local(work, config(tmp_path, workers=1))
    assert started(tmp_path) == ["a killed", "b completed", "c completed", "a completed"]
    assert ends == dict.fromkeys("abc", DONE)


def test_each_cause_has_its_own_limit_within_a_launch(tmp_path, capfd):
    work = jobs(tmp_path, a="killed,infrastructure,killed,infrastructure,killed")
    ends = launch_local(work, config(tmp_path, workers=1))
    assert len(started(tmp_path)) == 1 + RETRIES["killed"] + RETRIES["infrastructure"]
    assert ends == {"a": JobEnd(cause="killed", exit_code=-9)}
    errors = capfd.readouterr().err
    assert "a: killed by SIGKILL; starting it again (2 of 2)" in errors
    assert "a: infrastructure (exit 75); starting it again (1 of 2)" in errors
    launch_local(work, config(tmp_path, workers=1))  # the next launch counts from zero
    assert len(started(tmp_path)) == 5 + 1 + RETRIES["killed"]


def test_a_killed_job_is_started_again_for_what_it_left_unfinished(tmp_path, capfd):
    job = one_job(jobs(tmp_path, a="killed", b="", c="killed,completed", d=""))
    acts_of(tmp_path, a="completed", b="diverged")
    ends = launch_local([job], config(tmp_path))
    assert started(tmp_path) == ["a killed b c d", "c killed d", "c completed d"]
    assert ends == {
        "a": JobEnd(cause=None, exit_code=-9),
        "b": JobEnd(cause="diverged", exit_code=-9),
        "c": DONE,
        "d": DONE,
    }
    errors = capfd.readouterr().err
    for count in (1, 2):
        line = f"c and 1 more: killed by SIGKILL; starting them again ({count} of 2)"
        assert line in errors


@pytest.mark.parametrize(
    ("acts", "own", "expected", "n_starts"),
    [
        ("completed", {}, [None, None, None], 1),
        ("completed", {"b": "diverged"}, [None, "diverged", None], 1),
        ("killed", {}, ["killed"] * 3, 1 + RETRIES["killed"]),
        ("raised", {}, ["bug"] * 3, 1),
    ],
)
def test_a_job_of_several_runs_is_one_process_and_one_limit(
    tmp_path, acts, own, expected, n_starts
):
    job, other = one_job(jobs(tmp_path, a=acts, b="", c="")), *jobs(tmp_path, d="completed")
    acts_of(tmp_path, **own)
    ends = launch_local([job, other], config(tmp_path, workers=1))
    assert [line for line in started(tmp_path) if line[0] == "a"] == [f"a {acts} b c"] * n_starts
    assert causes(ends) == {**dict(zip("abc", expected, strict=True)), "d": None}


# runs of other processes


@pytest.mark.parametrize(
    ("acts", "starts"),
    [
        ({"held": "completed"}, []),
        ({"a": "completed", "held": "", "c": "completed"}, ["a completed c"]),
    ],
)
def test_a_run_that_another_process_holds_is_waited_for_and_the_others_of_its_job_are_trained(
    tmp_path, capfd, acts, starts
):
    several, (free,) = jobs(tmp_path, **acts), jobs(tmp_path, free="completed")
    held = RunFolder(tmp_path / "s" / "held")
    is_free = lambda: folder_of(free).state() == "completed"  # noqa: E731
    with held_elsewhere(held, is_free, state="completed"):
        ends = launch_local([one_job(several), free], config(tmp_path))
    assert started(tmp_path) == ["free completed", *starts]
    assert ends == dict.fromkeys({*acts, "free"} - {"held"}, DONE)
    assert held.state() == "completed"
    assert "1 run is trained by other processes" in capfd.readouterr().err


def test_a_job_that_is_refused_its_lock_is_waited_for_and_not_counted_as_a_failure(
    tmp_path, monkeypatch
):
    """Another process takes the run between the launcher's look and the job's own."""
    (job,) = jobs(tmp_path, held="completed")
    looks, is_locked = [0], RunFolder.is_locked

    def blind_at_first(folder):
        looks[0] += 1
        return looks[0] > 1 and is_locked(folder)

    def until_refused():
        if started(tmp_path):
            time.sleep(1.0)  # the job waits half a second for the lock
        return started(tmp_path)

    monkeypatch.setattr(RunFolder, "is_locked", blind_at_first)
    with held_elsewhere(folder_of(job), until_refused):
        ends = launch_local([job], config(tmp_path))
    assert started(tmp_path) == ["held completed"] * 2
    assert ends == {"held": DONE}


# stops and errors


@pytest.mark.parametrize(
    ("number", "error"),
    [(signal.SIGTERM, PreemptedError), (signal.SIGINT, InterruptedByUserError)],
)
def test_a_stop_is_passed_on_starts_nothing_more_and_leaves_no_job_but_a_row(
    tmp_path, gate, number, error
):
    work = jobs(tmp_path, a=f"wait:{gate}", b=f"wait:{gate}", c="completed")
    with (
        meanwhile(lambda: wait_until(lambda: all_running(work[:2])), lambda: stop(number)),
        pytest.raises(error, match="with jobs under way"),
    ):
        launch_local(work, config(tmp_path))
    assert not any(job.n_held() for job in work)
    assert sorted(line.split()[0] for line in started(tmp_path)) == ["a", "b"]
    (row,) = read_jsonl(tmp_path / "s" / "launch.jsonl")
    assert (row["jobs"], row["runs"]) == (2, 2)


def test_an_error_of_the_launcher_leaves_no_job(tmp_path, gate, monkeypatch):
    work = jobs(tmp_path, a=f"wait:{gate}")

    def fail(progress, *, n_elsewhere, now=False):
        if all_running(work):
            raise ZeroDivisionError

    monkeypatch.setattr(launch.StudyProgress, "refresh", fail)
    with pytest.raises(ZeroDivisionError):
        launch_local(work, config(tmp_path))
    assert not folder_of(work[0]).is_locked()


def test_a_machine_that_starts_no_process_leaves_no_job_and_no_traceback(
    tmp_path, gate, monkeypatch
):
    first, second = jobs(tmp_path, a=f"wait:{gate}", b="completed")
    popen, calls = launch.subprocess.Popen, [0]

    def refuse_second(*words, **options):
        calls[0] += 1
        if calls[0] == 2:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        return popen(*words, **options)

    monkeypatch.setattr(launch.subprocess, "Popen", refuse_second)
    message = r"no process can be started for b \(Resource temporarily unavailable\)"
    with pytest.raises(InfrastructureError, match=message):
        launch_local([first, second], config(tmp_path))
    assert not first.n_held()


# launch.jsonl


def test_the_use_of_the_slots_is_said_and_added_to_the_study(tmp_path, capfd):
    for count in (1, 2):
        work = [one_job(jobs(tmp_path, **{f"a{count}": "completed", f"b{count}": ""}))]
        launch_local([*work, *jobs(tmp_path, **{f"c{count}": "completed"})], config(tmp_path))
        rows = read_jsonl(tmp_path / "s" / "launch.jsonl")
        assert len(rows) == count
    row = rows[-1]
    assert list(row) == ["time", "host", "jobs", "runs", "slots", "seconds", "busy_seconds"]
    assert (row["jobs"], row["runs"], row["slots"]) == (2, 3, 2)
    assert 0 < row["busy_seconds"] <= 2 * row["seconds"]
    last = capfd.readouterr().err.splitlines()[-1]
    busy = row["busy_seconds"] / row["seconds"] / 2
    said = re.fullmatch(r"jobs 2, runs 3; (\S+) s on 2 slots, (\S+)% busy", last)
    assert float(said[1]) == pytest.approx(row["seconds"], abs=0.051)
    assert float(said[2]) == pytest.approx(100 * busy, abs=1.0)


def test_a_launch_without_a_folder_to_write_to_says_so(tmp_path, monkeypatch, capfd):
    def refuse(path, rows):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(launch, "append_jsonl", refuse)
    work = jobs(tmp_path, a="completed")
    assert launch_local(work, config(tmp_path)) == {"a": DONE}
    assert "launch.jsonl: not written (No space left on device)" in capfd.readouterr().err


@pytest.mark.parametrize("has_pidfd", [True, False])
def test_an_end_is_noticed_long_before_the_next_look(monkeypatch, has_pidfd):
    if not has_pidfd:
        monkeypatch.delattr(os, "pidfd_open")
    began = time.monotonic()
    wait_for_any([], 0.05)  # without processes, the whole time
    assert time.monotonic() - began >= (0.049 if has_pidfd else 0.0)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        wait_for_any([process], 0.0)
        assert process.poll() is None
        assert process.stdin is not None
        process.stdin.close()
        began, n_waits = time.monotonic(), 0
        while process.poll() is None:
            wait_for_any([process], 60.0)
            n_waits += 1
        assert time.monotonic() - began < 30.0
        assert n_waits == 1 or not has_pidfd
        wait_for_any([process], 60.0)  # whose end was looked at already
        assert time.monotonic() - began < 30.0


def test_hydra_s_own_way_in_is_refused(monkeypatch):
    """It does not say whose run a job is; Hydra's sweepers, which use it, are refused before."""
    monkeypatch.syspath_prepend(str(Path(launch.__file__).parents[1] / "plugins"))
    from hydra_plugins.windtunnel.local import LocalLauncher

    with pytest.raises(ConfigError, match="takes jobs from hydra/sweeper=study only"):
        LocalLauncher().launch([["model=d16"]], initial_job_idx=0)
