"""W&B that is absent, unreachable, slow, broken or killed: rows W1 to W6 of the fault catalogue.

Each protection has its control: a run that calls wandb itself, as trainers do, fails, hangs or
dies with it. A fake wandb (tests/train/fake_wandb) strikes at a named call; W2 and W4 use the real
one.
"""

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from faults.patches import EVERY, At, Hold, Replace, kill_after_step
from faults.runner import Child, run_child
from faults.same_run import assert_same_run
from tests.train.wandb_record import parse, read_offline_run
from train import wandb_mirror
from train.config import Config, TrackerKind
from train.mirror import MirrorRequest
from train.records import read_jsonl
from train.rundir import RunFolder
from train.tracker import Tracker, build_tracker
from train.wandb_mirror import Mirror, Trainer

REPO = Path(__file__).resolve().parents[2]
FAKE = REPO / "tests" / "train" / "fake_wandb"
KEY = "k" * 40
STEPS, EVALS = 60, 4
Make = Callable[..., Config]


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without a key or a terminal."""
    for name in list(os.environ):
        if name.startswith("WANDB_") or name == "NETRC":
            monkeypatch.delenv(name)
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the fake wandb writes down its calls."""
    monkeypatch.setenv("PYTHONPATH", str(FAKE))
    monkeypatch.setenv("FAKE_WANDB_CALLS", str(tmp_path / "calls"))
    return tmp_path / "calls"


def of_kind(calls: Path, kind: str) -> list[dict[str, Any]]:
    if not calls.exists():
        return []
    lines = [json.loads(line) for line in calls.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line["call"] == kind]


def mirrored(tiny: Make, **changes: Any) -> Config:
    return tiny(tracker__kind=TrackerKind.wandb, **changes)


def ends(folder: RunFolder) -> list[dict[str, Any]]:
    return [row for row in read_jsonl(folder.attempts) if row["event"] == "end"]


@dataclass
class CallsWandbItself:
    """The protection removed: the trainer loads wandb and logs to it after each row."""

    path: str = str(FAKE)
    mode: str = "online"
    folder: str = "."
    runs: list[Any] = field(default_factory=list)

    def __call__(self) -> None:
        if not self.runs:
            sys.path.insert(0, self.path)
            import wandb

            self.runs.append(wandb.init(mode=self.mode, dir=self.folder, id="r", project="p"))
        self.runs[0].log({"train/loss": 1.0})


def patched(**words: Any) -> At:
    return At("train.loop:log_row", CallsWandbItself(**words), call=EVERY, when="after")


def short_limit(**words: Any) -> MirrorRequest:
    """A request whose end is waited for 2 s instead of 20."""
    return MirrorRequest(**words, limit_seconds=2.0)


SHORT = Replace("train.tracker:MirrorRequest", short_limit)


def test_w1_without_a_key_or_a_terminal_the_run_completes_with_one_warning(
    tiny: Make, reference_run: RunFolder, calls: Path
) -> None:
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


def test_w1_control_a_trainer_that_calls_wandb_itself_fails(tiny: Make, calls: Path) -> None:
    done = run_child(tiny(), patched())
    assert done.exit_code == 1
    assert "No API key configured" in done.stderr
    assert done.folder.state() == "failed"


