"""A W&B group becomes a RunsTable, marked as read from a mirror.

W&B keeps one run per attempt (train/tracking); here the attempts of a run are one row again. The
row is the one that a finished run writes to its summary; of a run that another trainer logged, the
columns are looked up in summary and config. W&B itself is read in wandb_reader.py.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import pandas as pd

from analysis.errors import InputError, OptionError, near_names
from analysis.intake.load import refuse_unfinished, stamp_for
from analysis.intake.mixtures import refuse_mixtures
from analysis.intake.table import RunsTable, note_checkpoints, screen
from analysis.intake.units import check_units
from analysis.intake.wandb_reader import SECONDS, fetch_runs
from train.storage.records import FINISHED_STATES, REQUIRED_COLUMNS, RUNS_TABLE_COLUMNS, STATES

EXAMPLE = "wandb=my-team/windtunnel/quickstart"

ALIASES = {
    "tokens": ("progress/tokens",),
    "flops": ("progress/flops",),
    "loss": ("val/loss",),
    "bits_per_byte": ("val/bits_per_byte",),
    "loss_train": ("train/loss",),
}
"""Where the tracker's last logged rows have a column that a summary without the row lacks."""

MIXTURE_KEYS = {"data": "data.name", "tokenizer": "data.tokenizer"}
"""Columns that must not vary within a fit, and their keys in a config of ours."""

STATE_OF = {
    "finished": "completed",
    "failed": "failed",
    "crashed": "preempted",
    "killed": "preempted",
    "preempted": "preempted",
    "preempting": "preempted",
    "running": "running",
    "pending": "planned",
}
"""W&B's word for a run whose summary has none of ours."""

MIRROR = (
    "Read from W&B, a mirror of the run folders: it samples histories and loses the tails of runs "
    "that crash, and their files' hashes are not checked. Where they can be had, study=NAME reads "
    "the run folders."
)


@dataclass(frozen=True)
class Attempt:
    """One W&B run."""

    run_id: str
    number: int
    row: dict[str, Any]
    """What is known of RUNS_TABLE_COLUMNS and MIXTURE_KEYS; `state` always."""


def load_wandb(
    path: str,
    *,
    where: str | None,
    allow_incomplete: bool,
    flops_6nd: bool = False,
    seconds: float = SECONDS,
) -> RunsTable:
    """Read the runs of a W&B group.

    Args:
        path: ENTITY/PROJECT/GROUP; a study is a group.
        where: Row filter, or None.
        allow_incomplete: Whether unfinished runs may be left out.
        flops_6nd: Whether runs without flops are given 6 n_params tokens.
        seconds: Silence of the server after which it counts as not there.

    Raises:
        OptionError: The path is not of that form, wandb is not installed, or the filter cannot be
            read.
        InputError: There is no key, no network, no such project or group, or its runs are not a
            runs table.
    """
    entity, project, group = _split(path)
    spec = find_spec("wandb")
    if spec is None or spec.origin is None:  # a folder ./wandb of logs is found too, without origin
        raise OptionError(
            f"wandb={path} needs the package wandb; install it with "
            "pip install -c constraints.txt -e '.[wandb]'"
        )
    runs = fetch_runs(entity, project, group, seconds)
    try:
        return table_of(
            runs, path, where=where, allow_incomplete=allow_incomplete, flops_6nd=flops_6nd
        )
    except InputError as error:
        raise InputError(f"wandb={path}: {error}") from None


