"""The lock dies with its holder; a rewind sets aside what the checkpoint does not know."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from train.errors import LockedError, StorageError
from train.records import append_jsonl, read_json, read_jsonl
from train.rundir import RunFolder

REPO = Path(__file__).resolve().parents[2]

HOLD = """
import sys
from pathlib import Path
from train.rundir import RunFolder
folder = RunFolder(Path(sys.argv[1]))
with folder.locked():
    folder.log_attempt("start", attempt=1)
    print("held", flush=True)
    sys.stdin.read()
"""

TAKE = """
import sys
from pathlib import Path
from train.errors import WindTunnelError
from train.rundir import RunFolder
try:
    with RunFolder(Path(sys.argv[1])).locked():
        pass
except WindTunnelError as error:
    print(error)
    sys.exit(error.exit_code)
"""


def python(code: str, folder: RunFolder) -> list[str]:
    return [sys.executable, "-c", code, str(folder.path)]


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "study" / "run")


@pytest.fixture
def holder(folder: RunFolder) -> Iterator[subprocess.Popen[str]]:
    """A live process that holds the run."""
    with subprocess.Popen(
        python(HOLD, folder), cwd=REPO, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_process_is_refused_with_exit_73(
    folder: RunFolder, holder: subprocess.Popen[str]
) -> None:
    refused = subprocess.run(
        python(TAKE, folder), cwd=REPO, capture_output=True, text=True, check=False
    )
    assert refused.returncode == LockedError.exit_code == 73
    pattern = rf"^{re.escape(str(folder.path))}: process {holder.pid} on .+ is training this run$"
    assert re.search(pattern, refused.stdout.strip())
    assert folder.is_locked()


def test_a_killed_holder_leaves_the_run_free(
    folder: RunFolder, holder: subprocess.Popen[str]
) -> None:
    with pytest.raises(LockedError), folder.locked():
        pass
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert not folder.is_locked()
    with folder.locked():
        assert folder.is_locked()
    assert not folder.is_locked()


def test_a_run_that_was_never_started_is_not_locked(folder: RunFolder) -> None:
    assert not folder.is_locked()
    assert not folder.path.exists()


def test_a_folder_that_cannot_be_made_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    inside = RunFolder(tmp_path / "file" / "run")
    message = rf"{re.escape(str(inside.path))}: cannot be written"
    with pytest.raises(StorageError, match=message), inside.locked():
        pass


def test_an_error_inside_the_lock_is_not_taken_for_the_lock_s_own(folder: RunFolder) -> None:
    with pytest.raises(PermissionError, match="someone else's"), folder.locked():
        raise PermissionError("someone else's")


def test_a_run_is_planned_until_its_status_says_otherwise(folder: RunFolder) -> None:
    assert folder.state() == "planned"
    assert folder.read_status() == {}
    folder.path.mkdir(parents=True)
    folder.write_status("running", step=3, total_steps=9)
    assert folder.state() == "running"
    status = read_json(folder.status)
    assert (status["step"], status["total_steps"]) == (3, 9)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", status["heartbeat"])


def test_an_unreadable_status_counts_as_none(folder: RunFolder) -> None:
    folder.path.mkdir(parents=True)
    folder.status.write_text('{"state": "runn', encoding="utf-8")
    assert folder.state() == "planned"


def test_a_state_outside_the_closed_set_is_our_mistake(folder: RunFolder) -> None:
    folder.path.mkdir(parents=True)
    with pytest.raises(AssertionError):
        folder.write_status("finished")


def test_attempts_are_starts(folder: RunFolder) -> None:
    folder.path.mkdir(parents=True)
    assert folder.attempt_number() == 0
    for event in ("start", "end", "start"):
        folder.log_attempt(event, attempt=1, state="failed")
    assert folder.attempt_number() == 2
    assert read_jsonl(folder.attempts)[0]["pid"] == os.getpid()


def test_a_rewind_sets_later_rows_aside(folder: RunFolder) -> None:
    folder.path.mkdir(parents=True)
    append_jsonl(folder.metrics, [{"step": step, "loss": 5 - step} for step in (1, 2, 3, 4)])
    append_jsonl(folder.evals, [{"step": step} for step in (2, 4)])
    with folder.metrics.open("a", encoding="utf-8") as file:
        file.write('{"step": 5, "lo')
    assert folder.rewind(2) == 3
    assert folder.metrics.read_text(encoding="utf-8") == (
        '{"step": 1, "loss": 4}\n{"step": 2, "loss": 3}\n'
    )
    assert read_jsonl(folder.evals) == [{"step": 2}]
    assert read_jsonl(folder.replayed) == [
        {"file": "metrics.jsonl", "step": 3, "loss": 2},
        {"file": "metrics.jsonl", "step": 4, "loss": 1},
        {"file": "evals.jsonl", "step": 4},
    ]


def test_a_rewind_to_the_start_empties_the_records(folder: RunFolder) -> None:
    folder.path.mkdir(parents=True)
    append_jsonl(folder.metrics, [{"step": 1}])
    assert folder.rewind(0) == 1
    assert read_jsonl(folder.metrics) == []


def test_a_rewind_without_records_or_without_late_rows_writes_nothing(folder: RunFolder) -> None:
    folder.path.mkdir(parents=True)
    assert folder.rewind(0) == 0
    append_jsonl(folder.metrics, [{"step": 1}])
    assert folder.rewind(1) == 0
    assert [path.name for path in folder.path.iterdir()] == ["metrics.jsonl"]


def test_a_partial_file_of_an_interrupted_rewind_is_not_mixed_in(folder: RunFolder) -> None:
    folder.path.mkdir(parents=True)
    append_jsonl(folder.metrics, [{"step": 1}, {"step": 2}])
    (folder.path / "metrics.jsonl.partial").write_text('{"step": 9}\n', encoding="utf-8")
    folder.rewind(1)
    assert read_jsonl(folder.metrics) == [{"step": 1}]
