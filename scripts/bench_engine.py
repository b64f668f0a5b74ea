"""Benchmark of the engine: its step, stacks, trunks, start-up and a whole study.

    python scripts/bench_engine.py [--json FILE] [--quick] [--only PART ...] [--folder DIR]

One CPU thread per process. Our step is timed in turn with a reference step that follows nanoGPT's
train.py (bench/reference_step.py), in one process; the figure is the median of the rounds' ratios
(bench/paired_timing.py). Hugging Face's Trainer is timed too where it is installed (pip install
transformers accelerate). Before timing, both models are checked to compute the same loss. A figure
that falls short of its goal is marked; the exit code stays 0.
"""

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from bench.figures import Figure, write_figures
from bench.measure_stacks import plan_stacks
from bench.measure_start import plan_start
from bench.measure_step import plan_steps
from bench.measure_study import plan_study
from bench.measure_trainer import plan_trainer
from bench.measure_trunks import plan_trunks
from bench.measurement import Effort, LeftOutError, Measurement
from bench.one_thread import restart_with_one_thread

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
"""Length of a --quick run. A measurement that would take longer than what is left is left out."""


def main() -> None:
    """Run the measurements and print their tables; write the JSON after every measurement."""
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
    """Take a measurement if it can end before `ends`, seconds of the monotonic clock.

    Raises:
        LeftOutError: It cannot, or the measurement cannot be taken on this machine.
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
    parser.add_argument("--folder", type=Path, help="for temporary files, deleted at the end")
    return parser.parse_args()


def chosen_effort(options: argparse.Namespace, folder: Path) -> Effort:
    """Read the effort off the command line."""
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
    """Build a progress bar with the current measurement and the time left."""
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
    """Figures with their goals and verdicts."""
    table = Table("figure", title=title, title_justify="left")
    for heading in ("value", "unit", "goal", ""):
        table.add_column(heading, justify="right" if heading in ("value", "goal") else "left")
    for figure in figures:
        verdict = figure.verdict.replace("FALLS", "[bold]FALLS")
        value = f"{figure.value:.4g}"
        table.add_row(figure.name, value, figure.unit, figure.goal_text, verdict)
    return table


if __name__ == "__main__":
    restart_with_one_thread()
    main()
