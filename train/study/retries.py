"""What ended a job, and how often one launch starts it again: by cause, in one table."""

import signal
from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

RETRIES: Mapping[str, int] = MappingProxyType(
    {
        "killed": 2,  # mostly the host's out-of-memory killer: fewer jobs may be up by then
        "infrastructure": 2,  # the device was lost; it may be back
        "preempted": 0,  # the machine is wanted: repeating the command goes on, without limit
        "interrupted": 0,
        "out_of_memory": 0,  # the job halved its micro-batch down to one window already
        "diverged": 0,  # a result
        "config": 0,  # these end the same until someone changes something
        "data": 0,
        "storage": 0,
        "checkpoint": 0,
        "bug": 0,
    }
)
"""Starts of a run that one launch adds to the first, by the cause that ended the last one. A run
that another process holds ("locked") is waited for instead."""

CAUSE_OF_EXIT = MappingProxyType(
    {
        2: "config",
        3: "storage",
        4: "checkpoint",
        5: "diverged",
        73: "locked",
        75: "preempted",
        130: "interrupted",
    }
)
"""What an exit code says of a job that left no row."""


def cause_of_end(rows: Sequence[Mapping[str, Any]], exit_code: int) -> str | None:
    """What ended a job; None when nothing was left to do.

    Args:
        rows: The rows of attempts.jsonl that the job wrote; a job that ends early writes none.
        exit_code: Of its process; negative for a signal.
    """
    if exit_code < 0:  # whatever it had written: it may have been on its way to more
        return "killed"
    last = rows[-1] if rows else {}
    cause = last.get("cause")
    if last.get("event") == "end" and isinstance(cause, str) and cause in RETRIES:
        return cause
    if exit_code == 0:
        return None
    if exit_code in CAUSE_OF_EXIT:
        return CAUSE_OF_EXIT[exit_code]
    return "killed" if last.get("event") == "start" else "bug"


def describe_end(cause: str, exit_code: int) -> str:
    """In words, for a job whose run folder says nothing: `killed by SIGKILL`, `bug (exit 1)`."""
    if exit_code >= 0:
        return f"{cause} (exit {exit_code})"
    try:
        return f"{cause} by {signal.Signals(-exit_code).name}"
    except ValueError:  # a real-time signal has no name
        return f"{cause} by signal {-exit_code}"


def stops_by_cause(rows: Sequence[Mapping[str, Any]], *, is_running: bool) -> Counter[str]:
    """Count the attempts of a run that ended short of its horizon, by cause.

    Args:
        rows: attempts.jsonl: a start without an end was killed.
        is_running: Whether a process holds the run, so that the last start has no end yet.
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
