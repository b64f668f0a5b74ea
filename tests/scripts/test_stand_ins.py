"""scripts/stand_ins: taken where a package is missing, and what train and torch use of it works."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))

import gpu_check  # type: ignore[import-not-found]  # noqa: E402


@pytest.fixture
def locks() -> ModuleType:
    """The stand-in for filelock, under another name."""
    path = SCRIPTS / "stand_ins" / "filelock" / "filelock.py"
    spec = importlib.util.spec_from_file_location("filelock_stand_in", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_lock_excludes_others_until_it_is_released(locks: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "below" / "a.lock"
    one, other = locks.FileLock(path), locks.FileLock(str(path), 0)
    with one:
        assert one.is_locked
        with pytest.raises(locks.Timeout, match=r"a\.lock"):
            other.acquire()
        with one.acquire(timeout=0):  # whoever holds it may take it again
            pass
        with pytest.raises(TimeoutError):
            other.acquire()
    assert not one.is_locked
    with other.acquire():
        assert other.is_locked
    assert not other.is_locked


def test_the_holder_is_written_down_when_the_lock_is_taken(
    locks: ModuleType, tmp_path: Path
) -> None:
    taken: list[int] = []
    lock = locks.FileLock(
        tmp_path / "a.lock", timeout=0.5, fallback_to_soft=False, on_acquired=taken.append
    )
    lock.acquire()
    assert len(taken) == 1
    lock.release()
    lock.release()  # once too often is no error


def test_a_lease_is_refused(locks: ModuleType, tmp_path: Path) -> None:
    lease = locks.SoftFileLease(tmp_path / "a.lease", lease_duration=30.0, on_compromise=print)
    assert lease.owner is None
    with pytest.raises(OSError, match=r"needs filelock 4\.1\.2 or newer"):
        lease.acquire(timeout=1.0)


def test_stand_ins_are_taken_for_what_is_missing_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert gpu_check.stand_ins() == []
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == "rich" else find_spec(name)
    )
    assert gpu_check.stand_ins() == [str(SCRIPTS / "stand_ins" / "rich")]
    monkeypatch.setitem(sys.modules, "filelock", ModuleType("filelock"))  # of before leases
    assert gpu_check.stand_ins() == [str(SCRIPTS / "stand_ins" / n) for n in ("rich", "filelock")]
