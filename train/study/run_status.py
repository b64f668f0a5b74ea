"""The state of one run as its folder tells it; a damaged folder is described, never raised."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from train.run_folder.accounting import RunCost, read_cost
from train.run_folder.manifest import read_manifest
from train.run_folder.run_folder import RunFolder
from train.storage.lock import this_host
from train.storage.records import FINISHED_STATES, STATES, read_json, read_jsonl
from train.study.retries import stops_by_cause

LARGEST_NUMBER = 1e300
"""A number of a run folder beyond it is not one."""

STALE_SECONDS = 600.0
"""Age of a heartbeat that says nothing any more. A run beats at every row of metrics.jsonl."""


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """One run of a study."""

    run_id: str
    rung: str
    state: str
    """A state of records.STATES, or `stale`: recorded as running, and no process holds it."""
    reason: str
    """Why it is not done, and what is odd about its folder."""
    step: int
    total_steps: int
    flops: int
    """Planned C of the whole run."""
    seconds: float
    """Training time so far."""
    loss: float | None
    """Newest validation loss."""
    exit_code: int | None
    attempts: int = 0
    """Processes that started it."""
    stops: Mapping[str, int] = field(default_factory=dict)
    """Attempts that ended short of the horizon, by cause."""
    cost: RunCost | None = None
    """What it has cost so far; None before it has cost anything."""

    @property
    def share(self) -> float:
        """Share of the run's steps that is done."""
        if self.state in FINISHED_STATES:
            return 1.0
        return min(1.0, max(0.0, self.step / self.total_steps))

    @property
    def seconds_left(self) -> float | None:
        """Training time to its horizon at its rate so far; None before there is one."""
        if self.state != "running" or self.step <= 0 or self.seconds <= 0:
            return None
        return self.seconds * max(0, self.total_steps - self.step) / self.step


def study_status(study_folder: Path) -> list[RunStatus]:
    """Every run of the study's manifest, in its order; empty before it was planned.

    Raises:
        DataError, StorageError: The manifest is damaged or cannot be read.
    """
    manifest = read_manifest(study_folder)
    return [run_status(study_folder, entry) for entry in manifest["runs"]] if manifest else []


def run_status(study_folder: Path, entry: Mapping[str, Any]) -> RunStatus:
    """What the run's folder says.

    Args:
        study_folder: `runs/<study>/`.
        entry: The run's element of the manifest's `runs`.
    """
    folder = RunFolder(study_folder / entry["run_id"])
    notes: list[str] = []
    status = _json(folder.status, notes)
    is_held = folder.is_locked()
    state = _state(folder, status, notes, is_held=is_held)
    evals = _rows(folder.evals, notes)
    attempts = _rows(folder.attempts, notes)
    result: Mapping[str, Any] = {}
    if state == "completed":
        result = _json(folder.result, notes)
        notes += _replay_note(result)
    elif isinstance(status.get("reason"), str):
        notes.insert(0, status["reason"].split("\n", 1)[0])
    loss = evals[-1].get("loss") if evals else None
    return RunStatus(
        run_id=entry["run_id"],
        rung=str(entry["plan"]["rung"]),
        state=state,
        reason=_printable("; ".join(note for note in notes if note)),
        step=int(_number(status.get("step")) or 0),
        total_steps=entry["plan"]["steps"],
        flops=entry["plan"]["flops"],
        seconds=_number(status.get("seconds")) or 0.0,
        loss=_number(loss),
        exit_code=status["exit_code"] if isinstance(status.get("exit_code"), int) else None,
        attempts=sum(row.get("event") == "start" for row in attempts),
        stops=stops_by_cause(attempts, is_running=is_held),
        cost=read_cost(entry["plan"], status, result),
    )


def _state(folder: RunFolder, status: Mapping[str, Any], notes: list[str], *, is_held: bool) -> str:
    """The recorded state, against what the lock and the heartbeat say of a run under way."""
    state, age = status.get("state", "planned"), _heartbeat_age(status)
    if state not in STATES:
        notes.append(f"status.json has no state we know ({str(state)[:40]!r})")
        state = "running"  # the lock decides
    elif notes:  # the status cannot be read
        state = "running"
    if is_held and state == "running" and age is not None and age > STALE_SECONDS:
        notes.append(f"no row for {age:.0f} s, though its process lives")
    if state != "running" or is_held:
        return str(state)
    holder = folder.holder()
    if holder and holder.host != this_host() and age is not None and age < STALE_SECONDS:
        notes.append(f"no lock is seen from here; {holder.host} wrote {max(0.0, age):.0f} s ago")
        return "running"
    return "stale"


def _heartbeat_age(status: Mapping[str, Any]) -> float | None:
    """Seconds since the status was written, by this machine's clock."""
    try:
        beat = datetime.fromisoformat(status["heartbeat"])
        return (datetime.now(UTC) - beat).total_seconds()
    except (KeyError, TypeError, ValueError):
        return None


def _replay_note(result: Mapping[str, Any]) -> list[str]:
    """Say when rows that a resume computed again came out otherwise."""
    replayed = result.get("replayed")
    if not isinstance(replayed, dict):
        return []
    rows, differing, largest = (
        _number(replayed.get(key)) or 0 for key in ("rows", "differing", "largest")
    )
    if not differing:
        return []
    return [f"{differing:.0f} of {rows:.0f} replayed rows differ, by up to {largest:.2g}"]


def _json(path: Path, notes: list[str]) -> dict[str, Any]:
    try:
        return read_json(path)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        notes.append(_what_is_wrong(path, error))
        return {}


def _rows(path: Path, notes: list[str]) -> list[dict[str, Any]]:
    try:
        return read_jsonl(path)
    except (OSError, ValueError) as error:
        notes.append(_what_is_wrong(path, error))
        return []


def _what_is_wrong(path: Path, error: OSError | ValueError) -> str:
    if isinstance(error, OSError):
        return f"{path.name}: cannot be read ({error.strerror})"
    return str(error).removeprefix(f"{path.parent}/")


def _printable(text: str) -> str:
    """Without what would steer a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _number(value: object) -> float | None:
    """A number, or None: these come from files that anything may have happened to."""
    if isinstance(value, int | float) and abs(value) < LARGEST_NUMBER:
        return float(value)
    return None
