"""W1 to W3: W&B that is absent, unreachable, slow or broken.

The controls call wandb from the training loop, as trainers do. A fake wandb fails at a named call;
W2 uses the real one.
"""

import json
import os
import signal
import socket
import time
from pathlib import Path

import pytest

from faults.patches import Hold, Replace, at_step
from faults.runner import ends, run_child, starts
from faults.same_run import assert_same_run
from faults.wandb_faults import EVALS, STEPS, mirrored, patched
from tests.train.mirror_requests import calls_of
from tests.train.wandb_record import read_offline_run
from train.storage.records import read_jsonl
from train.tracking import wandb_mirror
from train.tracking.mirror import MirrorRequest
from train.tracking.wandb_mirror import Mirror, Trainer

pytestmark = pytest.mark.usefixtures("no_key")

KEY = "k" * 40


def short_limit(**words):
    return MirrorRequest(**words, limit_seconds=2.0)


SHORT = Replace("train.tracking.tracker:MirrorRequest", short_limit)


def test_w1_without_a_key_or_a_terminal_the_run_completes_with_one_warning(
    tiny, reference_run, calls
):
    done = run_child(mirrored(tiny))
    assert done.exit_code == 0, done.stderr
    assert_same_run(done.folder, reference_run)
    assert ends(done.folder)[-1]["mirror"] == {
        "mode": "offline",
        "rows": STEPS + EVALS,
        "reason": "ValueError: No API key configured",
    }
    assert done.stderr.count("warning:") == 1
    assert "No API key configured" in done.stderr


def test_w1_control_a_trainer_that_calls_wandb_itself_fails(tiny, calls):
    done = run_child(tiny(), patched())
    assert done.exit_code == 1
    assert "No API key configured" in done.stderr
    assert done.folder.state() == "failed"


@pytest.fixture(params=["dead", "silent"])
def endpoint(request, monkeypatch):
    """An API key, and a server that refuses connections or never answers."""
    pytest.importorskip("wandb", reason="the extra windtunnel[wandb] is not installed")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(64)
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        if request.param == "dead":
            url = "http://127.0.0.1:9"
        monkeypatch.setenv("WANDB_BASE_URL", url)
        yield url


def test_w2_the_real_wandb_goes_offline_when_its_server_does_not_answer(
    tmp_path, reference_run, endpoint, monkeypatch
):
    monkeypatch.setattr(wandb_mirror, "CONNECT_SECONDS", 1.5)
    for name in ("metrics.jsonl", "evals.jsonl"):
        (tmp_path / name).write_bytes((reference_run.path / name).read_bytes())
    request = MirrorRequest(
        id="r-a1",
        name="r",
        group="s",
        project="p",
        entity=None,
        mode="auto",
        config={},
        start_step=0,
    )
    read, write = os.pipe()
    os.write(write, b'{"state": "completed", "summary": {}}\n')
    spare = os.open(os.devnull, os.O_RDONLY)
    try:
        report = Mirror(request, tmp_path, Trainer(read), not_for_worker=spare).keep()
    finally:
        for descriptor in (read, write, spare):
            os.close(descriptor)
    assert (report["mode"], report["rows"]) == ("offline", STEPS + EVALS)
    run = read_offline_run(tmp_path, "r-a1")
    assert len(run.history) == STEPS + EVALS
    assert run.exit_code == 0


@pytest.mark.slow
def test_w2_training_starts_and_ends_as_if_there_were_no_server(tiny, reference_run, endpoint):
    done = run_child(mirrored(tiny))
    assert done.exit_code == 0, done.stderr
    assert done.seconds < 25.0
    assert_same_run(done.folder, reference_run)
    end = ends(done.folder)[-1]["mirror"]
    assert (end["mode"], end["rows"]) == ("offline", STEPS + EVALS)
    assert done.stderr.count("warning:") == 1
    (attempt,) = starts(done.folder)
    assert len(read_offline_run(done.folder.path, attempt["wandb_id"]).history) == STEPS + EVALS


def test_w2_control_a_trainer_that_calls_wandb_itself_waits_for_the_server(
    tiny, calls, monkeypatch, started
):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("FAKE_WANDB_FAULTS", json.dumps({"init online": "hang"}))
    child = started(tiny(), patched())
    child.wait_for(lambda: calls_of(calls, "init"))
    # longer than the whole run takes
    time.sleep(1.0)
    assert len(read_jsonl(child.folder.metrics)) == 1


def strike(fault, worker):
    if fault not in ("mirror killed", "all stopped"):
        return
    parent = int(Path(f"/proc/{worker}/stat").read_text(encoding="utf-8").split(")")[1].split()[1])
    if fault == "mirror killed":
        os.kill(parent, signal.SIGKILL)
    elif fault == "all stopped":
        os.killpg(parent, signal.SIGSTOP)


SILENCE = "its process gave no answer in 2 s"
W3_FAULTS = {
    "raise": ("RuntimeError: log is broken",),
    "die": ("wandb's process died (exit code -9)",),
    # the mirror and the trainer reach their limits at about the same time
    "hang": ("wandb did not end in time", SILENCE),
    "mirror killed": ("its process was killed by signal 9",),
    "all stopped": (SILENCE,),
}


@pytest.mark.parametrize("fault", W3_FAULTS)
def test_w3_a_mirror_that_breaks_at_a_step_changes_no_bit_and_no_step_waits_for_it(
    tmp_path, tiny, reference_run, calls, monkeypatch, started, fault
):
    at_log = {} if fault in ("mirror killed", "all stopped") else {"log 20": fault}
    monkeypatch.setenv("FAKE_WANDB_FAULTS", json.dumps(at_log))
    held = tmp_path / "held"
    child = started(mirrored(tiny), SHORT, at_step(41, Hold(held)))
    child.wait_for(lambda: held.exists() and len(calls_of(calls, "log")) >= 20)
    strike(fault, calls_of(calls, "init")[-1]["pid"])
    # 20 steps are left
    held.unlink()
    began = time.monotonic()
    child.wait_for(lambda: child.folder.state() == "completed")
    assert time.monotonic() - began < 10.0
    if at_log:
        assert len(calls_of(calls, "log")) == 20
    done = child.wait()
    assert done.exit_code == 0, done.stderr
    assert_same_run(done.folder, reference_run)
    end = ends(done.folder)[-1]["mirror"]
    assert end["mode"] == "off"
    assert end["reason"] in W3_FAULTS[fault]
    assert done.stderr.count("is not mirrored to W&B") == 1
    assert "python -m train.tracking.push study=faults" in done.stderr


@pytest.mark.parametrize(("fault", "exit_code"), [("raise", 1), ("die", -9), ("hang", None)])
def test_w3_control_a_trainer_that_calls_wandb_itself_breaks_with_it(
    tiny, calls, monkeypatch, started, fault, exit_code
):
    monkeypatch.setenv("FAKE_WANDB_FAULTS", json.dumps({"log 20": fault}))
    child = started(tiny(), patched(mode="offline"))
    child.wait_for(lambda: len(calls_of(calls, "log")) == 20)
    if exit_code is None:
        # longer than the whole run takes
        time.sleep(1.0)
    else:
        assert child.wait().exit_code == exit_code
    assert len(read_jsonl(child.folder.metrics)) == 20
    assert child.folder.state() != "completed"
