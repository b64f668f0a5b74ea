"""scripts/environment.sh: which Python it chooses, and its error without one."""

import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]


def shell(command):
    words = ["/bin/bash", "-c", f"source scripts/environment.sh; {command}"]
    return subprocess.run(words, cwd=REPO, capture_output=True, text=True, timeout=60, check=False)


def test_a_named_python_comes_first():
    found = shell(f"PYTHON_BIN={sys.executable} find_python")
    assert found.returncode == 0
    assert found.stdout.strip() == sys.executable


def test_without_a_python_it_says_what_it_needs():
    found = shell("PATH=/nowhere find_python")
    assert found.returncode == 2
    assert "needs Python 3.11, 3.12 or 3.13 (set PYTHON_BIN to one); found none" in found.stderr


def test_a_python_out_of_range_is_passed_over(tmp_path):
    old = tmp_path / "python3"
    # fails the version check, as 3.10 does
    old.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    old.chmod(0o755)
    assert shell(f"PATH={tmp_path} find_python").returncode == 2
    found = shell(f"PATH={tmp_path} PYTHON_BIN={sys.executable} find_python")
    assert found.stdout.strip() == sys.executable


def test_every_script_parses():
    for script in (*REPO.glob("scripts/*.sh"), REPO / ".ci" / "run"):
        checked = subprocess.run(["/bin/bash", "-n", str(script)], check=False)
        assert checked.returncode == 0, script
