"""The mirror: what it says, where it writes, and that it never stops training."""

import builtins
import os
import subprocess
import sys
import types
import warnings
from pathlib import Path
from typing import Any

import pytest

from train.config import TrackerConfig, TrackerKind, WandbMode
from train.errors import MissingExtraError
from train.tracker import NullTracker, Tracker, build_tracker, resolve_mode

REPO = Path(__file__).resolve().parents[2]
METRICS = {
    "step": 7,
    "tokens": 1792,
    "flops": 10**9,
    "loss": 2.5,
    "lr": 0.01,
    "grad_norm": 0.3,
    "tokens_per_second": 1e4,
    "mfu": 0.5,
    "seconds": 0.18,
}
EVAL = {
    "step": 7,
    "tokens": 1792,
    "flops": 10**9,
    "split": "validation",
    "loss": 2.6,
    "bits_per_byte": 3.75,
    "n_tokens": 1024,
    "data_sha256": "ab",
}


class FakeRun:
    """Remembers what it was told; fails at the call that is named."""

    def __init__(self, fails_at: str | None = None) -> None:
        self.fails_at, self.calls = fails_at, []
        self.summary = self

    def _call(self, name: str, *words: Any, **named: Any) -> None:
        self.calls.append((name, words, named))
        if name == self.fails_at:
            raise RuntimeError(f"{name} is broken")

    def log(self, values: dict[str, Any]) -> None:
        self._call("log", values)

    def define_metric(self, name: str, **named: Any) -> None:
        self._call("define_metric", name, **named)

    def update(self, values: dict[str, Any]) -> None:
        self._call("update", values)

    def finish(self, **named: Any) -> None:
        self._call("finish", **named)

    def told(self, name: str) -> list[Any]:
        return [words[0] if words else named for call, words, named in self.calls if call == name]


class FakeWandb(types.ModuleType):
    """A wandb whose init fails in the modes that are named."""

    def __init__(self, run: FakeRun, *, broken_modes: tuple[str, ...] = ()) -> None:
        super().__init__("wandb")
        self.run, self.broken_modes = run, broken_modes
        self.inits: list[dict[str, Any]] = []
        self.Settings = dict

    def init(self, **words: Any) -> FakeRun:
        self.inits.append(words)
        if words["mode"] in self.broken_modes:
            raise ConnectionError("no route")
        return self.run


def install(monkeypatch: pytest.MonkeyPatch, wandb: FakeWandb, key: str | None = None) -> None:
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("NETRC", "/nowhere")
    if key is None:
        monkeypatch.delenv("WANDB_API_KEY", raising=False)
    else:
        monkeypatch.setenv("WANDB_API_KEY", key)


def build(folder: Path, mode: WandbMode = WandbMode.auto) -> Tracker:
    return build_tracker(
        TrackerConfig(kind=TrackerKind.wandb, mode=mode, project="p", entity="e"),
        study="study",
        run_id="d8l2-x",
        attempt=2,
        science={"seed": 0},
        folder=folder,
    )


def use(tracker: Tracker) -> None:
    tracker.log_metrics(METRICS)
    tracker.log_eval(EVAL)
    tracker.finish("completed", {"loss": 2.6})


def test_a_run_is_named_grouped_and_described(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = FakeWandb(FakeRun())
    install(monkeypatch, wandb)
    assert build(tmp_path).attempt_id == "d8l2-x-a2"
    (words,) = wandb.inits
    expected = {
        "project": "p",
        "entity": "e",
        "group": "study",
        "name": "d8l2-x",
        "id": "d8l2-x-a2",
        "config": {"seed": 0},
        "dir": tmp_path,
        "mode": "offline",
        "resume": "never",
    }
    assert {key: words[key] for key in expected} == expected
    assert words["settings"]["disable_code"] is True


def test_rows_are_mirrored_under_grouped_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = FakeRun()
    install(monkeypatch, FakeWandb(run))
    use(build(tmp_path))
    progress = {"progress/step": 7, "progress/tokens": 1792, "progress/flops": 10**9}
    assert run.told("log") == [
        {
            **progress,
            "train/loss": 2.5,
            "train/lr": 0.01,
            "train/grad_norm": 0.3,
            "perf/tokens_per_second": 1e4,
            "perf/mfu": 0.5,
        },
        {**progress, "val/loss": 2.6, "val/bits_per_byte": 3.75},
    ]
    assert run.told("update") == [{"state": "completed", "loss": 2.6}]
    assert run.told("finish") == [{"exit_code": 0}]


def test_the_x_axes_are_tokens_and_flops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = FakeRun()
    install(monkeypatch, FakeWandb(run))
    build(tmp_path)
    defined = {words[0]: named for call, words, named in run.calls if call == "define_metric"}
    assert defined == {
        "progress/step": {},
        "progress/tokens": {},
        "progress/flops": {},
        "train/*": {"step_metric": "progress/tokens"},
        "perf/*": {"step_metric": "progress/tokens"},
        "val/*": {"step_metric": "progress/flops"},
    }


@pytest.mark.parametrize(
    ("state", "code"), [("completed", 0), ("preempted", 0), ("diverged", 1), ("failed", 1)]
)
def test_the_end_says_whether_it_was_a_good_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str, code: int
) -> None:
    run = FakeRun()
    install(monkeypatch, FakeWandb(run))
    build(tmp_path).finish(state, {})
    assert run.told("finish") == [{"exit_code": code}]


