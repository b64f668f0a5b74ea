"""Benchmark of checkpoints: blocks of training steps with and without a save, in turn.

    python scripts/bench_checkpoint.py [--json FILE] [--quick] [--folder DIR]

Real steps and real saves (write, SHA-256, fsync, rename, prune) of one run per size, one thread.
Each save is timed directly and, since it could also slow down the steps after it, as the difference
of the blocks. "share of time" assumes one save per default checkpoint interval.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.figures import Figure, write_figures
from bench.one_thread import restart_with_one_thread
from train.config.experiment import (
    BudgetConfig,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    Source,
    SyntheticConfig,
)
from train.config.runtime import Compile, MachineConfig, PathsConfig, StudyConfig
from train.config.schema import Config
from train.run_folder.run_folder import folder_of

WIDTHS = (64, 192, 320, 512)
"""d_model of the measured rungs: 0.1, 1.4, 6 and 25 million parameters."""

GOAL = 0.02
"""Upper goal for the share of a run's time that checkpoints take."""

INTERVAL = 60 * MachineConfig().checkpoint_minutes
"""Default seconds between checkpoints."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The timings of one size."""

    n_params: int
    steps: int
    """Steps per block."""
    without: list[float]
    """Seconds of each block without a save."""
    with_save: list[float]
    """Seconds of each block with one save."""
    saves: list[float]
    """Seconds of each save."""
    bytes_each: int
    """Size of one checkpoint on disk."""


def measure(width: int, rounds: int, block_seconds: float, folder: Path) -> Measured:
    """Time blocks of one run in turn; rounds alternate which kind of block comes first."""
    # imported here, after the restart with one thread: torch comes with them
    from train.plan.planning import PlannedRun
    from train.plan.validate import validate
    from train.run_folder.accounting import RunClock
    from train.training.opening import load_engine, open_run
    from train.training.recording import describe, open_records, save

    config = make_config(width, folder)
    planned = PlannedRun(overrides=[], config=config, plan=validate(config))
    with folder_of(planned).locked():
        run = open_run(planned)
        clock = RunClock(0)
        engine = load_engine([run], clock)
        describe(run, engine.compute.name)
        open_records(run, engine, stacked_with=())

        def step() -> None:
            engine.advance(1)
            run.step += 1

        # warm up
        step()
        step_seconds = timed(step)
        save(run, engine, clock)
        steps = max(2, round(block_seconds / step_seconds))
        without: list[float] = []
        with_save: list[float] = []
        saves: list[float] = []
        for number in range(rounds):
            for is_saving in (number % 2 == 0, number % 2 == 1):
                began = time.perf_counter()
                if is_saving:
                    saves.append(timed(lambda: save(run, engine, clock)))
                for _ in range(steps):
                    step()
                seconds = time.perf_counter() - began
                (with_save if is_saving else without).append(seconds)
        newest = max(folder_of(planned).checkpoints.glob("step_*"))
        run.tracker.finish("preempted", {})
        return Measured(
            n_params=planned.plan.params.total,
            steps=steps,
            without=without,
            with_save=with_save,
            saves=saves,
            bytes_each=sum(path.stat().st_size for path in newest.iterdir()),
        )


def make_config(width: int, folder: Path) -> Config:
    """A run of one rung on synthetic text, with batches of four windows of 128 tokens."""
    return Config(
        model=ModelConfig(d_model=width),
        data=DataConfig(
            name="bench",
            source=Source.synthetic,
            seq_len=128,
            validation_tokens=20_000,
            allow_repeat=True,
            synthetic=SyntheticConfig(tokens=400_000),
        ),
        optimizer=OptimizerConfig(lr=1e-3, batch_tokens=512),
        # never reached: only the blocks of steps are trained
        budget=BudgetConfig(tokens=512 * 1_000_000),
        study=StudyConfig(name="bench_checkpoint"),
        # compiling would take longer than the blocks
        machine=MachineConfig(compile=Compile.never),
        paths=PathsConfig(runs=str(folder / "runs"), data=str(folder / "data")),
    )


def timed(work: Callable[[], object]) -> float:
    """Time one call, in seconds."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def rows_of(measured: Measured) -> list[Figure]:
    """The figures of one size."""
    size = f"{measured.n_params / 1e6:.2g} M parameters"
    saves, median = measured.saves, statistics.median(measured.saves)
    pairs = zip(measured.with_save, measured.without, strict=True)
    by_blocks = statistics.median([saving - plain for saving, plain in pairs])
    return [
        Figure(f"{size}: step", statistics.median(measured.without) / measured.steps, "s"),
        Figure(f"{size}: save, median of {len(saves)}", median, "s"),
        Figure(f"{size}: save, fastest", min(saves), "s"),
        Figure(f"{size}: save, slowest", max(saves), "s"),
        Figure(f"{size}: save, by the blocks' difference", by_blocks, "s"),
        Figure(f"{size}: share of time, median save", share(median), "ratio", GOAL, "max"),
        Figure(f"{size}: share of time, slowest save", share(max(saves)), "ratio", GOAL, "max"),
        Figure(f"{size}: one checkpoint on disk", measured.bytes_each / 1e6, "MB"),
    ]  # fmt: skip


def share(save_seconds: float) -> float:
    """Share of the time of a run that saves once per INTERVAL seconds of training."""
    return save_seconds / (INTERVAL + save_seconds)


def main() -> None:
    """Measure every size, print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--quick", action="store_true", help="at most 3 minutes")
    parser.add_argument("--tiny", action="store_true", help="seconds; figures mean nothing")
    parser.add_argument("--folder", type=Path, help="on the disk to measure; left as it was")
    options = parser.parse_args()
    widths: tuple[int, ...] = WIDTHS
    rounds, block_seconds = 7, 4.0
    if options.quick:
        rounds, block_seconds = 5, 2.0
    if options.tiny:
        widths, rounds, block_seconds = (16,), 2, 0.02
    rows: list[Figure] = []
    print(f"a checkpoint every {INTERVAL:g} s of training; {rounds} rounds")  # noqa: T201
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="bench_checkpoint-") as folder:
        for width in widths:
            for row in rows_of(measure(width, rounds, block_seconds, Path(folder))):
                rows.append(row)
                goal = f"{row.goal_text}  {row.verdict}".strip()
                print(f"{row.name:58s} {row.value:12.5g} {row.unit:6s} {goal}", flush=True)  # noqa: T201
    if options.json:
        write_figures(options.json, rows)


if __name__ == "__main__":
    restart_with_one_thread()
    main()