def table_of(
    runs: Sequence[Mapping[str, Any]],
    path: str,
    *,
    where: str | None,
    allow_incomplete: bool,
    flops_6nd: bool = False,
) -> RunsTable:
    """Return the runs table of W&B runs as wandb_reader returns them.

    Raises:
        InputError: The runs are not a runs table, or unfinished and that is not allowed.
        OptionError: The filter cannot be read.
    """
    attempts = [_read_attempt(run) for run in runs]
    kept = merge_attempts(attempts)
    frame = pd.DataFrame([{**attempt.row, "run_id": attempt.run_id} for attempt in kept])
    notes = [MIRROR]
    if len(kept) < len(attempts):
        notes.append(f"{len(attempts)} W&B runs are attempts at {len(kept)} runs.")
    if flops_6nd and "flops" not in frame and {"n_params", "tokens"} <= set(frame.columns):
        frame["flops"] = 6.0 * _numbers(frame, "n_params") * _numbers(frame, "tokens")
        notes.append("The runs have no flops: C is 6 n_params tokens.")
    _refuse_missing(frame, runs)
    usable, excluded = screen(frame, where)
    unfinished = [item for item in excluded if item.reason == "incomplete"]
    refuse_unfinished(unfinished, len(frame), allow_incomplete)
    if len(usable) < 2:
        listed = "; ".join(f"{item.run_id}: {item.detail or item.reason}" for item in excluded[:20])
        raise InputError(f"{len(usable)} usable of {len(frame)} runs; {listed or 'add runs'}")
    notes += [*check_units(usable), *refuse_mixtures(usable, where), *note_checkpoints(usable)]
    content = frame.sort_values("run_id").to_json(orient="records", double_precision=15)
    return RunsTable(
        frame=usable,
        excluded=tuple(excluded),
        name=path.rpartition("/")[2],
        source=f"wandb: {path}",
        sha256=hashlib.sha256(content.encode()).hexdigest(),
        notes=tuple(notes),
        stamp=stamp_for(len(unfinished), len(frame)),
    )


def merge_attempts(attempts: Sequence[Attempt]) -> list[Attempt]:
    """Keep one attempt of each run: the last that ended for good, else the last.

    Runs stay in the order of their first attempts.
    """
    of_run: dict[str, list[Attempt]] = {}
    for attempt in attempts:
        of_run.setdefault(attempt.run_id, []).append(attempt)
    return [
        max(some, key=lambda one: (one.row["state"] in FINISHED_STATES, one.number))
        for some in of_run.values()
    ]


def _read_attempt(run: Mapping[str, Any]) -> Attempt:
    summary, config = run["summary"], run["config"]
    row = {
        name: value
        for name in RUNS_TABLE_COLUMNS
        if (value := _look_up(name, summary, config)) is not None
    }
    for name, key in MIXTURE_KEYS.items():
        if config.get(key) is not None:
            row[name] = config[key]
    state = summary.get("state")
    row["state"] = state if state in STATES else STATE_OF.get(str(run["state"]), "running")
    run_id, number = str(run["id"]), 1
    match = re.fullmatch(r"(.+)-a(\d+)", run_id)
    if match and match[1] == run["name"]:
        run_id, number = match[1], int(match[2])
    return Attempt(run_id, number, row)


def _look_up(name: str, summary: Mapping[str, Any], config: Mapping[str, Any]) -> Any:  # noqa: ANN401
    """Return a column from the summary's row, else from the config, else as last logged."""
    for values, keys in ((summary, (name,)), (config, (name,)), (summary, ALIASES.get(name, ()))):
        for key in keys:
            if values.get(key) is not None:
                return values[key]
    return None


def _refuse_missing(frame: pd.DataFrame, runs: Sequence[Mapping[str, Any]]) -> None:
    """Refuse runs that all lack a column, with the near keys that they have."""
    missing = [name for name in REQUIRED_COLUMNS if name not in frame]
    if not missing:
        return
    keys = {key for run in runs for key in (*run["summary"], *run["config"])}
    keys -= set(REQUIRED_COLUMNS)
    told = "; ".join(f"'{name}' is missing{near_names(name, keys)}" for name in missing)
    raise InputError(
        f"the summaries and configs of {len(runs)} W&B runs need the keys "
        f"{', '.join(REQUIRED_COLUMNS)}: {told}; log them, or export a table and use table=FILE.csv"
    )


def _numbers(frame: pd.DataFrame, name: str) -> pd.Series:
    return pd.to_numeric(frame[name], errors="coerce")


def _split(path: str) -> tuple[str, str, str]:
    parts = path.split("/")
    if len(parts) != 3 or not all(part.strip() for part in parts):
        raise OptionError(f"wandb={path} is not ENTITY/PROJECT/GROUP, for example {EXAMPLE}")
    entity, project, group = (part.strip() for part in parts)
    return entity, project, group
