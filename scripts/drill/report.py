"""The report of a fault drill: figures from the run folders, as a table and as a Markdown page."""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from bench.figures import Figure
from drill.compare_studies import RunComparison
from drill.random_kills import KINDS, Kill, Storm
from train.storage.records import read_json, read_jsonl


@dataclass(frozen=True, kw_only=True)
class Drill:
    """A reference study, and the same study trained under kills, once or several times."""

    study: str
    kills_wanted: int
    reference: Path
    seconds_alone: float
    storms: tuple[Storm, ...]
    compared: tuple[RunComparison, ...]
    """Comparison of every run of every storm with the reference."""
    settings: tuple[str, ...]
    """Overrides that all of them were trained with."""

    @property
    def kills(self) -> list[Kill]:
        """All kills of all storms."""
        return [kill for storm in self.storms for kill in storm.kills]

    @property
    def problems(self) -> list[str]:
        """Everything that differs from the reference, one line each."""
        return [
            f"{run.run_id}: {what}"
            for run in self.compared
            for what in (
                *(f"{name} is lost" for name in run.lost),
                *(f"{name} is there twice, or not in the reference" for name in run.surplus),
                *run.differing,
                *(f"result: {run.result}" for _ in [0] if run.result),
                *(f"final checkpoint: {run.weights}" for _ in [0] if run.weights),
            )
        ]


def steps_repeated(folder: Path, kills: Iterable[Kill]) -> int:
    """Steps that a killed attempt had logged and that the next attempt of its run trained again."""
    repeated = 0
    for victim in (victim for kill in kills for victim in kill.victims):
        if victim.run_id is None:
            continue
        rows = read_jsonl(folder / victim.run_id / "attempts.jsonl")
        later = [
            row["start_step"]
            for row in rows
            if row["event"] == "start" and row["attempt"] > victim.attempt
        ]
        repeated += max(0, victim.last_step - later[0]) if later else 0
    return repeated


def replayed_rows(folder: Path) -> tuple[int, int]:
    """Rows that resumed runs computed again and compared themselves, and how many differ."""
    rows = differing = 0
    for path in folder.glob("*/attempts.jsonl"):
        ends = [row for row in read_jsonl(path) if row["event"] == "end" and row.get("replayed")]
        # the last entry covers everything that the run replayed
        if ends:
            rows += ends[-1]["replayed"]["rows"]
            differing += ends[-1]["replayed"]["differing"]
    return rows, differing


def leftovers(folder: Path) -> tuple[list[Path], list[Path]]:
    """Partial files in the study's folder, and quarantined checkpoints."""
    partial = list(folder.rglob("*.partial"))
    bad = [path for path in folder.glob("*/checkpoints/bad/*") if path.is_dir()]
    return partial, bad


def figures(drill: Drill) -> list[Figure]:
    """All figures of the table, in order."""
    kills, compared, storms = drill.kills, drill.compared, drill.storms
    kinds = Counter(kill.kind for kill in kills)
    victims = [victim for kill in kills for victim in kill.victims]
    repeated = sum(steps_repeated(storm.folder, storm.kills) for storm in storms)
    replayed = [replayed_rows(storm.folder) for storm in storms]
    left = [leftovers(storm.folder) for storm in storms]
    steps = sum(
        run["plan"]["steps"]
        for storm in storms
        for run in read_json(drill.reference / "manifest.json")["runs"]
    )
    lost_seconds = sum(storm.seconds for storm in storms) - drill.seconds_alone * len(storms)
    finished = all(storm.share == 1.0 for storm in storms)
    return [
        Figure("kills survived", len(kills) if finished else 0, "kills", drill.kills_wanted),
        *(Figure(f"of {kind}", kinds[kind], "kills") for kind in KINDS),
        Figure("runs whose job died", len(victims), "runs"),
        Figure("of which before their first step", _before_start(victims), "runs"),
        Figure("commands started", sum(storm.launches for storm in storms), "commands"),
        Figure(
            "unexpected exits", sum(len(storm.unexpected) for storm in storms), "exits", 0, "max"
        ),
        Figure("steps trained", steps, "steps"),
        Figure("steps repeated", repeated, "steps"),
        Figure("rows compared", sum(run.rows for run in compared), "rows", 1),
        Figure("rows lost", sum(len(run.lost) for run in compared), "rows", 0, "max"),
        Figure("rows surplus", sum(len(run.surplus) for run in compared), "rows", 0, "max"),
        Figure("curves compared", len(compared), "runs", 1),
        Figure("curves that differ", sum(bool(r.differing) for r in compared), "runs", 0, "max"),
        Figure("results that differ", sum(bool(r.result) for r in compared), "runs", 0, "max"),
        Figure(
            "final weights that differ", sum(bool(r.weights) for r in compared), "runs", 0, "max"
        ),
        Figure("replayed rows compared", sum(rows for rows, _ in replayed), "rows", 1),
        Figure("replayed rows that differ", sum(n for _, n in replayed), "rows", 0, "max"),
        Figure("checkpoints quarantined", sum(len(bad) for _, bad in left), "folders", 0, "max"),
        Figure("partial files left", sum(len(files) for files, _ in left), "files", 0, "max"),
        Figure("time undisturbed", drill.seconds_alone * len(storms), "s"),
        Figure("time under kills", sum(storm.seconds for storm in storms), "s"),
        Figure("time lost", lost_seconds, "s"),
        Figure("time lost per kill", lost_seconds / max(1, len(kills)), "s"),
    ]


