"""What only a GPU can show, in at most 9 minutes: correctness, speed, and a short IsoFLOP study.

    bash scripts/gpu_check.sh DIR [--wheels FOLDER] [--cpu] [--only PART ...]

Each part runs in its own process with its own time limit, so one that fails or hangs does not stop
the others. While correctness is checked, three more processes compile what later parts time. The
table is printed at the end. DIR gets figures.json (each figure with its goal), check.json (device,
versions, date, what failed and why), check.log, and the tables and figures of the ladder and the
study. --wheels names a folder of wheels (hydra-core, omegaconf, antlr4-python3-runtime, ...): those
that this Python lacks are installed from it into a temporary folder. --cpu runs the same code on a
CPU, with sizes so small that the figures mean nothing.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO

from bench.figures import Figure, read_figures, write_figures

SCRIPTS = Path(__file__).resolve().parent

NEEDED = {"torch": "2.11", "numpy": "2.0", "filelock": "4.1.2", "tokenizers": "0.22"}
"""Least versions of the packages without which no part runs."""

TOTAL_SECONDS = 530.0
"""Limit of the whole check; parts that have not started by then are left out."""
LEAST_SECONDS = 10.0
"""A part is not started with less time left than this."""


@dataclass(frozen=True)
class Step:
    """One process of the check."""

    parts: Sequence[str]
    seconds: float
    """Its time limit."""


SPEEDS = ("speed-100M", "speed-20M", "speed-5M", "speed-1M", "speed-0.1M")
AHEAD = tuple(Step([f"ahead-{number}"], 200.0) for number in range(3))
STEPS = (
    Step(["correctness"], 250.0),
    *(Step([name], 75.0) for name in SPEEDS),
    Step(["graph"], 60.0),
    Step(["ladder"], 150.0),
    Step(["resume"], 90.0),
    Step(["study"], 150.0),
)
PARTS = [part for step in STEPS for part in step.parts]


def main() -> None:
    """Run the parts, write the results after each, and print the table."""
    options = parse_options()
    with tempfile.TemporaryDirectory(prefix="gpu_check-", ignore_cleanup_errors=True) as folder:
        work = Path(folder)
        (work / "packages").mkdir()
        error = install(options.wheels, work / "packages") if options.wheels else ""
        if missing := missing_packages(work / "packages"):
            sys.exit(
                f"error: {sys.executable} needs {', '.join(missing)}; name another Python, such as "
                f"PYTHON=.venv/bin/python bash scripts/gpu_check.sh DIR, or a folder with their "
                f"wheels: --wheels FOLDER{error}"
            )
        options.dir.mkdir(parents=True, exist_ok=True)
        with (options.dir / "check.log").open("w", encoding="utf-8") as log:
            log.write(error)
            check = Check(options, work, log)
            try:
                check.run()
            finally:
                check.write()
                sys.stdout.write(check.table())


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dir", type=Path, metavar="DIR", help="where everything is written")
    parser.add_argument("--wheels", type=Path, metavar="FOLDER", help="wheels of missing packages")
    parser.add_argument("--cpu", action="store_true", help="tiny, on a CPU: only whether it runs")
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=f"{PARTS}"
    )
    return parser.parse_args()


def install(wheels: Path, target: Path) -> str:
    """Install the wheels of packages that are missing here, or older here, into `target`.

    Returns:
        pip's error message, after a newline; empty when all went well.
    """
    wanted = []
    for wheel in sorted(wheels.glob("*.whl")):
        name, number = wheel.name.split("-")[:2]
        if release(installed(name)) < release(number):
            wanted.append(f"{name}=={number}")
    if not wanted:
        return ""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += ["--no-index", "--no-deps", "--find-links", str(wheels), "--target", str(target)]
    done = subprocess.run([*command, *wanted], capture_output=True, text=True, check=False)
    return f"\n{done.stderr.strip()}\n" if done.returncode else ""


def missing_packages(packages: Path) -> list[str]:
    """Requirements of NEEDED that neither this Python nor the folder `packages` meets."""
    found = {path.name.split("-")[0]: path.name.split("-")[1] for path in packages.glob("*.dist-*")}
    return [
        f"{name}>={least}"
        for name, least in NEEDED.items()
        if release(found.get(name) or installed(name)) < release(least)
    ]


def installed(name: str) -> str:
    """Version of an installed distribution; empty when it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def release(number: str) -> tuple[int, ...]:
    """The release numbers of a version: (2, 13, 0) of "2.13.0+cpu"."""
    return tuple(map(int, re.findall(r"\d+", number.partition("+")[0])[:3]))


