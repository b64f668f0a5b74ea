"""A lock names its holder, is seen without being disturbed, and has a stand-in without flock."""

import errno
import fcntl
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from filelock import SoftFileLease

from train.errors import LockedError, StorageError
from train.storage import lock
from train.storage.lock import Holder, hold, is_held, read_holder, refuse_if_held

REPO = Path(__file__).resolve().parents[3]
TASK = "is at it"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "study" / "run" / "run.lock"


def test_a_holder_is_seen_and_named_until_it_lets_go(path):
    assert not is_held(path)
    assert read_holder(path) is None
    before = datetime.now(UTC) - timedelta(seconds=1)
    with hold(path, task=TASK):
        assert is_held(path)
        holder = read_holder(path)
        assert holder is not None
        assert (holder.host, holder.pid) == (socket.gethostname(), os.getpid())
        assert before <= holder.since <= datetime.now(UTC)
    assert not is_held(path)


def test_a_second_holder_is_refused_quickly_with_host_pid_and_age(path):
    with hold(path, task=TASK):
        began = time.monotonic()
        pattern = (
            rf"^{re.escape(str(path.parent))}: process {os.getpid()} on "
            rf"{re.escape(socket.gethostname())} \(since \S+\+00:00, \d s ago\) is at it$"
        )
        with pytest.raises(LockedError, match=pattern), hold(path, task=TASK):
            pass
        assert time.monotonic() - began < 5.0
        # the holder lost nothing
        assert is_held(path)
        with pytest.raises(LockedError, match=pattern):
            refuse_if_held(path, task=TASK)
    refuse_if_held(path, task=TASK)
    with hold(path, task=TASK):
        pass


def test_patience_waits_for_the_holder(path):
    entered, done = threading.Event(), threading.Event()

    def hold_for_a_while():
        with hold(path, task=TASK):
            entered.set()
            # more than START_SECONDS
            time.sleep(0.8)
            done.set()

    thread = threading.Thread(target=hold_for_a_while)
    thread.start()
    entered.wait()
    with hold(path, task=TASK, patience=20):
        assert done.is_set()
    thread.join()


def test_age_is_told_in_seconds():
    since = datetime.now(UTC) - timedelta(seconds=90)
    words = str(Holder(host="box", pid=7, since=since))
    assert re.fullmatch(
        rf"process 7 on box \(since {re.escape(since.isoformat(timespec='seconds'))}, 9\d s ago\)",
        words,
    )


def test_looking_refuses_no_start(path):
    """A start that meets a look waits for it; the looks never see each other."""
    with hold(path, task=TASK):
        pass
    stop = threading.Event()
    seen = []

    def look():
        while not stop.is_set():
            seen.append(is_held(path))

    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    time.sleep(0.2)
    assert not any(seen)
    for _ in range(20):
        with hold(path, task=TASK):
            pass
    stop.set()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"{torn",
        b"[1, 2]",
        b'{"host": "box", "pid": 7}',
        b'{"host": "box", "pid": "x", "since": "2026-01-01T00:00:00+00:00"}',
        b'{"host": "\\u001b[31mbox", "pid": 7, "since": "2026-01-01T00:00:00+00:00"}',
        b'{"host": "box", "pid": 7, "since": "2026-01-01T00:00:00"}',
        b"\xff\xfe",
    ],
)
def test_a_holder_that_cannot_be_read_is_another_process(path, record):
    with hold(path, task=TASK):
        path.write_bytes(record)
        assert read_holder(path) is None
        message = re.escape(f"{path.parent}: another process is at it")
        with pytest.raises(LockedError, match=f"^{message}$"):
            refuse_if_held(path, task=TASK)


@pytest.mark.parametrize("name", ["file/run.lock", "n" * 300 + "/run.lock", "n" * 300])
def test_a_place_that_cannot_hold_a_lock_is_a_storage_error(tmp_path, name):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with (
        pytest.raises(StorageError, match=r": cannot be written \("),
        hold(tmp_path / name, task=TASK),
    ):
        pass
    assert not is_held(tmp_path / name)


def test_spaces_and_letters_of_any_alphabet_are_fine(tmp_path):
    path = tmp_path / "two words" / "\u03b1\u03b2 \u4e2d.lock"
    with hold(path, task=TASK):
        assert is_held(path)
        with pytest.raises(LockedError, match="two words: process"):
            refuse_if_held(path, task=TASK)