def _before_start(victims: Sequence[Any]) -> int:
    return sum(victim.run_id is None for victim in victims)


def caption(drill: Drill) -> str:
    """One sentence: the study, the device, the number of storms, the settings."""
    runs = read_json(drill.reference / "manifest.json")["runs"]
    flops = sum(run["plan"]["flops"] for run in runs)
    times = "once" if len(drill.storms) == 1 else f"{len(drill.storms)} times"
    return (
        f"Study {drill.study}: {len(runs)} runs, {flops:.3g} FLOPs, on {_device(drill.reference)}; "
        f"trained undisturbed, and {times} under kills, with {' '.join(drill.settings)}."
    )


def print_report(drill: Drill, rows: Sequence[Figure]) -> None:
    """Print the table, then what differs, then the goals missed."""
    console = Console()
    console.print(caption(drill), highlight=False, markup=False)
    table = Table(box=None, pad_edge=False)
    for name, justify in (("figure", "left"), ("value", "right"), ("", "left"), ("goal", "left")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for row in rows:
        table.add_row(*_cells(row))
    console.print(table)
    for line in drill.problems[:40]:
        console.print(f"DIFFERS  {line}", highlight=False, markup=False)
    short = [row.name for row in rows if not row.meets]
    console.print(
        f"falls short: {', '.join(short)}" if short else "every goal is met", highlight=False
    )


def write_markdown(path: Path, drill: Drill, rows: Sequence[Figure], *, command: str) -> None:
    """Write the table and what it means as a Markdown page."""
    value = {row.name: row.value for row in rows}
    differ = drill.problems
    lines = [
        "# The fault drill",
        "",
        f"`{command}`, {datetime.now(UTC).date()}, torch {torch.__version__}.",
        caption(drill),
        "",
        "| figure | value | goal | |",
        "|---|---|---|---|",
        *(f"| {' | '.join(_cells(row))} |" for row in rows),
        "",
        "A kill is a SIGKILL: nothing of the process runs after it. *One job* dies alone; with the "
        "*launcher alone* its jobs go on as orphans, and the command, started again, finds their "
        "runs held; the *launcher with all jobs* is what a reboot of the machine does to the "
        "processes (not to the disk: pages that were not yet on it survive a SIGKILL, so this says "
        "nothing about fsync). One kill in ten may also hit a study that is still starting up.",
        "",
        f"Compared, each bit of it, with the undisturbed study: all {value['rows compared']:.0f} "
        f"rows of losses, gradient norms and evaluations without their clock columns, every "
        f"result, and weights and optimiser moments of the last checkpoints. Steps repeated are "
        f"those between the last logged row before a kill and the checkpoint the run went on from.",
        "",
        "Time lost includes the start-up of every command and job that had to start again.",
    ]
    if differ:
        lines += ["", "## What differs", "", *(f"- {line}" for line in differ[:100])]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _cells(row: Figure) -> tuple[str, str, str, str]:
    number = f"{row.value:.0f}" if row.unit != "s" else f"{row.value:.1f}"
    if not row.has_goal:
        return row.name, number, row.unit, ""
    goal = f"{'at least' if row.sense == 'min' else 'at most'} {row.goal:g}"
    return row.name, number, row.unit, goal if row.meets else f"{goal}: FALLS SHORT"


def _device(reference: Path) -> str:
    results = sorted(reference.glob("*/result.json"))
    device = read_json(results[0])["row"]["device"] if results else "an unknown device"
    return f"{device} ({os.cpu_count()} CPU cores)"