@pytest.mark.parametrize("fails_at", ["define_metric", "log", "update", "finish"])
def test_a_broken_wandb_is_switched_off_once_and_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: str
) -> None:
    run = FakeRun(fails_at)
    install(monkeypatch, FakeWandb(run))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        tracker = build(tmp_path)
        use(tracker)
        use(tracker)
    assert len(told) == 1
    assert f"RuntimeError: {fails_at} is broken" in str(told[0].message)
    assert "this attempt is no longer mirrored" in str(told[0].message)
    assert len(run.told(fails_at)) == 1  # nothing is tried again


def test_settings_that_this_wandb_does_not_know_switch_it_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = FakeWandb(FakeRun())
    install(monkeypatch, wandb)

    def refuse(**words: Any) -> None:
        raise ValueError("extra fields not permitted")

    wandb.Settings = refuse
    with pytest.warns(UserWarning, match="wandb failed to start .*extra fields"):
        tracker = build(tmp_path)
    use(tracker)
    assert wandb.inits == []


def test_auto_goes_offline_when_the_connection_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = FakeRun()
    wandb = FakeWandb(run, broken_modes=("online",))
    install(monkeypatch, wandb, key="k")
    with pytest.warns(UserWarning, match="no route"):
        tracker = build(tmp_path)
    use(tracker)
    assert [words["mode"] for words in wandb.inits] == ["online", "offline"]
    assert len(run.told("log")) == 2


def test_online_that_was_asked_for_and_fails_is_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = FakeRun()
    wandb = FakeWandb(run, broken_modes=("online",))
    install(monkeypatch, wandb, key="k")
    with pytest.warns(UserWarning, match="no longer mirrored"):
        use(build(tmp_path, WandbMode.online))
    assert [words["mode"] for words in wandb.inits] == ["online"]
    assert run.calls == []


@pytest.mark.parametrize(
    ("mode", "has_key", "environment", "expected"),
    [
        ("auto", True, None, "online"),
        ("auto", False, None, "offline"),
        ("auto", True, "offline", "offline"),
        ("auto", False, "online", "online"),
        ("online", False, "offline", "online"),
        ("offline", True, "online", "offline"),
    ],
)
def test_the_mode_by_config_key_and_environment(
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
    has_key: bool,
    environment: str | None,
    expected: str,
) -> None:
    if environment is None:
        monkeypatch.delenv("WANDB_MODE", raising=False)
    else:
        monkeypatch.setenv("WANDB_MODE", environment)
    assert resolve_mode(WandbMode[mode], has_key=has_key) == expected


def test_a_key_is_found_in_the_environment_or_in_netrc(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = FakeWandb(FakeRun())
    install(monkeypatch, wandb)
    netrc = tmp_path / "netrc"
    monkeypatch.setenv("NETRC", str(netrc))
    build(tmp_path)
    netrc.write_text("machine github.com login a password b\n", encoding="utf-8")
    build(tmp_path)
    netrc.write_text("machine api.wandb.ai login user password k\n", encoding="utf-8")
    build(tmp_path)
    netrc.unlink()
    monkeypatch.setenv("WANDB_API_KEY", "k")
    build(tmp_path)
    assert [w["mode"] for w in wandb.inits] == ["offline", "offline", "online", "online"]


@pytest.mark.parametrize(
    "config",
    [
        TrackerConfig(kind=TrackerKind.none),
        TrackerConfig(kind=TrackerKind.wandb, mode=WandbMode.off),
    ],
)
def test_no_mirror_needs_no_wandb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: TrackerConfig
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    tracker = build_tracker(config, study="s", run_id="r", attempt=1, science={}, folder=tmp_path)
    assert isinstance(tracker, NullTracker)
    assert tracker.attempt_id is None
    use(tracker)
    assert list(tmp_path.iterdir()) == []


def test_wandb_disabled_by_the_environment_is_no_mirror(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, FakeWandb(FakeRun()), key="k")
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert isinstance(build(tmp_path), NullTracker)


def test_a_missing_wandb_names_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_wandb(name: str, *words: Any, **named: Any) -> Any:
        if name.split(".")[0] == "wandb":
            raise ModuleNotFoundError(f"No module named {name!r}")
        return real(name, *words, **named)

    monkeypatch.setattr(builtins, "__import__", without_wandb)
    with pytest.raises(MissingExtraError, match=r"-e '\.\[wandb\]'") as refused:
        build(tmp_path)
    assert refused.value.exit_code == 2


REAL = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_tracker import WandbMode, build, use
use(build(Path(sys.argv[1]), WandbMode.offline))
"""


def test_the_real_wandb_runs_offline_and_writes_below_the_folder_alone(tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="the extra windtunnel[wandb] is not installed")
    run, home, cwd = tmp_path / "run", tmp_path / "home", tmp_path / "cwd"
    for folder in (run, home, cwd):
        folder.mkdir()
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("WANDB_")},
        "HOME": str(home),
        "TMPDIR": str(tmp_path),
        "PYTHONPATH": str(REPO),
    }
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "error::UserWarning:train",
            "-c",
            REAL,
            str(run),
            str(Path(__file__).parent),
        ],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "no longer mirrored" not in done.stderr
    (record,) = run.glob("wandb/offline-run-*/run-d8l2-x-a2.wandb")
    assert b"val/bits_per_byte" in record.read_bytes()
    assert list(cwd.iterdir()) == []
