"""scripts/bench_checkpoint.py: its output is readable; its figures are not judged here."""

import json
import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]


def test_a_tiny_run_writes_figures_in_the_common_format(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    words = ["scripts/bench_checkpoint.py", "--tiny", "--json", str(path)]
    done = subprocess.run(
        [sys.executable, *words, "--folder", str(tmp_path)],
        cwd=REPO,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("a checkpoint every 120 s of training; 2 rounds")
    rows = json.loads(path.read_text())
    names = [row["name"] for row in rows]
    assert len(set(names)) == len(names) == 8
    for row in rows:
        assert list(row) == ["name", "value", "unit", "goal", "sense", "meets"]
    values = {row["name"].split(": ")[1]: row for row in rows}
    median = values["save, median of 2"]["value"]
    assert values["save, fastest"]["value"] <= median <= values["save, slowest"]["value"]
    assert values["share of time, median save"]["value"] == median / (120 + median)
    assert values["share of time, median save"]["goal"] == 0.02
    assert values["one checkpoint on disk"]["value"] > 0.05  # 12 bytes for each of 10 thousand
    assert list(tmp_path.iterdir()) == [path]  # nothing is left behind
