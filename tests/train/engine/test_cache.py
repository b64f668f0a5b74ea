"""Where measurements and compiled code are kept."""

from pathlib import Path

import pytest

from train.engine.compile import CACHE, cache_folder


def test_the_folder_is_the_one_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE, "/scratch/mine")
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert cache_folder() == Path("/scratch/mine")


@pytest.mark.parametrize("named", [None, ""])
def test_else_it_lies_in_the_user_s_cache_folder(
    named: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if named is None:
        monkeypatch.delenv(CACHE, raising=False)
    else:
        monkeypatch.setenv(CACHE, named)
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert cache_folder() == Path("/caches/windtunnel")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert cache_folder() == Path("/home/someone/.cache/windtunnel")


def test_asking_makes_no_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    cache_folder()
    assert list(tmp_path.iterdir()) == []
