"""The real wandb client against a server on this machine: runs, refusals, silence."""

import socket
import time

import pytest
from wandb_server import serve, wandb_run

from analysis.errors import InputError
from analysis.intake.wandb_reader import fetch_runs

pytest.importorskip("wandb", reason="the extra windtunnel[wandb] is not installed")

KEY = "k" * 40


@pytest.fixture(autouse=True)
def _no_key(monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_ENTITY", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")


@pytest.fixture
def silent():
    """A server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def use(monkeypatch, address):
    monkeypatch.setenv("WANDB_BASE_URL", address)
    monkeypatch.setenv("WANDB_API_KEY", KEY)


def test_all_pages_of_a_group_are_read(monkeypatch):
    runs = [
        wandb_run(f"r{k}", {"loss": 2.5, "_step": 3, "hist": {"deep": 1}}, data={"name": "enwik8"})
        for k in range(103)
    ]
    other = wandb_run("x", {"loss": 1.0})
    other["group"] = "elsewhere"
    with serve([*runs, other]) as (address, asked):
        use(monkeypatch, address)
        found = fetch_runs("team", "wind", "tunnel")
    assert [run["id"] for run in found] == [f"r{k}-a1" for k in range(103)]
    assert found[7] == {
        "id": "r7-a1",
        "name": "r7",
        "state": "finished",
        "created_at": "2026-01-01T00:00:00",
        "config": {"data.name": "enwik8"},
        "summary": {"loss": 2.5, "hist.deep": 1},
    }
    assert sum("runs(" in request["query"] for request in asked) == 2


def test_an_empty_group_names_the_nearest(monkeypatch):
    with serve([wandb_run("r", {"loss": 2.5})]) as (address, _):
        use(monkeypatch, address)
        with pytest.raises(
            InputError, match=r"no runs in the group 'tunel'; did you mean tunnel\?"
        ):
            fetch_runs("team", "wind", "tunel")


def test_a_project_without_groups_is_told(monkeypatch):
    with serve([]) as (address, _):
        use(monkeypatch, address)
        with pytest.raises(InputError, match=r"'tunnel'; team/wind has no groups"):
            fetch_runs("team", "wind", "tunnel")


def test_an_unknown_project_is_told(monkeypatch):
    with serve([]) as (address, _):
        use(monkeypatch, address)
        with pytest.raises(InputError, match=r"no project team/wnd at http://127") as refused:
            fetch_runs("team", "wnd", "tunnel")
    assert "may not read it" in str(refused.value)


def test_no_key_is_told(monkeypatch):
    with pytest.raises(InputError, match=r"No API key configured.*; set WANDB_API_KEY or run"):
        fetch_runs("team", "wind", "tunnel")


def test_a_key_that_is_refused_is_not_shown(monkeypatch):
    with serve([], key_works=False) as (address, _):
        use(monkeypatch, address)
        with pytest.raises(InputError, match=r"set WANDB_API_KEY or run") as refused:
            fetch_runs("team", "wind", "tunnel")
    assert KEY not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_silence_ends_the_wait_and_the_process(monkeypatch, silent):
    use(monkeypatch, silent)
    began = time.monotonic()
    with pytest.raises(InputError, match=r"no answer from .* within 3 s; check the network"):
        fetch_runs("team", "wind", "tunnel", seconds=3.0)
    assert time.monotonic() - began < 10


def test_an_address_where_nothing_listens_is_told(monkeypatch):
    use(monkeypatch, "http://127.0.0.1:9")
    with pytest.raises(InputError, match=r"127\.0\.0\.1:9.*study=NAME") as refused:
        fetch_runs("team", "wind", "tunnel", seconds=4.0)
    assert KEY not in str(refused.value)


def test_an_address_that_is_none_is_told(monkeypatch):
    use(monkeypatch, "not an address")
    with pytest.raises(InputError, match=r"validation error for Settings.*study=NAME") as refused:
        fetch_runs("team", "wind", "tunnel")
    assert "\n" not in str(refused.value)


def test_a_reader_that_dies_is_told(monkeypatch):
    monkeypatch.setattr("analysis.intake.wandb_reader.sys.executable", "/bin/true")
    with pytest.raises(InputError, match=r"wandb ended without an answer; try again"):
        fetch_runs("team", "wind", "tunnel")
