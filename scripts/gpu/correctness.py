"""Correctness on a GPU: the tests marked `gpu`, run by pytest."""

import importlib
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

from bench.figures import Figure
from gpu.setting import Report, Setting

REPO = Path(__file__).resolve().parents[2]

TESTS = ("tests/train/engine", "tests/faults")
"""Folders with tests marked `gpu`; the other tests need packages that a GPU machine may lack."""

SECONDS = 230.0
"""Time limit of pytest. It is interrupted then, and reports the tests until then."""

EXIT_CODES = (0, 1, 5)
"""pytest: all passed; some failed; none selected."""


def take_correctness(setting: Setting, report: Report) -> None:
    """Run `pytest -m gpu`; report the counts, and what the tests measured.

    A test reports a measurement with pytest's `record_property(name, "VALUE UNIT [<= GOAL]")`.

    Raises:
        ModuleNotFoundError: pytest is not installed.
        RuntimeError: pytest could not run, or not run to its end.
    """
    importlib.import_module("pytest")
    xml = setting.work / "correctness.xml"
    # warnings of another torch version than ours must not fail a test
    options = ["-m", "gpu", "-o", "filterwarnings=default", "-p", "no:cacheprovider"]
    options += ["--continue-on-collection-errors", f"--junitxml={xml}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", *options, *TESTS],
        cwd=REPO,
        # cuBLAS reads it once, before the first matmul; deterministic mode needs it
        env={**os.environ, "CUBLAS_WORKSPACE_CONFIG": ":4096:8"},
    )
    try:
        process.wait(SECONDS)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        process.wait()
    if xml.exists():
        for figure in read_junit(xml):
            report(figure)
    if process.returncode not in EXIT_CODES:
        raise RuntimeError(f"pytest ended with exit code {process.returncode}; see check.log")


def read_junit(path: Path) -> list[Figure]:
    """Read the counts and the recorded properties from pytest's JUnit XML."""
    suite = next(ElementTree.parse(path).iter("testsuite"))  # noqa: S314
    counts = {name: int(suite.attrib[name]) for name in ("tests", "errors", "failures", "skipped")}
    failed = counts["errors"] + counts["failures"]
    figures = [
        Figure("GPU tests: passed", counts["tests"] - failed - counts["skipped"], "tests", 1),
        Figure("GPU tests: failed", failed, "tests", 0, "max"),
        Figure("GPU tests: skipped", counts["skipped"], "tests"),
    ]
    for measured in suite.iter("property"):
        measurement, _, goal = measured.attrib["value"].partition(" <= ")
        value, _, unit = measurement.partition(" ")
        figure = Figure(measured.attrib["name"], float(value), unit)
        figures.append(replace(figure, goal=float(goal), sense="max") if goal else figure)
    return figures
