"""The mirror with the real wandb: what it writes offline, what it sends to a server."""

import socket

import pytest

from tests.train.mirror_requests import leave_no_key
from tests.train.wandb_record import read_offline_run
from tests.train.wandb_service import serve
from train.storage.records import append_jsonl
from train.tracking.mirror import MirrorProcess, MirrorRequest

pytest.importorskip("wandb", reason="the extra windtunnel[wandb] is not installed")

SCIENCE = {"seed": 0, "model": {"d_model": 16}}
RESULT = {"loss": 2.5, "n_params": 1_000, "device": "cpu", "bits_per_byte": None}
CANARY = "canary-7f3a"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A user without a key, in folders of their own."""
    leave_no_key(tmp_path / "home", monkeypatch)
    for name in ("cwd", "run"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("CANARY_TOKEN", CANARY)
    monkeypatch.chdir(tmp_path / "cwd")
    return tmp_path / "home"


def write_rows(folder):
    rows = [
        {"step": step, "tokens": 10 * step, "flops": 100 * step, "loss": 1 / step, "lr": 0.5}
        for step in range(1, 41)
    ]
    append_jsonl(folder / "metrics.jsonl", rows)
    evals = [
        {"step": step, "tokens": 10 * step, "flops": 100 * step, "loss": 2.5, "bits_per_byte": 3.6}
        for step in (20, 40)
    ]
    append_jsonl(folder / "evals.jsonl", evals)


def mirror(folder, **changes):
    write_rows(folder)
    fields = {
        "id": "d16-x-a2",
        "name": "d16-x",
        "group": "study",
        "project": "tunnel",
        "entity": None,
        "mode": "auto",
        "config": SCIENCE,
        "start_step": 30,
    }
    process = MirrorProcess(MirrorRequest(**{**fields, **changes}), folder)
    return process.finish("completed", RESULT)


def check_history(history):
    assert [row["progress/step"] for row in history] == [*range(31, 41), 40]
    assert [row["train/loss"] for row in history[:-1]] == [1 / step for step in range(31, 41)]
    assert history[-1]["val/loss"] == 2.5
    assert history[-1]["progress/flops"] == 4_000


def test_without_a_key_auto_writes_everything_offline_and_below_the_run_folder_alone(
    tmp_path, home, capfd
):
    report = mirror(tmp_path / "run")
    assert report == {"mode": "offline", "rows": 11, "reason": "UsageError: No API key configured"}
    said = capfd.readouterr()
    assert said.out == ""
    assert said.err.startswith("warning: d16-x-a2 is mirrored offline")
    # wandb itself prints nothing
    assert said.err.count("\n") == 1
    run = read_offline_run(tmp_path / "run", "d16-x-a2")
    assert (run.id, run.name, run.group, run.project) == ("d16-x-a2", "d16-x", "study", "tunnel")
    assert {key: run.config[key] for key in SCIENCE} == SCIENCE
    check_history(run.history)
    assert run.summary["state"] == "completed"
    assert run.summary["n_params"] == 1_000
    assert "bits_per_byte" not in run.summary
    assert run.axes["train/*"] == "progress/tokens"
    assert run.axes["val/*"] == "progress/flops"
    assert run.exit_code == 0
    assert list((tmp_path / "cwd").iterdir()) == []
    assert [path for path in home.rglob("*") if path.is_file()] == []
    written = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert {path.name for path in written} >= {"run-d16-x-a2.wandb", "debug.log"}
    for path in written:
        assert CANARY.encode() not in path.read_bytes(), path
    assert run.host == ""


def test_with_a_key_everything_is_on_the_server_and_nothing_private_is(tmp_path):
    with serve() as service, pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_BASE_URL", service.url)
        patch.setenv("WANDB_API_KEY", "k" * 40)
        assert mirror(tmp_path / "run") == {"mode": "online", "rows": 11}
        run = service.runs["d16-x-a2"]
        assert (run.name, run.group) == ("d16-x", "study")
        assert {key: run.config[key] for key in SCIENCE} == SCIENCE
        check_history(run.history)
        assert run.summary["state"] == "completed"
        assert run.exit_code == 0
        sent = b"".join(service.received)
    assert b"d16-x-a2" in sent
    for private in (CANARY, "k" * 40, socket.gethostname(), "wandb_mirror", "requirements.txt"):
        name = private.encode()
        assert name not in sent.replace(service.url.encode(), b""), private
