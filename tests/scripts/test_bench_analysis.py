"""scripts/bench_analysis.py: its output is readable; its figures are not judged here."""

import json
import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]


def test_a_tiny_run_writes_figures_in_the_common_format(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    words = [sys.executable, "scripts/bench_analysis.py", "--tiny", "--json", str(path)]
    done = subprocess.run(words, cwd=REPO, capture_output=True, text=True, check=True)
    rows = json.loads(path.read_text())
    assert done.stdout.startswith("data: 240 ")
    names = [row["name"] for row in rows]
    assert len(set(names)) == len(names) >= 10
    for row in rows:
        assert list(row) == ["name", "value", "unit", "goal", "sense", "meets"]
        reached = (
            row["value"] >= row["goal"] if row["sense"] == "min" else (row["value"] <= row["goal"])
        )
        assert row["meets"] is reached
