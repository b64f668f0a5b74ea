"""`python -m train` on a GPU: a run killed and resumed, and a short IsoFLOP study."""

import csv
import importlib
import importlib.util
import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.figures import Figure
from gpu.setting import Report, Setting

REPO = Path(__file__).resolve().parents[2]

CLOCKED = ("seconds", "per_second", "mfu", "time", "attempt", "spent")
"""Words in the names of columns that hold times; these differ between attempts."""

STUDY_RUNS = {"model.d_model": (24, 32, 48, 64, 96), "budget.flops": ("1e12", "3e12", "1e13")}
TINY_RUNS = {"model.d_model": (8,), "budget.flops": ("3e8", "6e8")}
ANALYSIS_NEEDS = ("pandas", "pyarrow", "scipy", "matplotlib", "jinja2", "rich")


def take_resume(setting: Setting, report: Report) -> None:
    """Train a run; train it again, killed after a checkpoint and resumed: all rows must be equal.

    Raises:
        ModuleNotFoundError: hydra is not installed.
        RuntimeError: A command failed, or the run ended before it was killed.
    """
    importlib.import_module("hydra")
    whole, killed = setting.work / "whole", setting.work / "killed"
    words = [
        "schedule=constant",
        f"budget.tokens={256 * (60 if setting.is_tiny else 3_000)}",
        "optimizer.batch_tokens=256",
        "model.d_model=16",
        "data.seq_len=64",
        "data.allow_repeat=true",
        "machine.deterministic=true",
        "machine.log_every=10",
        f"machine.checkpoint_steps={10 if setting.is_tiny else 50}",
        "eval.tokens=2_000",
        "study.name=resume",
    ]
    _finish(_start(words, whole, setting))
    process = _start(words, killed, setting)
    try:
        _wait_for_checkpoint(process, killed)
    finally:
        process.kill()
        process.communicate()
    (folder,) = (killed / "runs" / "resume").glob("*/status.json")
    if json.loads(folder.read_text(encoding="utf-8"))["state"] == "completed":
        raise RuntimeError("the run ended before it was killed")
    _finish(_start(words, killed, setting))
    one, other = _rows(whole), _rows(killed)
    differing = sum(a != b for a, b in zip(one, other, strict=False)) + abs(len(one) - len(other))
    report(Figure("killed and resumed: rows", len(one), "rows"))
    report(Figure("killed and resumed: rows that differ", differing, "rows", 0.0, "max"))


def _wait_for_checkpoint(process: "subprocess.Popen[str]", folder: Path) -> None:
    while process.poll() is None:
        if list(folder.glob("runs/resume/*/checkpoints/step_*/DONE.json")):
            return
        time.sleep(0.002)


def _rows(folder: Path) -> list[dict[str, Any]]:
    """All rows of metrics and evaluations, without the columns that hold times."""
    rows = []
    for name in ("metrics.jsonl", "evals.jsonl"):
        for path in sorted(folder.glob(f"runs/resume/*/{name}")):
            for line in path.read_text(encoding="utf-8").splitlines():
                row = json.loads(line)
                rows.append({k: v for k, v in row.items() if not any(w in k for w in CLOCKED)})
    return rows


def take_study(setting: Setting, report: Report) -> None:
    """Train an IsoFLOP study and write its runs; also analyse it if the packages are installed.

    Raises:
        ModuleNotFoundError: hydra is not installed.
        RuntimeError: A command failed.
    """
    importlib.import_module("hydra")
    axes: Mapping[str, Sequence[object]] = TINY_RUNS if setting.is_tiny else STUDY_RUNS
    tiny = ["optimizer.batch_tokens=64", "data.seq_len=16", "eval.tokens=2_000"]
    words = [
        "-m",
        "study.name=isoflop",
        "schedule=wsd",
        "model.head_dim=8",
        "data.allow_repeat=true",
        "eval.points=1",
        *(tiny if setting.is_tiny else ["optimizer.batch_tokens=2048", "data.seq_len=128"]),
        *(f"{key}={','.join(map(str, values))}" for key, values in axes.items()),
    ]
    folder, began = setting.work / "isoflop", time.perf_counter()
    _finish(_start(words, folder, setting))
    seconds = time.perf_counter() - began
    rows = _results(folder)
    _write_runs(setting.out / "isoflop_runs.csv", rows)
    report(
        Figure(
            "IsoFLOP study: runs completed", len(rows), "runs", math.prod(map(len, axes.values()))
        )
    )
    report(Figure("IsoFLOP study: by the real command", seconds, "s"))
    for budget in sorted({row["budget"] for row in rows}):
        best = min((row for row in rows if row["budget"] == budget), key=lambda row: row["loss"])
        title = f"IsoFLOP study: best size at {budget:.0e} FLOPs"
        report(Figure(title, best["n_params"], "parameters"))
    if not setting.is_tiny and all(importlib.util.find_spec(name) for name in ANALYSIS_NEEDS):
        _draw(folder, setting)


def _results(folder: Path) -> list[dict[str, Any]]:
    rows = []
    for path in sorted(folder.glob("runs/isoflop/*/result.json")):
        row = json.loads(path.read_text(encoding="utf-8"))["row"]
        # planned FLOPs are the budget to within rounding
        budget = float(f"{row['flops']:.0e}")
        rows.append({"run_id": path.parent.name, "budget": budget, **row})
    return rows


def _write_runs(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)


def _draw(folder: Path, setting: Setting) -> None:
    """Run the analysis and copy its overview figure and fits.json."""
    out = folder / "analysis"
    words = ["study=isoflop", f"runs={folder}/runs", f"out={out}"]
    _finish(_spawn([sys.executable, "-m", "analysis", *words]))
    for path in (*out.rglob("overview.png"), *out.rglob("fits.json")):
        shutil.copy(path, setting.out / f"isoflop_{path.name}")


def _start(words: Sequence[str], folder: Path, setting: Setting) -> "subprocess.Popen[str]":
    """Start `python -m train` on synthetic text, with its runs under `folder`."""
    command = [sys.executable, "-m", "train", *words, "data=synthetic"]
    command += [f"paths.runs={folder}/runs", f"paths.data={setting.work}/text"]
    command += [f"machine={'cpu' if setting.is_tiny else 'cuda'}"]
    tokens, held_out = (20_000, 2_000) if setting.is_tiny else (4_000_000, 300_000)
    command += [f"data.synthetic.tokens={tokens}", f"data.validation_tokens={held_out}"]
    return _spawn(command)


def _spawn(command: Sequence[str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        command,
        cwd=REPO,
        env=dict(os.environ),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _finish(process: "subprocess.Popen[str]") -> None:
    """Wait for a process.

    Raises:
        RuntimeError: It failed; the message is the end of its output.
    """
    try:
        output, _ = process.communicate()
    finally:
        process.kill()
    if process.returncode:
        raise RuntimeError(f"exit {process.returncode}: {output[-1500:]}")