@pytest.fixture(params=["dead", "silent"])
def endpoint(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A key, and a server that refuses connections or accepts them and never answers."""
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
    tmp_path: Path, reference_run: RunFolder, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process itself, with less patience than its 12 s."""
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
def test_w2_training_starts_and_ends_as_if_there_were_no_server(
    tiny: Make, reference_run: RunFolder, endpoint: str
) -> None:
    done = run_child(mirrored(tiny))
    assert done.exit_code == 0, done.stderr
    assert done.seconds < 25.0
    assert_same_run(done.folder, reference_run)
    end = ends(done.folder)[-1]["mirror"]
    assert (end["mode"], end["rows"]) == ("offline", STEPS + EVALS)
    assert done.stderr.count("warning:") == 1
    (attempt,) = [row for row in read_jsonl(done.folder.attempts) if row["event"] == "start"]
    assert len(read_offline_run(done.folder.path, attempt["wandb_id"]).history) == STEPS + EVALS


def test_w2_control_a_trainer_that_calls_wandb_itself_waits_for_the_server(
    tiny: Make, calls: Path, monkeypatch: pytest.MonkeyPatch, started: Callable[..., Child]
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("FAKE_WANDB_FAULTS", json.dumps({"init online": "hang"}))
    child = started(tiny(), patched())
    child.wait_for(lambda: of_kind(calls, "init"))
    time.sleep(2.0)  # more than the whole run takes
    assert len(read_jsonl(child.folder.metrics)) == 1


def strike(fault: str, worker: int) -> None:
    """Do to the mirror what the fake cannot do to itself."""
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
    "hang": ("wandb did not end in time", SILENCE),  # whoever of the two is scheduled first
    "mirror killed": ("its process was killed by signal 9",),
    "all stopped": (SILENCE,),
}


@pytest.mark.parametrize("fault", W3_FAULTS)
def test_w3_a_mirror_that_breaks_at_a_step_changes_no_bit_and_no_step_waits_for_it(
    tmp_path: Path,
    tiny: Make,
    reference_run: RunFolder,
    calls: Path,
    monkeypatch: pytest.MonkeyPatch,
    started: Callable[..., Child],
    fault: str,
) -> None:
    at_log = {} if fault in ("mirror killed", "all stopped") else {"log 20": fault}
    monkeypatch.setenv("FAKE_WANDB_FAULTS", json.dumps(at_log))
    held = tmp_path / "held"
    child = started(mirrored(tiny), SHORT, At("train.loop:train_step", Hold(held), call=41))
    child.wait_for(lambda: held.exists() and len(of_kind(calls, "log")) >= 20)
    strike(fault, of_kind(calls, "init")[-1]["pid"])
    held.unlink()  # 20 steps are left
    began = time.monotonic()
    child.wait_for(lambda: child.folder.state() == "completed")
    assert time.monotonic() - began < 10.0
    if at_log:
        assert len(of_kind(calls, "log")) == 20
    done = child.wait()
    assert done.exit_code == 0, done.stderr
    assert_same_run(done.folder, reference_run)
    end = ends(done.folder)[-1]["mirror"]
    assert end["mode"] == "off"
    assert end["reason"] in W3_FAULTS[fault]
    assert done.stderr.count("is not mirrored to W&B") == 1
    assert "scripts/wandb_push.py study=faults" in done.stderr


@pytest.mark.parametrize(("fault", "exit_code"), [("raise", 1), ("die", -9), ("hang", None)])
def test_w3_control_a_trainer_that_calls_wandb_itself_breaks_with_it(
    tiny: Make,
    calls: Path,
    monkeypatch: pytest.MonkeyPatch,
    started: Callable[..., Child],
    fault: str,
    exit_code: int | None,
) -> None:
    monkeypatch.setenv("FAKE_WANDB_FAULTS", json.dumps({"log 20": fault}))
    child = started(tiny(), patched(mode="offline"))
    child.wait_for(lambda: len(of_kind(calls, "log")) == 20)
    if exit_code is None:
        time.sleep(2.0)  # more than the whole run takes
    else:
        assert child.wait().exit_code == exit_code
    assert len(read_jsonl(child.folder.metrics)) == 20
    assert child.folder.state() != "completed"


def wait_until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_closed(folder: RunFolder, wandb_id: str) -> bool:
    """Whether the offline record of a W&B run says how it ended."""
    found = list(folder.path.glob(f"wandb/offline-run-*-{wandb_id}/run-{wandb_id}.wandb"))
    return bool(found) and parse(found[0]).exit_code is not None


def steps_of(history: list[dict[str, Any]]) -> list[int]:
    return [row["progress/step"] for row in history]


def test_w4_w6_a_killed_trainer_s_mirror_closes_itself_and_the_next_attempt_has_its_own(
    tmp_path: Path, tiny: Make, reference_run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And scripts/wandb_push.py rebuilds one W&B run of the local record, complete."""
    pytest.importorskip("wandb", reason="the extra windtunnel[wandb] is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    config = mirrored(tiny)
    killed = run_child(config, kill_after_step(40))
    assert killed.exit_code == -signal.SIGKILL
    folder = killed.folder
    assert steps_of_rows(folder) == list(range(1, 41))
    first, second = (f"{folder.path.name}-a{attempt}" for attempt in (1, 2))
    wait_until(lambda: is_closed(folder, first))
    run = read_offline_run(folder.path, first)
    assert sorted(set(steps_of(run.history))) == list(range(1, 41))
    assert run.summary["state"] == "killed"
    assert run.exit_code == 1

    done = run_child(config)
    assert done.exit_code == 0, done.stderr
    assert_same_run(folder, reference_run)
    runs = [read_offline_run(folder.path, wandb_id) for wandb_id in (first, second)]
    assert [run.id for run in runs] == [first, second]
    assert [run.name for run in runs] == [folder.path.name] * 2
    assert [run.group for run in runs] == ["faults"] * 2
    for run in runs:
        assert steps_of(run.history) == sorted(steps_of(run.history))
    assert sorted(set(steps_of(runs[1].history))) == list(range(36, 61))  # from the checkpoint

    pushed = push(config, monkeypatch)
    assert pushed == 0
    whole = read_offline_run(folder.path, folder.path.name)
    assert len(whole.history) == STEPS + EVALS
    losses = [row["train/loss"] for row in whole.history if "train/loss" in row]
    assert losses == [row["loss"] for row in read_jsonl(reference_run.metrics)]
    assert whole.summary["state"] == "completed"
    assert whole.summary["n_params"] > 0


def steps_of_rows(folder: RunFolder) -> list[int]:
    return [row["step"] for row in read_jsonl(folder.metrics)]


def push(config: Config, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run scripts/wandb_push.py."""
    monkeypatch.syspath_prepend(REPO / "scripts")
    import wandb_push

    return int(wandb_push.main([f"study={config.study.name}", f"runs={config.paths.runs}"]))


def test_w4_control_a_trainer_that_calls_wandb_itself_leaves_an_unfinished_record(
    tmp_path: Path, tiny: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb", reason="the extra windtunnel[wandb] is not installed")
    naive = patched(path=str(tmp_path), mode="offline", folder=str(tmp_path))
    killed = run_child(tiny(), naive, kill_after_step(40))
    assert killed.exit_code == -signal.SIGKILL
    time.sleep(1.0)  # wandb's service ends with its parent
    (path,) = tmp_path.glob("wandb/offline-run-*-r/run-r.wandb")
    run = parse(path)
    assert run.exit_code is None
    assert len(run.history) <= 40
    assert "state" not in run.summary


def find_nothing(name: str) -> None:
    """No package is installed."""


def require_nothing(purpose: str) -> None:
    """No package is looked for."""


def test_w5_without_wandb_only_a_mirror_is_refused_and_before_a_step(
    tiny: Make, calls: Path
) -> None:
    missing = Replace("train.tracker:find_spec", find_nothing)
    done = run_child(mirrored(tiny), missing)
    assert done.exit_code == 2
    assert "error: tracker=wandb needs the package wandb" in done.stderr
    assert "Traceback" not in done.stderr
    assert not done.folder.metrics.exists()
    assert run_child(tiny(), missing).exit_code == 0
    assert of_kind(calls, "init") == []


def test_w5_control_without_the_look_ahead_the_user_learns_of_it_after_the_run(
    tmp_path: Path, tiny: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = "raise ModuleNotFoundError(\"No module named 'wandb'\")"
    (tmp_path / "wandb.py").write_text(absent, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    done = run_child(mirrored(tiny), Replace("train.tracker:require_wandb", require_nothing))
    assert done.exit_code == 0
    assert ends(done.folder)[-1]["mirror"]["reason"] == (
        "ModuleNotFoundError: No module named 'wandb'"
    )


def one_id_for_all_attempts(*words: Any, **named: Any) -> Tracker:
    return build_tracker(*words, **{**named, "attempt": 1})


def logged_by_id(calls: Path) -> dict[str, list[int]]:
    """progress/step of every row, by the id of the W&B run that it went to."""
    steps: dict[str, list[int]] = {}
    ids = {call["pid"]: call["words"]["id"] for call in of_kind(calls, "init")}
    for call in of_kind(calls, "log"):
        steps.setdefault(ids[call["pid"]], []).append(call["values"]["progress/step"])
    return steps


def test_w6_control_under_one_id_for_all_attempts_steps_would_go_back(
    tiny: Make, calls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    one_id = Replace("train.recording:build_tracker", one_id_for_all_attempts)
    config = mirrored(tiny)
    killed = run_child(config, one_id, kill_after_step(40))
    wait_until(lambda: of_kind(calls, "finish"))
    assert run_child(config, one_id).exit_code == 0
    ((name, steps),) = logged_by_id(calls).items()
    assert name == f"{killed.folder.path.name}-a1"
    assert steps != sorted(steps)
