"""scripts/gpu_check.sh: it runs on a bare machine, and one part's failure is its own."""

import argparse
import importlib.util
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

REPO = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO / "scripts"))

import gpu_check  # type: ignore[import-not-found]  # noqa: E402

BARE = """
import sys
from importlib.machinery import PathFinder

GONE = {"rich", "filelock", "tokenizers", "pandas", "pyarrow", "scipy", "matplotlib", "jinja2",
        "wandb", "datasets", "huggingface_hub", "transformers", "submitit"}

class Bare:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in GONE:
            path = [place for place in (path or sys.path) if "site-packages" not in str(place)]
        return PathFinder.find_spec(name, path, target)

sys.meta_path[:] = [Bare if finder is PathFinder else finder for finder in sys.meta_path]
"""
"""A sitecustomize.py."""


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder and the output of the tiny check, where only torch, NumPy and Hydra are found."""
    folder = tmp_path_factory.mktemp("gpu")
    (folder / "sitecustomize.py").write_text(BARE, encoding="utf-8")
    done = subprocess.run(
        ["bash", REPO / "scripts" / "gpu_check.sh", folder / "out", "--cpu"],
        env={**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder / "out", done.stdout


def test_every_part_runs_where_only_torch_numpy_and_hydra_are_installed(
    checked: tuple[Path, str],
) -> None:
    out, said = checked
    facts = json.loads((out / "check.json").read_text(encoding="utf-8"))
    assert facts["failed"] == {}, (out / "check.log").read_text(encoding="utf-8")
    assert facts["figures_mean_nothing"] is True
    assert set(facts) >= {"device", "torch", "cuda", "python", "date", "seconds"}
    figures = {f["name"]: f for f in json.loads((out / "figures.json").read_text("utf-8"))}
    for beginning in (
        "graph against eager, 3 stacked, compiled",
        "stacked against alone, fp32",
        "beside a diverged replica",
        "windows sent, not resident",
        "graphs: steps that could not be recorded",
        "bf16 against fp32",
        "killed and resumed: rows that differ",
        *(f"{size} M at 64k: share" for size in (100, 20)),
        *(f"{size} M at 8k x 8: share" for size in (5, 1, 0.1)),
        "1 M at 8k: whole-step graph, times eager",
        "ladder: runs per GPU-hour",
        "ladder: times the eager one-by-one protocol",
        "IsoFLOP study: runs completed",
    ):
        assert any(name.startswith(beginning) for name in figures), beginning
    assert figures["IsoFLOP study: runs completed"]["value"] == 2
    assert figures["killed and resumed: rows"]["value"] > 10
    short = [f["name"] for f in figures.values() if not f["meets"]]
    assert short == []  # what is judged when nothing is timed: equal rows and losses
    assert said.startswith("figure ")
    assert len(said.splitlines()) == 1 + len(figures)


def test_what_it_writes_is_flat_and_few(checked: tuple[Path, str]) -> None:
    out, _ = checked
    names = {path.name for path in out.rglob("*")}
    assert names == {"figures.json", "check.json", "check.log", "ladder.csv", "isoflop_runs.csv"}


def test_a_python_without_torch_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-S", REPO / "scripts" / "gpu_check.py", tmp_path / "out", "--cpu"],
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "has no torch, numpy, hydra, omegaconf; name a Python that has, such as" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


class Process:
    """One that ends as it is told to, or never."""

    def __init__(self, code: int | None) -> None:
        self.code, self.pid = code, 2**22 + 1

    def wait(self, timeout: float | None = None) -> int:
        if self.code is None and timeout is not None:
            raise subprocess.TimeoutExpired("part", timeout)
        return self.code or 0


def make_check(tmp_path: Path, only: list[str]) -> Any:
    options = argparse.Namespace(dir=tmp_path / "out", cpu=False, only=only)
    (tmp_path / "out").mkdir()
    (tmp_path / "work").mkdir()
    return gpu_check.Check(options, tmp_path / "work", io.StringIO())


def test_a_part_that_fails_or_hangs_is_written_down_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = make_check(tmp_path, ["speed-100M", "graph", "ladder", "resume"])
    killed: list[int] = []
    monkeypatch.setattr("os.killpg", lambda group, signal: killed.append(group))
    codes = {"speed-100M": 1, "graph": None, "ladder": 0, "resume": 0}

    def start(step: Any) -> tuple[Any, float, Process]:
        (part,) = step.parts
        if part == "resume":
            (check.work / "resume.error").write_text("ValueError: no\nmore", encoding="utf-8")
        if part == "ladder":
            figure = gpu_check.Figure("ladder: rate", 900.0, "runs/h", 800.0)
            gpu_check.write_figures(check.work / "ladder.json", [figure])
        return step, time.monotonic(), Process(codes.get(part, 0))

    monkeypatch.setattr(check, "_start", start)
    check.run()
    assert check.failed == {
        "speed-100M": "its process ended with exit 1",
        "graph": "stopped after 0 s",
        "resume": "ValueError: no\nmore",
    }
    assert len(killed) == 1
    written = json.loads((tmp_path / "out" / "figures.json").read_text(encoding="utf-8"))
    assert [(f["name"], f["meets"]) for f in written] == [("ladder: rate", True)]
    lines = check.table().splitlines()
    assert lines[1].split() == ["ladder:", "rate", "900", "runs/h", ">=", "800", "meets"]
    assert "resume failed: ValueError: no" in lines


def test_parts_for_which_no_time_is_left_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = make_check(tmp_path, ["ladder", "study"])
    monkeypatch.setattr(gpu_check, "WHOLE_SECONDS", 1.0)
    monkeypatch.setattr(gpu_check, "AHEAD", ())
    check.run()
    assert check.failed == dict.fromkeys(["ladder", "study"], "left out: no time was left")


def test_the_limits_of_the_parts_leave_the_whole_its_nine_minutes() -> None:
    assert gpu_check.WHOLE_SECONDS < 9 * 60
    assert len(gpu_check.PARTS) == len(set(gpu_check.PARTS)) == 10
    assert importlib.util.find_spec("gpu_part") is not None


def test_a_part_s_error_is_written_down_with_its_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gpu_part  # type: ignore[import-not-found]
    import gpu_setting  # type: ignore[import-not-found]

    def broken(setting: object, tell: Any) -> None:
        tell(gpu_check.Figure("before it", 2.0, "s"))
        raise ValueError("no such kernel")

    monkeypatch.setattr(gpu_part, "_parts", lambda: {"graph": broken})
    setting = gpu_setting.open_setting(out=tmp_path, work=tmp_path, is_tiny=True)
    gpu_part._take("graph", setting)
    assert (tmp_path / "graph.error").read_text(encoding="utf-8") == "ValueError: no such kernel"
    assert [f["value"] for f in json.loads((tmp_path / "graph.json").read_text("utf-8"))] == [2.0]


def test_without_a_gpu_every_part_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gpu_part

    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    words = ["gpu_part.py", "graph", "ladder", "--out", str(tmp_path), "--work", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", words)
    gpu_part.main()
    for part in ("graph", "ladder"):
        why = (tmp_path / f"{part}.error").read_text(encoding="utf-8")
        assert why.startswith("machine.device=cuda: torch finds no CUDA device here")
