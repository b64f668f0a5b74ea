"""S7: scripts/slurm_job.sh with fake python and scontrol; tests/faults/test_slurm.py runs Slurm."""

import contextlib
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "slurm_job.sh"

TRAINS = """#!/bin/bash
# a fake `python -m train`: waits, and exits with 75 on a signal
printf '%s\\n' "$@" >words
trap 'echo USR2 >>signals; sleep 0.1; exit 75' USR2
trap 'echo TERM >>signals; sleep 0.1; exit 75' TERM
touch ready
while :; do sleep 0.02; done
"""


@pytest.fixture
def start(tmp_path):
    """Start the script in an empty folder, with a given program as python."""
    processes = []
    binaries = tmp_path / "bin"
    binaries.mkdir()

    def begin(program, *words, script=SCRIPT, **env):
        for name, text in {
            "python": program,
            "scontrol": '#!/bin/bash\necho "$@" >>requeued\n',
        }.items():
            (binaries / name).write_text(text, encoding="utf-8")
            (binaries / name).chmod(0o755)
        path = f"{binaries}:{os.environ['PATH']}"
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")}
        processes.append(
            subprocess.Popen(
                ["/bin/bash", str(script), *words],
                cwd=tmp_path,
                env={**inherited, "PATH": path, "PYTHON": "python", "SLURM_JOB_ID": "17", **env},
                start_new_session=True,
            )
        )
        return processes[-1]

    yield begin
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for(path):
    deadline = time.monotonic() + 20.0
    while not path.exists():
        assert time.monotonic() < deadline, f"no {path}"
        time.sleep(0.005)


def requeued(folder):
    path = folder / "requeued"
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def test_s7_the_directives_ask_for_a_signal_a_requeue_and_one_log():
    text = SCRIPT.read_text(encoding="utf-8")
    directives = re.findall(r"^#SBATCH (.*)$", text, flags=re.MULTILINE)
    assert directives == [
        "--job-name=windtunnel",
        "--ntasks=1",
        "--requeue",
        "--open-mode=append",
        "--output=windtunnel-%j.log",
        "--signal=B:USR2@300",
    ]
    code = text[text.index("set -uo pipefail") :]
    # the config says where runs are, so that every attempt finds them
    assert "runs=" not in code
    # Slurm ignores directives after the first command
    assert text.index("#SBATCH --signal") < text.index("set -uo pipefail")


def test_s7_the_words_reach_python_as_they_are(start, tmp_path):
    words = ["-m", "study=x", "data.files=[a b.jsonl,*.gz]", "model=d24,d32"]
    program = "#!/bin/bash\nprintf '%s\\n' \"$@\" >words\n"
    assert start(program, *words).wait(timeout=20) == 0
    assert (tmp_path / "words").read_text(encoding="utf-8").splitlines() == ["-m", "train", *words]
    assert requeued(tmp_path) == []


@pytest.mark.parametrize(
    ("number", "jobs"), [(signal.SIGUSR2, ["requeue 17"]), (signal.SIGTERM, [])]
)
def test_s7_a_signal_is_passed_on_and_only_the_time_limits_one_requeues(
    start, tmp_path, number, jobs
):
    job = start(TRAINS)
    wait_for(tmp_path / "ready")
    job.send_signal(number)
    job.send_signal(number)
    # it waited for the save
    assert job.wait(timeout=20) == 75
    assert set((tmp_path / "signals").read_text(encoding="utf-8").split()) == {number.name[3:]}
    assert requeued(tmp_path) == jobs


def test_s7_a_cancel_after_the_time_limits_signal_does_not_stop_the_requeue(start, tmp_path):
    job = start(TRAINS)
    wait_for(tmp_path / "ready")
    job.send_signal(signal.SIGUSR2)
    wait_for(tmp_path / "signals")
    job.send_signal(signal.SIGTERM)
    assert job.wait(timeout=20) == 75
    assert requeued(tmp_path) == ["requeue 17"]


def test_s7_a_signal_while_python_starts_requeues_too(start, tmp_path):
    # no signal handler yet
    job = start("#!/bin/bash\ntouch ready\nexec sleep 60\n")
    wait_for(tmp_path / "ready")
    job.send_signal(signal.SIGUSR2)
    assert job.wait(timeout=20) == 140
    assert requeued(tmp_path) == ["requeue 17"]


@pytest.mark.parametrize(
    ("code", "restarts", "jobs"),
    [(75, "", ["requeue 17"]), (75, "2", ["requeue 17"]), (75, "3", []), (2, "", []), (1, "", [])],
)
def test_s7_without_a_signal_only_a_failed_device_requeues_and_not_for_ever(
    start, tmp_path, code, restarts, jobs
):
    env = {"SLURM_RESTART_COUNT": restarts} if restarts else {}
    assert start(f"#!/bin/bash\nexit {code}\n", **env).wait(timeout=20) == code
    assert requeued(tmp_path) == jobs


def test_s7_outside_of_slurm_nothing_is_requeued(start, tmp_path):
    assert start("#!/bin/bash\nexit 75\n", SLURM_JOB_ID="").wait(timeout=20) == 75
    assert requeued(tmp_path) == []


def test_s7_control_without_the_traps_the_signal_never_arrives(start, tmp_path):
    text = SCRIPT.read_text(encoding="utf-8")
    naive = tmp_path / "naive.sh"
    naive.write_text(re.sub(r"^trap .*$", "", text, flags=re.MULTILINE), encoding="utf-8")
    assert naive.read_text(encoding="utf-8") != text
    job = start(TRAINS, script=naive)
    wait_for(tmp_path / "ready")
    job.send_signal(signal.SIGUSR2)
    assert job.wait(timeout=20) == -signal.SIGUSR2
    assert not (tmp_path / "signals").exists()
    assert requeued(tmp_path) == []
