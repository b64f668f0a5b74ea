"""What only a GPU can show, in at most 9 minutes: correctness, speed, and a short IsoFLOP study.

    bash scripts/gpu_check.sh DIR [--cpu] [--only PART ...]

Every part runs in a process of its own, with a time of its own: one that fails or hangs costs no
other. While correctness is checked, three more processes compile what later parts time. The table
comes last; under DIR are figures.json (each figure with its goal), check.json (device, versions,
date, what failed and why), check.log, and the tables and figures of the ladder and the study.
--cpu runs the same code on a CPU with sizes so small that the figures mean nothing.
"""

import argparse
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from benchmark_figures import Figure, write_figures

SCRIPTS = Path(__file__).resolve().parent

NEEDED = ("torch", "numpy", "hydra", "omegaconf")
WHOLE_SECONDS = 530.0
"""Of the check; what has not begun by then is left out."""
STARTING_SECONDS = 10.0
"""Less than this is not worth a start."""


@dataclass(frozen=True)
class Step:
    """A process of the check."""

    parts: Sequence[str]
    seconds: float
    """Its limit."""


SPEEDS = ("speed-100M", "speed-20M", "speed-5M", "speed-1M", "speed-0.1M")
AHEAD = tuple(Step([f"ahead-{number}"], 200.0) for number in range(3))
STEPS = (
    Step(["correctness"], 170.0),
    *(Step([name], 75.0) for name in SPEEDS),
    Step(["graph"], 60.0),
    Step(["ladder"], 150.0),
    Step(["resume"], 90.0),
    Step(["study"], 150.0),
)
PARTS = [part for step in STEPS for part in step.parts]


def main() -> None:
    """Run the parts, write what they told after each, and print the table."""
    options = parse_options()
    if lacking := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        sys.exit(
            f"error: {sys.executable} has no {', '.join(lacking)}; name a Python that has, such as "
            f"PYTHON=.venv/bin/python bash scripts/gpu_check.sh DIR"
        )
    options.dir.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="gpu_check-", ignore_cleanup_errors=True) as work,
        (options.dir / "check.log").open("w", encoding="utf-8") as log,
    ):
        check = Check(options, Path(work), log)
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
    parser.add_argument("--cpu", action="store_true", help="tiny, on a CPU: only whether it runs")
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=f"{PARTS}"
    )
    return parser.parse_args()


class Check:
    """The processes of one check, and what came of them."""

    def __init__(self, options: argparse.Namespace, work: Path, log: IO[str]) -> None:
        self.out, self.is_cpu, self.only = options.dir.resolve(), options.cpu, options.only
        self.work, self.log = work, log
        self.began, self.date = time.monotonic(), datetime.now(UTC)
        self.seconds: dict[str, float] = {}
        self.failed: dict[str, str] = {}

    def run(self) -> None:
        """Start one process after the other; those that compile ahead beside the first."""
        steps = [step for step in STEPS if set(step.parts) & set(self.only)]
        if self.is_cpu:
            self._wait(self._start(Step(self.only, 120.0)))
            return
        ahead = [self._start(step) for step in AHEAD if len(steps) > 1]
        for number, step in enumerate(steps):
            if number == 1:
                for other in ahead:
                    self._wait(other)
            if self._left() < STARTING_SECONDS:
                self.failed |= dict.fromkeys(step.parts, "left out: no time was left")
                continue
            self._wait(self._start(step))
            self.write()

    def _left(self) -> float:
        return WHOLE_SECONDS - (time.monotonic() - self.began)

    def _start(self, step: Step) -> tuple[Step, float, "subprocess.Popen[str]"]:
        command = [sys.executable, str(SCRIPTS / "gpu_part.py"), *step.parts]
        command += ["--out", str(self.out), "--work", str(self.work)]
        command += ["--cpu"] if self.is_cpu else []
        process = subprocess.Popen(
            command,
            cwd=SCRIPTS.parent,
            env=environment(self.work, is_deterministic="correctness" in step.parts),
            stdout=self.log,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        return step, time.monotonic(), process

    def _wait(self, started: tuple[Step, float, "subprocess.Popen[str]"]) -> None:
        """Wait for a process, at most for its time and for what is left of the whole."""
        step, began, process = started
        limit = min(step.seconds - (time.monotonic() - began), self._left())
        name = " ".join(step.parts) if len(step.parts) < 3 else "all parts"
        try:
            code = process.wait(timeout=max(1.0, limit))
            ending = f"its process ended with exit {code}" if code else None
        except subprocess.TimeoutExpired:
            ending = f"stopped after {time.monotonic() - began:.0f} s"
            os.killpg(process.pid, 9)  # and what it had started
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
        """Those told so far, in the order of the parts."""
        found = []
        for part in PARTS:
            path = self.work / f"{part}.json"
            if path.exists():
                for told in json.loads(path.read_text(encoding="utf-8")):
                    told.pop("meets")
                    found.append(Figure(**told))
        return found

    def write(self) -> None:
        """Write the figures, and what this machine is."""
        write_figures(self.out / "figures.json", self.figures())
        path = self.work / "device.json"
        device = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        facts = {
            **device,
            "python": platform.python_version(),
            "date": self.date.isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - self.began, 1),
            "seconds_by_part": self.seconds,
            "failed": self.failed,
            "figures_mean_nothing": self.is_cpu,
        }
        text = json.dumps(facts, indent=1) + "\n"
        (self.out / "check.json").write_text(text, encoding="utf-8")

    def table(self) -> str:
        """Name, value, unit, goal and verdict of each figure; then what failed."""
        rows = [("figure", "value", "unit", "goal", "")]
        for figure in self.figures():
            goal = verdict = ""
            if figure.is_judged:
                goal = f"{'>=' if figure.sense == 'min' else '<='} {figure.goal:g}"
                verdict = "meets" if figure.meets else "FALLS SHORT"
            rows.append((figure.name, f"{figure.value:.4g}", figure.unit, goal, verdict))
        widths = [max(len(row[i]) for row in rows) for i in range(5)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        lines += [f"{part} failed: {why.splitlines()[0]}" for part, why in self.failed.items()]
        return "\n".join(lines) + "\n"


def environment(work: Path, *, is_deterministic: bool) -> dict[str, str]:
    """What the processes are told: where to find what, and how many threads compile."""
    paths = [str(SCRIPTS.parent), *stand_ins()]
    paths += [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    told = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONUNBUFFERED": "1",
        "WINDTUNNEL_CACHE": str(work / "cache"),
        "WANDB_MODE": "offline",
        "HF_HUB_OFFLINE": "1",
    }
    told.setdefault("TORCHINDUCTOR_COMPILE_THREADS", str(min(8, os.cpu_count() or 1)))
    if is_deterministic:  # read when the first product is computed
        told["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    return told


def stand_ins() -> list[str]:
    """Folders of plain stand-ins for those packages of ours that are not installed here."""
    folder = SCRIPTS / "stand_ins"
    missing = [name for name in ("rich", "tokenizers") if importlib.util.find_spec(name) is None]
    try:
        from filelock import SoftFileLease  # noqa: F401
    except ImportError:  # not there, or of before leases
        missing.append("filelock")
    return [str(folder / name) for name in missing]


if __name__ == "__main__":
    main()
