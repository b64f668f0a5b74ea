"""The state of each run, read from its folder; damage is noted, never raised."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from train.run_folder.accounting import LARGEST_NUMBER, RunCost, read_cost
from train.run_folder.manifest import read_manifest
from train.run_folder.run_folder import RunFolder
from train.storage.lock import this_host
from train.storage.records import FINISHED_STATES, STATES, read_json, read_jsonl

STALE_SECONDS = 600.0
"""Older heartbeats say nothing; every row of metrics.jsonl is one."""

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """Row of `python -m train.status`."""

    run_id: str
    state: str
    """One of records.STATES, or `stale`: recorded as running, but no process holds its lock."""
    reason: str
    """Why it is not done, and what is damaged or odd in its folder."""
    step: int
    total_steps: int
    flops: int
    """Planned C."""
    seconds: float
    """Training time so far."""
    loss: float | None
    """Newest validation loss."""
    exit_code: int | None
    attempts: int = 0
    """Starts so far."""
    stops: Mapping[str, int] = field(default_factory=dict)
    """Attempts that ended before the horizon, by cause."""
    cost: RunCost | None = None
    """None before it has cost anything."""

    @property
    def share(self) -> float:
        """Fraction of the steps done; 1 for a diverged run."""
        if self.state in FINISHED_STATES:
            return 1.0
        return min(1.0, max(0.0, self.step / self.total_steps))

    @property
    def seconds_left(self) -> float | None:
        """Training time to the horizon at the rate so far; None before its first steps."""
        if self.state != "running" or self.step <= 0 or self.seconds <= 0:
            return None
        return self.seconds * max(0, self.total_steps - self.step) / self.step


def study_status(study_folder: Path) -> list[RunStatus]:
    """Status of every run of the manifest, in its order; empty for a study without one.

    Raises:
        DataError, StorageError: The manifest is damaged or cannot be read.
    """
    manifest = read_manifest(study_folder)
    return [run_status(study_folder, entry) for entry in manifest["runs"]] if manifest else []


def run_status(study_folder: Path, entry: Mapping[str, Any]) -> RunStatus:
    """Read one run's status.

    Args:
        study_folder: `runs/<study>/`.
        entry: The run's element of the manifest's `runs`.
    """
    folder = RunFolder(study_folder / entry["run_id"])
    notes: list[str] = []
    status: dict[str, Any] = _read(read_json, folder.status, notes, empty={})
    is_held = folder.is_locked()
    state = _state(folder, status, notes, is_held=is_held)
    evals: list[dict[str, Any]] = _read(read_jsonl, folder.evals, notes, empty=[])
    attempts: list[dict[str, Any]] = _read(read_jsonl, folder.attempts, notes, empty=[])
    result: Mapping[str, Any] = {}
    if state == "completed":
        result = _read(read_json, folder.result, notes, empty={})
        notes += _replay_note(result)
    elif isinstance(status.get("reason"), str):
        notes.insert(0, status["reason"].split("\n", 1)[0])
    loss = evals[-1].get("loss") if evals else None
    return RunStatus(
        run_id=entry["run_id"],
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


def stops_by_cause(rows: Sequence[Mapping[str, Any]], *, is_running: bool) -> Counter[str]:
    """Count the attempts that ended before the horizon, by cause.

    Args:
        rows: attempts.jsonl; a start without an end counts as killed.
        is_running: Whether a process holds the run: then the last start is still open.
    """
    causes: Counter[str] = Counter()
    is_open = False
    for row in rows:
        if row.get("event") == "start":
            causes["killed"] += is_open
            is_open = True
        elif row.get("event") == "end":
            is_open = False
            cause = row.get("cause")
            if cause is not None:
                is_word = isinstance(cause, str) and cause.isidentifier()
                causes[cause if is_word else "unknown"] += 1
    causes["killed"] += is_open and not is_running
    return +causes


def name_stops(causes: Mapping[str, int]) -> str:
    """`2 killed, 1 preempted`, most frequent first."""
    ordered = sorted(causes.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count} {cause}" for cause, count in ordered)


def _state(folder: RunFolder, status: Mapping[str, Any], notes: list[str], *, is_held: bool) -> str:
    """The recorded state, checked against the lock and the heartbeat."""
    state, age = status.get("state", "planned"), _heartbeat_age(status)
    if state not in STATES:
        notes.append(f"status.json has no state we know ({str(state)[:40]!r})")
        # the lock decides
        state = "running"
    elif notes:
        # status.json cannot be read: the lock decides
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
    """Seconds since status.json was written, by this machine's clock."""
    try:
        beat = datetime.fromisoformat(status["heartbeat"])
        return (datetime.now(UTC) - beat).total_seconds()
    except (KeyError, TypeError, ValueError):
        return None


def _replay_note(result: Mapping[str, Any]) -> list[str]:
    """A note where rows that a resume computed again differ."""
    replayed = result.get("replayed")
    if not isinstance(replayed, dict):
        return []
    rows, differing, largest = (
        _number(replayed.get(key)) or 0 for key in ("rows", "differing", "largest")
    )
    if not differing:
        return []
    return [f"{differing:.0f} of {rows:.0f} replayed rows differ, by up to {largest:.2g}"]


def _read(reader: Callable[[Path], _T], path: Path, notes: list[str], *, empty: _T) -> _T:
    """The file's content; `empty` for a missing file, and with a note for a damaged one."""
    try:
        return reader(path)
    except FileNotFoundError:
        return empty
    except (OSError, ValueError) as error:
        notes.append(_what_is_wrong(path, error))
        return empty


def _what_is_wrong(path: Path, error: OSError | ValueError) -> str:
    if isinstance(error, OSError):
        return f"{path.name}: cannot be read ({error.strerror})"
    return str(error).removeprefix(f"{path.parent}/")


def _printable(text: str) -> str:
    """Replace control characters, which a terminal would obey."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _number(value: object) -> float | None:
    """Read a number from a file that may be damaged; None for anything else."""
    if isinstance(value, int | float) and abs(value) < LARGEST_NUMBER:
        return float(value)
    return None