# Without flock


@pytest.fixture(params=[errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP])
def no_flock(request, monkeypatch):
    """A file system that cannot lock, and leases that expire within a test's patience."""

    def refuse(descriptor, operation):
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(lock, "LEASE_SECONDS", 0.6)
    return int(request.param)


@pytest.fixture
def marker_of_elsewhere(tmp_path, monkeypatch):
    """What a holder on another machine writes into its lease."""
    with monkeypatch.context() as patch:
        patch.setattr(socket, "gethostname", lambda: "elsewhere")
        with SoftFileLease(tmp_path / "other.lease", lease_duration=0.6) as lease:
            return Path(lease.lock_file).read_bytes()


@pytest.mark.filterwarnings("ignore:the file system has no flock")
@pytest.mark.usefixtures("no_flock")
def test_without_flock_a_lease_is_held(path):
    with hold(path, task=TASK):
        assert path.with_suffix(".lease").exists()
        assert is_held(path)
        # longer than a lease that nobody touches
        time.sleep(0.9)
        assert is_held(path)
        holder = read_holder(path)
        assert holder is not None
        assert (holder.host, holder.pid) == (socket.gethostname(), os.getpid())
        refused = rf"process {os.getpid()} on .* is at it"
        with pytest.raises(LockedError, match=refused), hold(path, task=TASK):
            pass
    assert not is_held(path)
    assert not path.with_suffix(".lease").exists()


def test_a_lease_instead_of_flock_is_said_once(path, no_flock):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        for name in ("run.lock", "study.lock", "manifest.lock"):
            with hold(path.with_name(name), task=TASK):
                pass
    assert [str(each.message) for each in said] == [
        f"the file system has no flock ({os.strerror(no_flock)}); leases of 0.6 s stand in for "
        f"its locks"
    ]


@pytest.mark.usefixtures("no_flock")
@pytest.mark.filterwarnings("ignore:the file system has no flock")
def test_a_lease_that_another_machine_touches_is_refused_quickly(path, marker_of_elsewhere):
    lease = path.with_suffix(".lease")
    lease.parent.mkdir(parents=True)
    lease.write_bytes(marker_of_elsewhere)
    assert is_held(path)
    with (
        pytest.raises(LockedError, match=r"process \d+ on elsewhere \(since"),
        hold(path, task=TASK),
    ):
        pass


@pytest.mark.usefixtures("no_flock")
@pytest.mark.filterwarnings("ignore:the file system has no flock")
def test_a_lease_that_nobody_touches_expires(path, marker_of_elsewhere):
    lease = path.with_suffix(".lease")
    lease.parent.mkdir(parents=True)
    lease.write_bytes(marker_of_elsewhere)
    os.utime(lease, (time.time() - 60,) * 2)
    assert not is_held(path)
    began = time.monotonic()
    with hold(path, task=TASK):
        # it was watched for as long as a lease lasts
        assert time.monotonic() - began >= 0.6
        assert is_held(path)


LOSE = """
import sys, time, warnings
from pathlib import Path
from train.storage import lock
import fcntl
warnings.simplefilter("ignore")
lock.LEASE_SECONDS = 0.6
def refuse(descriptor, operation):
    raise OSError(37, "No locks available")
fcntl.flock = refuse
path = Path(sys.argv[1])
with lock.hold(path, task="is at it"):
    path.with_suffix(".lease").unlink()
    time.sleep(20)
"""


def test_a_process_that_lost_its_lease_ends_with_exit_73(path):
    ended = subprocess.run(
        [sys.executable, "-c", LOSE, str(path)], cwd=REPO, capture_output=True, text=True,
        check=False, timeout=60,
    )  # fmt: skip
    assert ended.returncode == LockedError.exit_code
    assert ended.stderr.startswith("error: the lease was lost (")


def test_the_record_is_one_line_of_json(path):
    path.parent.mkdir(parents=True)
    # an older, longer record
    path.write_text("x" * 500, encoding="utf-8")
    with hold(path, task=TASK):
        record = json.loads(path.read_text(encoding="utf-8"))
    assert sorted(record) == ["host", "pid", "since"]
