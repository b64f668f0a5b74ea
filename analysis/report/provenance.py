"""Where the page comes from: the command, the input and its hash, and the code that read it."""

import platform
import subprocess
from importlib import metadata
from pathlib import Path

from analysis.fits import Analysis
from analysis.report.blocks import Grid, Section


def provenance(analysis: Analysis, command: str) -> Section:
    """Return the section that says how to make the page again."""
    options, counting = analysis.options, analysis.flops_counting
    rows = [
        ("command", command),
        ("input", analysis.table.source),
        ("sha256 of the input", analysis.table.sha256),
        ("counting", f"N {options.convention.name}, C {COUNTINGS.get(counting, counting)}"),
        ("bootstrap", f"{options.bootstrap} resamples, seed {options.seed}"),
        ("windtunnel", code_version()),
        ("python", platform.python_version()),
        ("numpy, scipy", f"{metadata.version('numpy')}, {metadata.version('scipy')}"),
    ]
    grid = Grid("", ("what", "value"), rows, frozenset({0, 1}), verbatim=True)
    return Section("provenance", "Provenance", grids=[grid])


COUNTINGS = {"6nd": "= 6 N D", "exact": "with attention (flops_exact)"}
"""The countings of C in words; others speak for themselves."""


def code_version() -> str:
    """Return the installed version of the package, and the commit when it runs from a checkout."""
    try:
        version = metadata.version("windtunnel")
    except metadata.PackageNotFoundError:
        version = "not installed: run from a source tree"
    commit = _git("rev-parse", "--short=12", "HEAD")
    if not commit or not _git("ls-files", "--", Path(__file__).name):
        return version
    changed = _git("--no-optional-locks", "status", "--porcelain", "--untracked-files=no")
    return f"{version}, commit {commit}{' with changes' if changed else ''}"


def _git(*words: str) -> str:
    """Return what git says in this file's folder; '' where there is no git or no checkout."""
    command = ["git", "-C", str(Path(__file__).parent), *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
