"""scripts/gpu_check.sh: all parts run, on a bare machine too; the failure of one stops no other."""

import argparse
import io
import json
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import gpu_check
from bench.figures import Figure, write_figures
from gpu import part
from gpu.correctness import read_junit
from gpu.setting import open_setting

REPO = Path(__file__).resolve().parents[2]

BARE = """
import sys
from importlib.machinery import PathFinder

GONE = {"hydra", "rich", "pandas", "pyarrow", "scipy", "matplotlib", "jinja2", "wandb", "datasets",
        "huggingface_hub", "transformers", "submitit", "pytest"}

class Bare:
    find_distributions = PathFinder.find_distributions

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in GONE:
            path = [place for place in (path or sys.path) if "site-packages" not in str(place)]
        return PathFinder.find_spec(name, path, target)

sys.meta_path[:] = [Bare if finder is PathFinder else finder for finder in sys.meta_path]
"""
"""A sitecustomize.py that hides the packages a GPU machine may lack."""


def check(folder, *words, **env):
    """Run the check on a CPU; return its figures by name, check.json and its standard output."""
    done = subprocess.run(
        ["bash", REPO / "scripts" / "gpu_check.sh", folder / "out", "--cpu", *words],
        env={**os.environ, "PYTHON": sys.executable, **env},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads((folder / "out" / "figures.json").read_text("utf-8"))
    about = json.loads((folder / "out" / "check.json").read_text("utf-8"))
    return {figure["name"]: figure for figure in figures}, about, done.stdout


def test_every_part_runs(tmp_path):
    figures, about, said = check(tmp_path)
    assert about["failed"] == {}, (tmp_path / "out" / "check.log").read_text("utf-8")
    assert about["figures_mean_nothing"] is True
    assert set(about) >= {"device", "torch", "cuda", "python", "date", "seconds"}
    for beginning in (
        "GPU tests: passed",
        "GPU tests: failed",
        *(f"{size} M at 64k: share" for size in (100, 20)),
        *(f"{size} M at 8k x 8: share" for size in (5, 1, 0.1)),
        "1 M at 8k: whole-step graph, times eager",
        "ladder: runs per GPU-hour",
        "ladder: times the eager one-by-one protocol",
    ):
        assert any(name.startswith(beginning) for name in figures), beginning
    assert figures["killed and resumed: rows"]["value"] > 10
    assert figures["killed and resumed: rows that differ"]["value"] == 0
    assert figures["IsoFLOP study: runs completed"]["value"] == 2
    assert all(figure["meets"] for figure in figures.values())
    assert said.startswith("figure ")
    assert len(said.splitlines()) == 1 + len(figures)
    names = {path.name for path in (tmp_path / "out").rglob("*")}
    assert names == {"figures.json", "check.json", "check.log", "ladder.csv", "isoflop_runs.csv"}


def test_without_hydra_and_pytest_only_the_parts_that_need_them_fail(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(BARE, encoding="utf-8")
    parts = ("correctness", "graph", "resume", "study")
    figures, about, said = check(tmp_path, "--only", *parts, PYTHONPATH=str(tmp_path))
    needs = "ModuleNotFoundError: No module named '{}'; install it, or name a folder that has its"
    failed = {name: why.partition(" wheel")[0] for name, why in about["failed"].items()}
    expected = {"correctness": "pytest", "resume": "hydra", "study": "hydra"}
    assert failed == {name: needs.format(package) for name, package in expected.items()}
    assert "1 M at 8k: whole-step graph, times eager" in figures
    assert "resume failed: ModuleNotFoundError: No module named 'hydra'" in said


def test_a_python_without_torch_is_refused_before_anything_is_written(tmp_path):
    done = subprocess.run(
        [sys.executable, "-S", REPO / "scripts" / "gpu_check.py", tmp_path / "out", "--cpu"],
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "needs torch>=2.11, numpy>=2.0, filelock>=4.1.2, tokenizers>=0.22; name" in done.stderr
    assert not (tmp_path / "out").exists()


def make_wheel(folder, name, version):
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        info = f"{name}-{version}.dist-info"
        wheel.writestr(f"{name}.py", f"VERSION = '{version}'\n")
        wheel.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")


def test_missing_packages_are_installed_from_a_folder_of_wheels(tmp_path, monkeypatch):
    wheels, packages = tmp_path / "wheels", tmp_path / "packages"
    wheels.mkdir()
    make_wheel(wheels, "tunnel_test_package", "1.2")
    # older than the installed one: left alone
    make_wheel(wheels, "filelock", "1.0")
    assert gpu_check.install(wheels, packages) == ""
    assert (packages / "tunnel_test_package.py").read_text() == "VERSION = '1.2'\n"
    assert not (packages / "filelock.py").exists()
    assert gpu_check.missing_packages(packages) == []
    needed = {"tunnel_test_package": "1.3", "torch": "2.11", "not_there": "0.1"}
    monkeypatch.setattr(gpu_check, "NEEDED", needed)
    assert gpu_check.missing_packages(packages) == ["tunnel_test_package>=1.3", "not_there>=0.1"]


class Process:
    """A process that ends with a code, or (None) never."""

    def __init__(self, code):
        self.code, self.pid = code, 2**22 + 1

    def wait(self, timeout=None):
        if self.code is None and timeout is not None:
            raise subprocess.TimeoutExpired("part", timeout)
        return self.code or 0


def make_check(tmp_path, only):
    options = argparse.Namespace(dir=tmp_path / "out", cpu=False, only=only)
    (tmp_path / "out").mkdir()
    (tmp_path / "work").mkdir()
    return gpu_check.Check(options, tmp_path / "work", io.StringIO())


def test_a_part_that_fails_or_hangs_is_reported_and_the_rest_goes_on(tmp_path, monkeypatch):
    check = make_check(tmp_path, ["speed-100M", "graph", "ladder", "resume"])
    killed = []
    monkeypatch.setattr("os.killpg", lambda group, signal: killed.append(group))
    codes = {"speed-100M": 1, "graph": None, "ladder": 0, "resume": 0}

    def start(step):
        (name,) = step.parts
        if name == "resume":
            (check.work / "resume.error").write_text("ValueError: no\nmore", encoding="utf-8")
        if name == "ladder":
            write_figures(
                check.work / "ladder.json", [Figure("ladder: rate", 900.0, "runs/h", 800)]
            )
        return step, time.monotonic(), Process(codes.get(name, 0))

    monkeypatch.setattr(check, "_start", start)
    check.run()
    assert check.failed == {
        "speed-100M": "its process ended with exit 1",
        "graph": "stopped after 0 s",
        "resume": "ValueError: no\nmore",
    }
    assert len(killed) == 1
    lines = check.table().splitlines()
    assert lines[1].split() == ["ladder:", "rate", "900", "runs/h", ">=", "800", "meets"]
    assert "resume failed: ValueError: no" in lines


def test_parts_for_which_no_time_is_left_are_left_out(tmp_path, monkeypatch):
    assert gpu_check.TOTAL_SECONDS < 9 * 60
    check = make_check(tmp_path, ["ladder", "study"])
    monkeypatch.setattr(gpu_check, "TOTAL_SECONDS", 1.0)
    monkeypatch.setattr(gpu_check, "AHEAD", ())
    check.run()
    assert check.failed == dict.fromkeys(["ladder", "study"], "left out: no time was left")


def test_an_error_keeps_the_figures_before_it(tmp_path, monkeypatch):
    def broken(setting, report):
        report(Figure("before it", 2.0, "s"))
        raise ValueError("no such kernel")

    monkeypatch.setattr(part, "parts", lambda: {"graph": broken})
    part.take("graph", open_setting(out=tmp_path, work=tmp_path, is_tiny=True))
    assert (tmp_path / "graph.error").read_text("utf-8") == "ValueError: no such kernel"
    assert [f["value"] for f in json.loads((tmp_path / "graph.json").read_text("utf-8"))] == [2.0]


def test_without_a_gpu_every_part_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    words = ["part.py", "graph", "ladder", "--out", str(tmp_path), "--work", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", words)
    part.main()
    for name in ("graph", "ladder"):
        why = (tmp_path / f"{name}.error").read_text(encoding="utf-8")
        assert why.startswith("machine.device=cuda: torch finds no CUDA device here")


def test_counts_and_measurements_of_the_gpu_tests_become_figures(tmp_path):
    (tmp_path / "x.xml").write_text(
        '<testsuites><testsuite tests="5" errors="1" failures="1" skipped="1"><testcase name="a">'
        '<properties><property name="moved" value="0.01 nats"/>'
        '<property name="apart" value="2e-6 nats &lt;= 1e-5"/></properties>'
        "</testcase></testsuite></testsuites>"
    )
    assert read_junit(tmp_path / "x.xml") == [
        Figure("GPU tests: passed", 2, "tests", 1),
        Figure("GPU tests: failed", 2, "tests", 0, "max"),
        Figure("GPU tests: skipped", 1, "tests"),
        Figure("moved", 0.01, "nats"),
        Figure("apart", 2e-6, "nats", 1e-5, "max"),
    ]
