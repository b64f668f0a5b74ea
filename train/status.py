"""`python -m train.status study=NAME`: a study's state, from its manifest and run folders."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from train.errors import ConfigError, WindTunnelError, did_you_mean
from train.manifest import read_manifest
from train.records import FINISHED_STATES, read_jsonl
from train.rundir import RunFolder


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """One run of a study, as its folder tells it."""

    run_id: str
    rung: str
    state: str
    """A state of records.STATES, or `stale`: recorded as running, and no process holds it."""
    reason: str
    step: int
    total_steps: int
    flops: int
    """Planned C of the whole run."""
    seconds: float
    """Training time so far."""
    loss: float | None
    """Newest validation loss."""
    exit_code: int | None

    @property
    def share(self) -> float:
        """Share of the run's steps that is done."""
        return 1.0 if self.state in FINISHED_STATES else self.step / self.total_steps


def study_status(study_folder: Path) -> list[RunStatus]:
    """Every run of the study's manifest, in its order; empty before it was planned."""
    manifest = read_manifest(study_folder)
    return [_run_status(study_folder, entry) for entry in manifest["runs"]] if manifest else []


def _run_status(study_folder: Path, entry: dict[str, Any]) -> RunStatus:
    folder = RunFolder(study_folder / entry["run_id"])
    status = folder.read_status()
    state = status.get("state", "planned")
    if state == "running" and not folder.is_locked():
        state = "stale"
    reason = (status.get("reason") or "").split("\n", 1)[0] if state != "completed" else ""
    try:
        evals = read_jsonl(folder.evals)
    except ValueError as error:  # said, not raised: one damaged file must not hide the other runs
        evals, reason = [], str(error)
    return RunStatus(
        run_id=entry["run_id"],
        rung=entry["plan"]["rung"],
        state=state,
        reason=reason,
        step=status.get("step", 0),
        total_steps=entry["plan"]["steps"],
        flops=entry["plan"]["flops"],
        seconds=status.get("seconds", 0.0),
        loss=evals[-1]["loss"] if evals else None,
        exit_code=status.get("exit_code"),
    )


def find_study(runs_root: Path, name: str) -> Path:
    """The folder of a study that exists.

    Raises:
        ConfigError: It does not; the near names are listed.
    """
    folder = runs_root / name
    if (folder / "manifest.json").exists():
        return folder
    others = [path.parent.name for path in runs_root.glob("*/manifest.json")]
    raise ConfigError(f"study={name}: no such study in {runs_root}/{did_you_mean(name, others)}")


def status_table(runs: list[RunStatus]) -> Table:
    """One row a run."""
    table = Table(box=None, pad_edge=False)
    for name in ("run", "state", "done", "C", "loss"):
        table.add_column(
            name, no_wrap=True, justify="left" if name in ("run", "state") else "right"
        )
    table.add_column("reason", overflow="fold")
    for run in runs:
        loss = f"{run.loss:.4f}" if run.loss is not None else ""
        done = f"{run.share:.0%}"
        table.add_row(run.run_id, run.state, done, f"{run.flops:.3g}", loss, run.reason)
    return table


def summary(runs: list[RunStatus]) -> str:
    """Counts by state, the share of FLOPs done, and the time left at the rate so far."""
    states = sorted({run.state for run in runs})
    counts = ", ".join(f"{sum(run.state == state for run in runs)} {state}" for state in states)
    total = sum(run.flops for run in runs)
    done = sum(run.flops * run.share for run in runs)
    line = f"{len(runs)} runs: {counts}; {done / total:.0%} of {total:.3g} FLOPs"
    spent = sum(run.seconds for run in runs)
    running = sum(run.state == "running" for run in runs)
    if running and 0 < done < total and spent > 0:
        left = spent * (total - done) / done / running
        line += f"; about {left:.0f} s left at the rate so far, {running} at a time"
    return line


def main(words: list[str]) -> int:
    """Print one study's table; return the exit code."""
    console = Console(width=None if sys.stdout.isatty() else 160)
    options = {"runs": "runs"}
    try:
        for word in words:
            key, equals, value = word.partition("=")
            if not equals or key not in ("study", "runs"):
                raise ConfigError(f"{word}: unknown option{did_you_mean(key, ('study', 'runs'))}")
            options[key] = value
        if "study" not in options:
            raise ConfigError("study=NAME is missing: python -m train.status study=NAME [runs=DIR]")
        runs = study_status(find_study(Path(options["runs"]), options["study"]))
    except WindTunnelError as error:
        Console(stderr=True).print(f"error: {error}", markup=False, highlight=False, soft_wrap=True)
        return error.exit_code
    console.print(status_table(runs))
    console.print(summary(runs), highlight=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
