"""scripts/bench_engine.py: that everything is measured and told; no figure is judged here."""

import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

REPO = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO / "scripts"))

import bench_engine  # type: ignore[import-not-found]  # noqa: E402
from benchmark_figures import Figure  # type: ignore[import-not-found]  # noqa: E402
from measurement import (  # type: ignore[import-not-found]  # noqa: E402
    Effort,
    LeftOutError,
    Measurement,
)


def effort(word: str, folder: Path) -> Effort:
    return Effort(
        rounds=5, block_seconds=0.2, is_quick=word == "quick", is_tiny=word == "tiny", folder=folder
    )


def test_a_tiny_run_writes_figures_in_the_common_format(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    words = ["scripts/bench_engine.py", "--tiny", "--json", str(path), "--folder", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, *words, "--only", "step", "trainer", "stacks"],
        cwd=REPO,
        capture_output=True,
        text=True,
        check=True,
    )
    rows = json.loads(path.read_text())
    names = [row["name"] for row in rows]
    assert len(set(names)) == len(names)
    for row in rows:
        assert list(row) == ["name", "value", "unit", "goal", "sense", "meets"]
        assert math.isfinite(row["value"])
        assert row["name"].split(":")[0] in done.stdout
    values = {row["name"]: row["value"] for row in rows}
    size = "0.011 M at 64"
    assert values[f"{size}: loss in float32, ours and the reference's apart"] < 1e-5
    for name in ("eager", "compiled", "default block, eager", "default block, compiled"):
        assert values[f"{size}: {name}, times the reference"] > 0
    share = values[f"{size}: compiled, share of the bf16 peak"]
    assert 0 < share < 1
    assert values["d16 at 64: 8 stacked, times one by one"] > 0
    if importlib.util.find_spec("transformers") is None:
        assert f"Trainer, {size} is left out: needs transformers" in done.stdout
    assert list(tmp_path.iterdir()) == [path]  # nothing is left behind


def test_a_part_that_is_not_there_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench_engine.py", "--only", "speed"])
    with pytest.raises(SystemExit) as refused:
        bench_engine.parse_options()
    assert refused.value.code == 2
    error = capsys.readouterr().err
    assert "invalid choice: 'speed' (choose from" in error
    assert "stacks" in error


@pytest.mark.parametrize("word", ["full", "quick", "tiny"])
def test_every_part_is_planned_with_its_time(word: str, tmp_path: Path) -> None:
    plans = {name: plan(effort(word, tmp_path)) for name, plan in bench_engine.PARTS.items()}
    names = [each.name for plan in plans.values() for each in plan]
    assert len(set(names)) == len(names)
    assert all(each.seconds > 0 for plan in plans.values() for each in plan)
    counts = {name: len(plan) for name, plan in plans.items()}
    tiny = {"step": 1, "trainer": 1, "stacks": 2, "trunks": 2, "start": 2, "study": 1}
    whole = {"step": 3, "trainer": 2, "stacks": 9, "trunks": 2, "start": 3, "study": 1}
    assert counts == (tiny if word == "tiny" else whole)
    assert list(tmp_path.iterdir()) == []  # a plan measures nothing


def test_what_takes_longer_than_is_left_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.monotonic", lambda: 100.0)
    figure = Figure("a", 1.0, "s")
    measurement = Measurement("a", 20.0, lambda: [figure])
    assert bench_engine.take_in_time(measurement, 120.0) == [figure]
    assert bench_engine.take_in_time(measurement, math.inf) == [figure]
    with pytest.raises(LeftOutError, match="it may take 20 s, and 19 s are left"):
        bench_engine.take_in_time(measurement, 119.0)
    with pytest.raises(LeftOutError, match="it may take 20 s, and 0 s are left"):
        bench_engine.take_in_time(measurement, 50.0)


def test_the_table_says_what_meets_its_goal_and_what_falls_short() -> None:
    rows = [
        Figure("a", 2.0, "ratio", 1.7),
        Figure("b", 1.6, "ratio", 1.7),
        Figure("c", 6.0, "s", 5.0, "max"),
        Figure("d", 12345.6, "ms"),
    ]
    console = Console(width=80)
    with console.capture() as shown:
        console.print(bench_engine.as_table("step", rows))
    lines = [line.split() for line in shown.get().splitlines()]
    assert [line[1:-1] for line in lines[-5:-1]] == [
        ["a", "│", "2", "│", "ratio", "│", ">=", "1.7", "│", "meets"],
        ["b", "│", "1.6", "│", "ratio", "│", ">=", "1.7", "│", "FALLS", "SHORT"],
        ["c", "│", "6", "│", "s", "│", "<=", "5", "│", "FALLS", "SHORT"],
        ["d", "│", "1.235e+04", "│", "ms", "│", "│"],
    ]
