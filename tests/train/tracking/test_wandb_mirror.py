"""The mirror process: what it mirrors, how it goes offline, and that it always answers in time.

A fake wandb raises, hangs, dies or stops at a named call; test_wandb_sdk.py runs the real one.
"""

import json
import os
import sys
import time

import pytest

from tests.train.mirror_requests import ENDING, FAKE, calls_of, request, use_fake
from train.storage.records import append_jsonl
from train.tracking import wandb_mirror
from train.tracking.wandb_mirror import Mirror, Trainer


@pytest.fixture
def fake(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.syspath_prepend(FAKE)
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    return use_fake(tmp_path, monkeypatch)


@pytest.fixture
def trainer():
    """This test as the mirror's trainer, and the file descriptor to which it writes."""
    read, write = os.pipe()
    yield Trainer(read), write
    os.close(read)
    os.close(write)


def keep(trainer, folder, *, ending=True, **changes):
    """Run the mirror in this process, which forks the worker."""
    ours, write = trainer
    spare = os.open(os.devnull, os.O_RDONLY)
    if ending:
        os.write(write, json.dumps(ENDING).encode() + b"\n")
    try:
        return Mirror(request(**changes), folder, ours, not_for_worker=spare).keep()
    finally:
        os.close(spare)


def write_rows(folder, *steps):
    rows = [{"step": step, "tokens": 10 * step, "flops": 100 * step, "loss": 1.0} for step in steps]
    append_jsonl(folder / "metrics.jsonl", rows)


def test_rows_after_the_start_are_mirrored_and_the_run_is_closed(tmp_path, fake, trainer):
    write_rows(tmp_path, 1, 2, 3, 4)
    append_jsonl(tmp_path / "evals.jsonl", [{"step": 3, "loss": 2.6}])
    assert keep(trainer, tmp_path, start_step=2) == {"mode": "offline", "rows": 3}
    logged = [call["values"] for call in calls_of(fake, "log")]
    assert [(row["progress/step"], "val/loss" in row) for row in logged] == [
        (3, False),
        (3, True),
        (4, False),
    ]
    (summary,) = calls_of(fake, "summary")
    assert summary["values"] == {"state": "completed", "loss": 2.5}
    assert calls_of(fake, "finish")[0]["named"] == {"exit_code": 0}
    (init,) = calls_of(fake, "init")
    assert init["words"]["id"] == "r-a1"
    assert init["pid"] != os.getpid()


@pytest.mark.parametrize(
    ("mode", "key", "modes", "report"),
    [
        ("auto", "k" * 40, ["online"], {"mode": "online", "rows": 1}),
        ("online", "k" * 40, ["online"], {"mode": "online", "rows": 1}),
        ("offline", "k" * 40, ["offline"], {"mode": "offline", "rows": 1}),
        (
            "auto",
            None,
            ["online", "offline"],
            {"mode": "offline", "rows": 1, "reason": "ValueError: No API key configured"},
        ),
        (
            "online",
            None,
            ["online"],
            {"mode": "off", "reason": "ValueError: No API key configured"},
        ),
    ],
)
def test_auto_is_online_when_wandb_finds_a_key_and_offline_otherwise(
    tmp_path, fake, trainer, monkeypatch, mode, key, modes, report
):
    if key:
        monkeypatch.setenv("WANDB_API_KEY", key)
    write_rows(tmp_path, 1)
    assert keep(trainer, tmp_path, mode=mode) == report
    assert [call["words"]["mode"] for call in calls_of(fake, "init")] == modes


@pytest.mark.parametrize("fault", ["raise", "hang", "die", "stop"])
def test_a_connection_that_fails_or_takes_too_long_is_replaced_by_an_offline_record(
    tmp_path, fake, trainer, monkeypatch, capsys, fault
):
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setenv("FAKE_WANDB_FAULTS", json.dumps({"init online": fault}))
    monkeypatch.setattr(wandb_mirror, "CONNECT_SECONDS", 0.5)
    write_rows(tmp_path, 1, 2)
    report = keep(trainer, tmp_path, mode="auto")
    assert (report["mode"], report["rows"]) == ("offline", 2)
    said = capsys.readouterr().err
    assert said.count("warning:") == 1
    assert f"mirrored offline, into {tmp_path / 'wandb'} ({report['reason']})" in said
    assert "python -m train.tracking.push study=s`" in said
    first = calls_of(fake, "init")[0]["pid"]
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)


@pytest.mark.parametrize(
    ("faults", "reason"),
    [
        ({"define_metric 1": "raise"}, "RuntimeError: define_metric is broken"),
        ({"log 2": "raise"}, "RuntimeError: log is broken"),
        ({"log 2": "die"}, "wandb's process died (exit code -9)"),
        ({"log 2": "hang"}, "wandb did not end in time"),
        ({"log 2": "stop"}, "wandb did not end in time"),
        ({"summary 1": "raise"}, "RuntimeError: summary is broken"),
        ({"finish 1": "hang"}, "wandb did not end in time"),
    ],
)
def test_a_broken_wandb_is_off_within_the_limit_and_says_why(
    tmp_path, fake, trainer, monkeypatch, faults, reason
):
    monkeypatch.setenv("FAKE_WANDB_FAULTS", json.dumps(faults))
    write_rows(tmp_path, 1, 2)
    began = time.monotonic()
    assert keep(trainer, tmp_path, limit_seconds=1.0) == {"mode": "off", "reason": reason}
    assert time.monotonic() - began < 4.0
    with pytest.raises(ProcessLookupError):
        os.kill(calls_of(fake, "init")[0]["pid"], 0)


def test_a_wandb_that_hangs_at_import_is_off_within_the_limit(tmp_path, fake, trainer, monkeypatch):
    monkeypatch.setenv("FAKE_WANDB_HANGS_AT_IMPORT", "1")
    report = keep(trainer, tmp_path, mode="auto", limit_seconds=1.0)
    assert report == {"mode": "off", "reason": "wandb did not end in time"}
    assert not fake.exists()


def test_a_damaged_record_ends_the_mirror_with_its_reason(tmp_path, fake, trainer):
    (tmp_path / "metrics.jsonl").write_text("nonsense\n", encoding="utf-8")
    report = keep(trainer, tmp_path)
    assert report["mode"] == "off"
    assert report["reason"].startswith("JSONDecodeError")


def test_no_key_is_repeated_in_a_reason(tmp_path, fake, trainer, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "log")  # what the fake's message holds
    monkeypatch.setenv("FAKE_WANDB_FAULTS", json.dumps({"log 1": "raise"}))
    write_rows(tmp_path, 1)
    assert keep(trainer, tmp_path)["reason"] == "RuntimeError: (key) is broken"
