"""The trainer's side of the mirror never raises, never waits long, and warns of what failed.

The mirror process imports a fake wandb (tests/train/fake_wandb).
"""

import sys

import pytest

from tests.train.mirror_requests import calls_of, use_fake
from train.config.runtime import TrackerConfig, TrackerKind, WandbMode
from train.errors import MissingExtraError
from train.storage.records import append_jsonl
from train.tracking import tracker as module
from train.tracking.tracker import NullTracker, build_tracker, require_tracker, resolve_mode

NONE = TrackerConfig(kind=TrackerKind.none)
OFFLINE = TrackerConfig(kind=TrackerKind.wandb, mode=WandbMode.offline, project="p", entity="e")


@pytest.fixture(autouse=True)
def calls(tmp_path, monkeypatch):
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    return use_fake(tmp_path, monkeypatch)


def build(folder, config=OFFLINE, **changes):
    words = {
        "study": "study",
        "run_id": "d8l2-x",
        "attempt": 2,
        "start_step": 3,
        "science": {"seed": 0},
        "folder": folder,
    }
    return build_tracker(config, **{**words, **changes})


def test_an_attempt_is_mirrored_under_its_own_id(tmp_path, calls):
    append_jsonl(tmp_path / "metrics.jsonl", [{"step": step, "loss": 2.0} for step in range(1, 6)])
    tracker = build(tmp_path)
    assert tracker.attempt_id == "d8l2-x-a2"
    assert tracker.finish("completed", {"loss": 2.5}) == {"mode": "offline", "rows": 2}
    words = calls_of(calls, "init")[0]["words"]
    expected = {
        "id": "d8l2-x-a2",
        "name": "d8l2-x",
        "group": "study",
        "project": "p",
        "entity": "e",
        "mode": "offline",
        "resume": "never",
        "dir": str(tmp_path),
        "config": {"seed": 0},
    }
    assert {key: words[key] for key in expected} == expected
    assert [row["values"]["progress/step"] for row in calls_of(calls, "log")] == [4, 5]
    assert calls_of(calls, "summary")[0]["values"] == {"state": "completed", "loss": 2.5}


@pytest.mark.parametrize(
    "config", [NONE, TrackerConfig(kind=TrackerKind.wandb, mode=WandbMode.off)]
)
def test_no_mirror_needs_no_wandb_and_starts_nothing(tmp_path, monkeypatch, config):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    monkeypatch.setattr(module, "MirrorProcess", None)
    tracker = build(tmp_path, config)
    assert isinstance(tracker, NullTracker)
    assert tracker.attempt_id is None
    assert tracker.finish("completed", {}) is None
    assert list(tmp_path.iterdir()) == []


def test_wandb_disabled_by_the_environment_is_no_mirror(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    config = TrackerConfig(kind=TrackerKind.wandb, mode=WandbMode.auto)
    assert isinstance(build(tmp_path, config), NullTracker)


@pytest.mark.parametrize(
    ("mode", "environment", "expected"),
    [
        ("auto", None, "auto"),
        ("auto", "offline", "offline"),
        ("auto", "online", "online"),
        ("auto", "disabled", "off"),
        ("auto", "dryrun", "offline"),
        ("auto", "run", "online"),
        ("auto", "nonsense", "auto"),
        ("online", "offline", "online"),
        ("offline", "online", "offline"),
        ("off", "online", "off"),
    ],
)
def test_the_environment_decides_what_auto_is(monkeypatch, mode, environment, expected):
    if environment is not None:
        monkeypatch.setenv("WANDB_MODE", environment)
    assert resolve_mode(WandbMode[mode]) == expected


def test_a_missing_wandb_names_its_extra(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"-e '\.\[wandb\]'") as refused:
        build(tmp_path)
    assert refused.value.exit_code == 2


def test_a_folder_of_wandb_s_logs_is_not_the_package(tmp_path, monkeypatch):
    (tmp_path / "wandb").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    with pytest.raises(MissingExtraError):
        require_tracker(OFFLINE)


def test_asking_for_the_package_does_not_load_it(monkeypatch):
    pytest.importorskip("wandb", reason="the extra windtunnel[wandb] is not installed")
    monkeypatch.delitem(sys.modules, "wandb")
    require_tracker(OFFLINE)
    assert "wandb" not in sys.modules


def test_a_mirror_that_fails_is_said_once_at_the_end(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    tracker = build(tmp_path)
    assert capsys.readouterr().err == ""
    reports = [tracker.finish("completed", {}) for _ in range(2)]
    assert reports[0] == reports[1]
    assert reports[0]["mode"] == "off"
    assert "its process could not start" in reports[0]["reason"]
    assert capsys.readouterr().err == (
        f"warning: d8l2-x-a2 is not mirrored to W&B: {reports[0]['reason']}; the run folder has "
        "all rows, and `python -m train.tracking.push study=study` rebuilds W&B from it\n"
    )


def test_a_closed_standard_error_is_no_reason_to_fail(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with (tmp_path / "closed").open("w") as closed:
        pass
    monkeypatch.setattr(sys, "stderr", closed)
    assert build(tmp_path).attempt_id == "d8l2-x-a2"
