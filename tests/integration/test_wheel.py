"""The wheel in an empty folder, from an environment of its own: configs, plugins, templates."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.analysis.study_folders import isoflop_table
from train.storage.records import read_json

REPO = Path(__file__).resolve().parents[2]

TINY = (
    "model=d16",
    "data=synthetic",
    "data.seq_len=32",
    "data.validation_tokens=4000",
    "data.synthetic.tokens=40000",
    "data.synthetic.document_tokens=500",
    "optimizer.batch_tokens=256",
    "budget.tokens=2560",
    "eval.points=0",
    "eval.tokens=1024",
    "machine=cpu",
    "machine.compile=never",
    "machine.attention=plain",
)
"""A run of 10 steps."""


def call(*words, cwd, timeout=240):
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.run(
        list(map(str, words)),
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    pytest.importorskip("setuptools", minversion="77")
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("train", "analysis", "configs"):
        shutil.copytree(REPO / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPO / name, source)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet")
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", target)
    built = call(*pip, *options, source, cwd=target)
    assert built.returncode == 0, built.stderr
    (path,) = target.glob("windtunnel-*.whl")
    return path


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """Python of an environment with the wheel, and this one's packages behind it."""
    folder = tmp_path_factory.mktemp("environment")
    made = call(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    assert made.returncode == 0, made.stderr
    python = folder / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python)
    options = ("install", "--quiet", "--no-deps", "--no-index")
    installed = call(*pip, *options, wheel, cwd=folder)
    assert installed.returncode == 0, installed.stderr
    (site,) = folder.glob("lib/python*/site-packages")
    others = sysconfig.get_paths()["purelib"]
    (site / "other_packages.pth").write_text(f"{others}\n", encoding="utf-8")
    return python


def test_the_wheel_holds_every_file_that_is_read(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for pattern in ("configs/**/*.yaml", "train/plugins/**/*.py", "analysis/**/*.j2"):
        wanted = {str(path.relative_to(REPO)) for path in REPO.glob(pattern)}
        assert wanted
        assert wanted <= names
    data = {Path(name).suffix for name in names if name.startswith(("train/", "analysis/"))}
    assert {".css", ".j2", ".py"} <= data
    assert not any(name.startswith(("tests/", "scripts/", "build/")) for name in names)


def test_an_installed_wheel_trains_in_an_empty_folder(python, tmp_path):
    done = call(python, "-m", "train", *TINY, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"data", "runs"}
    (folder,) = (path for path in (tmp_path / "runs" / "scratch").iterdir() if path.is_dir())
    assert read_json(folder / "status.json")["state"] == "completed"
    assert done.stdout.startswith(f"runs/scratch/{folder.name}: completed, validation loss")


def test_an_installed_wheel_plans_its_studies_by_its_own_plugins(python, tmp_path):
    program = python.parent / "windtunnel-train"
    words = ("machine=cpu", "machine.compile=never", "machine.attention=plain", "dry_run=true")
    planned = call(program, "-m", "study=quickstart", *words, cwd=tmp_path)
    assert planned.returncode == 0, planned.stderr
    assert "20 runs on " in planned.stdout
    assert not list(tmp_path.iterdir())
    where = call(python, "-c", "import train; print(train.__file__)", cwd=tmp_path)
    assert where.stdout.startswith(str(python.parent.parent))


@pytest.mark.slow
def test_an_installed_wheel_fits_a_table_and_writes_the_report(python, tmp_path):
    isoflop_table().to_csv(tmp_path / "runs.csv", index=False)
    fitted = call(python, "-m", "analysis", "table=runs.csv", "bootstrap=100", cwd=tmp_path)
    assert fitted.returncode == 0, fitted.stderr
    assert (tmp_path / "analysis-runs" / "report.html").exists()
