"""Whether the rows of a table are one experiment."""

import shlex

import numpy as np
import pandas as pd

from analysis.errors import InputError
from analysis.intake.where import clause

ONE_VALUE = (
    "study", "experiment", "dataset", "data", "data_sha256", "corpus", "tokenizer", "vocab_size",
    "convention", "param_count", "val", "eval", "eval_set", "eval_data", "evaluation", "split",
)  # fmt: skip
"""Columns that must not vary within a fit: they change what N, D or L mean."""

SAME_TOKENS = 0.01
"""Natural log: runs of one size whose tokens differ by less are taken to be at one D."""

MAY_VARY = ("run_id", "rung", "state", "device", "reason", "name")
"""Text columns that say nothing about whether rows belong together."""


def refuse_mixtures(frame: pd.DataFrame, where: str | None = None) -> list[str]:
    """Check that the rows are one experiment.

    Args:
        frame: Usable rows.
        where: The filter that they passed, which advice goes on from.

    Returns:
        Notes about columns of words or marks that vary and may matter.

    Raises:
        InputError: A column of ONE_VALUE varies, or a column of words does among runs of one N and
            D, whose losses would be averaged.
    """
    start = f"{where} and " if where else ""
    once = [name for name in frame.columns if _plain(name) in ONE_VALUE and _kinds(frame, name)[1:]]
    if mixed := once + [name for name in _set_ups(frame) if name not in once]:
        said = "; ".join(f"column {name} takes {_shown(_kinds(frame, name))}" for name in mixed)
        # values that occur together, so that the advice leaves rows
        whole = frame[mixed].dropna()
        first = whole.iloc[0] if len(whole) else frame[mixed].bfill().iloc[0]
        choice = " and ".join(clause(name, first[name]) for name in mixed)
        raise InputError(
            f"{said}: a fit needs one value of each; choose with where={_quote(start + choice)}"
        )
    notes = []
    for name in frame.columns:
        if name in MAY_VARY or _plain(name) in ONE_VALUE:
            continue
        column = frame[name]
        if pd.api.types.is_bool_dtype(column):
            if column.any() and not column.all():
                notes.append(
                    f"Column {name} is true in {int(column.sum())} of {len(frame)} rows, which are "
                    f"used all the same; leave them out with "
                    f"where={_quote(start + clause(name, False))}."
                )
        elif not pd.api.types.is_numeric_dtype(column):
            kinds = _kinds(frame, name)
            if 1 < len(kinds) <= max(2, len(frame) // 4):
                notes.append(
                    f"Column {name} takes {_shown(kinds)}: runs that differ in more than N, D and "
                    f"learning rate do not belong in one fit; choose with "
                    f"where={_quote(start + clause(name, kinds[0]))}."
                )
    return notes


def _set_ups(frame: pd.DataFrame) -> list[str]:
    """Return the columns of words that take several values among runs of one N and D."""
    words = [
        name
        for name in frame.columns
        if name not in MAY_VARY
        and not pd.api.types.is_numeric_dtype(frame[name])
        and 1 < len(_kinds(frame, name)) <= max(2, len(frame) // 4)
    ]
    log_d = np.log(frame["tokens"].to_numpy(float))
    cell = [frame["n_params"].to_numpy(float), np.round(log_d / SAME_TOKENS)]
    return [name for name in words if (frame[name].astype(str).groupby(cell).nunique() > 1).any()]


def _kinds(frame: pd.DataFrame, name: str) -> list[str]:
    return [str(kind) for kind in frame[name].dropna().astype(str).unique()]


def _shown(kinds: list[str]) -> str:
    listed = ", ".join(sorted(kind[:60] for kind in kinds)[:3])
    return f"{len(kinds)} values ({listed}{', ...' if len(kinds) > 3 else ''})"


def _plain(name: str) -> str:
    return str(name).strip().lower().replace(" ", "_")


def _quote(text: str) -> str:
    """Quote for a shell, in double quotes where they will do: they read the same everywhere."""
    return f'"{text}"' if not set('"$`\\!') & set(text) else shlex.quote(text)