class Check:
    """The processes of one check and their results."""

    def __init__(self, options: argparse.Namespace, work: Path, log: IO[str]) -> None:
        self.out, self.is_cpu, self.only = options.dir.resolve(), options.cpu, options.only
        self.work, self.log = work, log
        self.began, self.date = time.monotonic(), datetime.now(UTC)
        self.seconds: dict[str, float] = {}
        self.failed: dict[str, str] = {}

    def run(self) -> None:
        """Run the steps one after the other; the ones that compile ahead run beside the first."""
        steps = [step for step in STEPS if set(step.parts) & set(self.only)]
        if self.is_cpu:
            self._wait(self._start(Step(self.only, 120.0)))
            return
        ahead = [self._start(step) for step in AHEAD if len(steps) > 1]
        for number, step in enumerate(steps):
            if number == 1:
                for other in ahead:
                    self._wait(other)
            if self._left() < LEAST_SECONDS:
                self.failed |= dict.fromkeys(step.parts, "left out: no time was left")
                continue
            self._wait(self._start(step))
            self.write()

    def _left(self) -> float:
        return TOTAL_SECONDS - (time.monotonic() - self.began)

    def _start(self, step: Step) -> tuple[Step, float, "subprocess.Popen[str]"]:
        command = [sys.executable, "-m", "gpu.part", *step.parts]
        command += ["--out", str(self.out), "--work", str(self.work)]
        command += ["--cpu"] if self.is_cpu else []
        process = subprocess.Popen(
            command,
            cwd=SCRIPTS.parent,
            env=environment(self.work),
            stdout=self.log,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        return step, time.monotonic(), process

    def _wait(self, started: tuple[Step, float, "subprocess.Popen[str]"]) -> None:
        """Wait for a process, at most until its limit and until the end of the whole check."""
        step, began, process = started
        limit = min(step.seconds - (time.monotonic() - began), self._left())
        name = " ".join(step.parts) if len(step.parts) < 3 else "all parts"
        try:
            code = process.wait(timeout=max(1.0, limit))
            ending = f"its process ended with exit {code}" if code else None
        except subprocess.TimeoutExpired:
            ending = f"stopped after {time.monotonic() - began:.0f} s"
            # its child processes too
            os.killpg(process.pid, 9)
            process.wait()
        self.seconds[name] = round(time.monotonic() - began, 1)
        sys.stderr.write(f"{name}: {self.seconds[name]:.0f} s{f', {ending}' if ending else ''}\n")
        for part in step.parts:
            error = self.work / f"{part}.error"
            if error.exists():
                self.failed[part] = error.read_text(encoding="utf-8")
            elif ending:
                self.failed[part] = ending

    def figures(self) -> list[Figure]:
        """The figures so far, in the order of the parts."""
        return [figure for part in PARTS for figure in read_figures(self.work / f"{part}.json")]

    def write(self) -> None:
        """Write figures.json and check.json."""
        write_figures(self.out / "figures.json", self.figures())
        path = self.work / "device.json"
        device = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        about = {
            **device,
            "python": platform.python_version(),
            "date": self.date.isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - self.began, 1),
            "seconds_by_part": self.seconds,
            "failed": self.failed,
            "figures_mean_nothing": self.is_cpu,
        }
        text = json.dumps(about, indent=1) + "\n"
        (self.out / "check.json").write_text(text, encoding="utf-8")

    def table(self) -> str:
        """The figures with their goals and verdicts as text, then the parts that failed."""
        rows = [("figure", "value", "unit", "goal", "")]
        for figure in self.figures():
            value = f"{figure.value:.4g}"
            rows.append((figure.name, value, figure.unit, figure.goal_text, figure.verdict))
        widths = [max(len(row[i]) for row in rows) for i in range(5)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        lines += [f"{part} failed: {why.splitlines()[0]}" for part, why in self.failed.items()]
        return "\n".join(lines) + "\n"


def environment(work: Path) -> dict[str, str]:
    """Environment of the parts' processes."""
    paths = [str(SCRIPTS.parent), str(SCRIPTS), str(work / "packages")]
    paths += [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONUNBUFFERED": "1",
        "WINDTUNNEL_CACHE": str(work / "cache"),
        "WANDB_MODE": "offline",
        "HF_HUB_OFFLINE": "1",
    }
    env.setdefault("TORCHINDUCTOR_COMPILE_THREADS", str(min(8, os.cpu_count() or 1)))
    return env


if __name__ == "__main__":
    main()
