"""What the engine gains: its step, its stacks, its trunks and a whole study, each against a peer.

    python scripts/bench_engine.py [--json FILE] [--quick] [--only PART ...] [--folder DIR]

One CPU thread a process. The reference is a training step in nanoGPT's protocol
(reference_step.py); it and our step are timed in turn in one process, and what counts is the
median of the rounds' ratios (paired_timing.py). Hugging Face's Trainer is a peer where it is
installed: pip install transformers accelerate. Before anything is timed, both steps are checked to
compute the same function. A figure that falls short says so and fails nothing.
"""

import argparse
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmark_figures import Figure, write_figures
from measure_stacks import plan_stacks
from measure_start import plan_start
from measure_step import plan_steps
from measure_study import plan_study
from measure_trainer import plan_trainer
from measure_trunks import plan_trunks
from measurement import Effort, LeftOutError, Measurement
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

PARTS: dict[str, Callable[[Effort], list[Measurement]]] = {
    "step": plan_steps,
    "trainer": plan_trainer,
    "stacks": plan_stacks,
    "trunks": plan_trunks,
    "start": plan_start,
    "study": plan_study,
}

EFFORTS = {"full": (7, 2.0), "quick": (5, 0.2), "tiny": (2, 0.001)}
"""Rounds, and CPU seconds of a block."""


QUICK_SECONDS = 180.0
"""Of a quick run: what would take longer than is left of them is left out."""


def main() -> None:
    """Measure, print the tables, write the JSON after every measurement."""
    options = parse_options()
    console = Console(width=None if sys.stdout.isatty() else 120)
    with (
        tempfile.TemporaryDirectory(dir=options.folder, prefix="bench_engine-") as folder,
        open_progress(console) as progress,
    ):
        effort = chosen_effort(options, Path(folder))
        plans = {name: PARTS[name](effort) for name in options.only}
        seconds = sum(each.seconds for plan in plans.values() for each in plan)
        bar = progress.add_task("", total=seconds)
        ends = time.monotonic() + (QUICK_SECONDS if options.quick else math.inf)
        rows: list[Figure] = []
        for name, plan in plans.items():
            figures, left_out = [], []
            for measurement in plan:
                progress.update(bar, description=measurement.name)
                try:
                    figures += take_in_time(measurement, ends)
                except LeftOutError as reason:
                    left_out.append(f"{measurement.name} is left out: {reason}")
                progress.advance(bar, measurement.seconds)
                if options.json:
                    write_figures(options.json, rows + figures)
            rows += figures
            if figures:
                progress.console.print(as_table(name, figures))
            for line in left_out:
                progress.console.print(line, markup=False, highlight=False)


def take_in_time(measurement: Measurement, ends: float) -> list[Figure]:
    """Take it, unless the time that ends at `ends` of the monotonic clock is too short for it.

    Raises:
        LeftOutError: It is, or the measurement cannot be taken here.
    """
    left = ends - time.monotonic()
    if measurement.seconds > left:
        raise LeftOutError(
            f"it may take {measurement.seconds:.0f} s, and {max(0.0, left):.0f} s are left"
        )
    return measurement.take()


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--quick", action="store_true", help="at most 3 minutes")
    parser.add_argument("--tiny", action="store_true", help="seconds; figures mean nothing")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=PARTS,
        default=list(PARTS),
        metavar="PART",
        help=f"{list(PARTS)}",
    )
    parser.add_argument("--folder", type=Path, help="for temporary files; emptied of ours")
    return parser.parse_args()


def chosen_effort(options: argparse.Namespace, folder: Path) -> Effort:
    """Return how long to measure."""
    word = "tiny" if options.tiny else "quick" if options.quick else "full"
    rounds, block_seconds = EFFORTS[word]
    return Effort(
        rounds=rounds,
        block_seconds=block_seconds,
        is_quick=options.quick,
        is_tiny=options.tiny,
        folder=folder,
    )


def open_progress(console: Console) -> Progress:
    """Return a bar with what is being measured and the time left."""
    return Progress(
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
        console=console,
        transient=True,
    )


def as_table(title: str, figures: list[Figure]) -> Table:
    """Return figures beside their goals."""
    table = Table("figure", title=title, title_justify="left")
    for heading in ("value", "unit", "goal", ""):
        table.add_column(heading, justify="right" if heading in ("value", "goal") else "left")
    for figure in figures:
        goal = verdict = ""
        if figure.is_judged:
            goal = f"{'>=' if figure.sense == 'min' else '<='} {figure.goal:g}"
            verdict = "meets" if figure.meets else "[bold]FALLS SHORT"
        table.add_row(figure.name, f"{figure.value:.4g}", figure.unit, goal, verdict)
    return table


def keep_to_one_thread() -> None:
    """Start again with one thread a process: torch reads these when it is imported."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    if any(os.environ.get(name) != "1" for name in threads):
        arguments = [sys.executable, *sys.argv]
        os.execve(sys.executable, arguments, {**os.environ, **threads})  # noqa: S606


if __name__ == "__main__":
    keep_to_one_thread()
    main()
