"""Correctness on a GPU: the tests marked `gpu`, run by pytest."""

import importlib
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

from bench.figures import Figure
from gpu.setting import Report, Setting

REPO = Path(__file__).resolve().parents[2]

TESTS = ("tests/train/engine", "tests/faults")
"""Folders with tests marked `gpu`; the other tests need packages that a GPU machine may lack."""

EXIT_CODES = (0, 1, 5)
"""pytest: all passed; some failed; none selected."""


def take_correctness(setting: Setting, report: Report) -> None:
    """Run `pytest -m gpu`; report the counts, and what the tests measured.

    A test reports a measurement with pytest's `record_property(name, "VALUE UNIT")`.

    Raises:
        ModuleNotFoundError: pytest is not installed.
        RuntimeError: pytest could not run.
    """
    importlib.import_module("pytest")
    xml = setting.work / "correctness.xml"
    # warnings of another torch version than ours must not fail a test
    options = ["-m", "gpu", "-o", "filterwarnings=default", "-p", "no:cacheprovider"]
    options += ["--continue-on-collection-errors", f"--junitxml={xml}"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *TESTS],
        cwd=REPO,
        # cuBLAS reads it once, before the first matmul; deterministic mode needs it
        env={**os.environ, "CUBLAS_WORKSPACE_CONFIG": ":4096:8"},
        check=False,
    )
    if done.returncode not in EXIT_CODES:
        raise RuntimeError(f"pytest ended with exit code {done.returncode}; see check.log")
    for figure in read_junit(xml):
        report(figure)


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
        value, _, unit = measured.attrib["value"].partition(" ")
        figures.append(Figure(measured.attrib["name"], float(value), unit))
    return figures
