"""scripts/bench_*.py run and write figures in the common format; no figure is judged here."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

import bench_engine
from bench.figures import Figure, read_figures, write_figures
from bench.measurement import Effort, LeftOutError, Measurement

REPO = Path(__file__).resolve().parents[2]


def run_tiny(folder, script, *words):
    """Run a benchmark with --tiny; return its values by name and its standard output."""
    path = folder / "figures.json"
    command = [sys.executable, f"scripts/{script}.py", "--tiny", "--json", str(path), *words]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads(path.read_text())
    for row in rows:
        assert list(row) == ["name", "value", "unit", "goal", "sense", "meets"]
        assert math.isfinite(row["value"])
        value, goal = row["value"], row["goal"]
        assert row["meets"] is (value >= goal if row["sense"] == "min" else value <= goal)
        assert row["name"][:50] in done.stdout
    values = {row["name"]: row["value"] for row in rows}
    assert len(values) == len(rows)
    return values, done.stdout


def test_the_benchmark_of_the_analysis_runs(tmp_path):
    values, said = run_tiny(tmp_path, "bench_analysis")
    assert said.startswith("data: 240 ")
    assert len(values) >= 10


def test_the_benchmark_of_checkpoints_runs_and_leaves_nothing_behind(tmp_path):
    values, said = run_tiny(tmp_path, "bench_checkpoint", "--folder", str(tmp_path))
    assert said.startswith("a checkpoint every 120 s of training; 2 rounds")
    short = {name.split(": ")[1]: value for name, value in values.items()}
    median = short["save, median of 2"]
    assert short["save, fastest"] <= median <= short["save, slowest"]
    assert short["share of time, median save"] == median / (120 + median)
    # 12 bytes for each of 10 thousand parameters
    assert short["one checkpoint on disk"] > 0.05
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"]


def test_the_benchmark_of_the_engine_runs_and_leaves_nothing_behind(tmp_path):
    words = ["--folder", str(tmp_path), "--only", "step", "trainer", "stacks"]
    values, said = run_tiny(tmp_path, "bench_engine", *words)
    size = "0.011 M at 64"
    assert values[f"{size}: loss in float32, ours and the reference's apart"] < 1e-5
    for name in ("eager", "compiled", "default block, eager", "default block, compiled"):
        assert values[f"{size}: {name}, times the reference"] > 0
    assert 0 < values[f"{size}: compiled, share of the bf16 peak"] < 1
    assert values["d16 at 64: 8 stacked, times one by one"] > 0
    assert f"Trainer, {size} is left out: needs" in said or f"{size}: Trainer, step" in values
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"]


@pytest.mark.parametrize("word", ["full", "quick", "tiny"])
def test_every_part_of_the_engine_s_benchmark_is_planned_with_its_time(word, tmp_path):
    effort = Effort(
        rounds=5,
        block_seconds=0.2,
        is_quick=word == "quick",
        is_tiny=word == "tiny",
        folder=tmp_path,
    )
    plans = {name: plan(effort) for name, plan in bench_engine.PARTS.items()}
    measurements = [each for plan in plans.values() for each in plan]
    assert len({each.name for each in measurements}) == len(measurements)
    assert all(each.seconds > 0 for each in measurements)
    tiny = {"step": 1, "trainer": 1, "stacks": 2, "trunks": 2, "start": 2, "study": 1}
    whole = {"step": 3, "trainer": 2, "stacks": 9, "trunks": 2, "start": 3, "study": 1}
    counts = {name: len(plan) for name, plan in plans.items()}
    assert counts == (tiny if word == "tiny" else whole)
    assert list(tmp_path.iterdir()) == []


def test_a_measurement_longer_than_the_time_left_is_left_out(monkeypatch):
    monkeypatch.setattr("time.monotonic", lambda: 100.0)
    figure = Figure("a", 1.0, "s")
    measurement = Measurement("a", 20.0, lambda: [figure])
    assert bench_engine.take_in_time(measurement, 120.0) == [figure]
    with pytest.raises(LeftOutError, match="it may take 20 s, and 19 s are left"):
        bench_engine.take_in_time(measurement, 119.0)


def test_figures_say_what_meets_its_goal_and_what_falls_short(tmp_path):
    figures = [
        Figure("a", 2.0, "ratio", 1.7),
        Figure("b", 1.6, "ratio", 1.7),
        Figure("c", 6.0, "s", 5.0, "max"),
        Figure("d", 12345.6, "ms"),
    ]
    console = Console(width=80)
    with console.capture() as shown:
        console.print(bench_engine.as_table("step", figures))
    lines = [line.split() for line in shown.get().splitlines()]
    assert [line[1:-1] for line in lines[-5:-1]] == [
        ["a", "│", "2", "│", "ratio", "│", ">=", "1.7", "│", "meets"],
        ["b", "│", "1.6", "│", "ratio", "│", ">=", "1.7", "│", "FALLS", "SHORT"],
        ["c", "│", "6", "│", "s", "│", "<=", "5", "│", "FALLS", "SHORT"],
        ["d", "│", "1.235e+04", "│", "ms", "│", "│"],
    ]
    write_figures(tmp_path / "figures.json", figures)
    assert read_figures(tmp_path / "figures.json") == figures
    assert read_figures(tmp_path / "none.json") == []
