"""Which runs repeat data, whether they can say what repeats are worth, and which are families.

`unique_tokens` is what a run has seen at least once; more than its tokens counts as all of them.
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.errors import RefusedError

REPEATED = 1.05
"""Epochs above which a run has repeated data."""

FEW_EPOCHS = 4.0
"""Up to here repeats are nearly as good as fresh tokens (Muennighoff et al. 2023, section 6)."""

MIN_REPEATED = 6
"""Repeated runs that are asked for. Ours: three for each of R_D and R_N."""

MIN_LEVELS = 2
"""Distinct numbers of epochs above REPEATED that are asked for."""

MIN_RUNS = 10
"""Three more than there are parameters."""

MAX_RUNS = 4000
"""Rows fitted; of more, a seeded sample of families."""


def epochs_seen(frame: pd.DataFrame) -> NDArray[np.float64]:
    """Return tokens / unique tokens of each row, at least 1; NaN where unique_tokens is absent."""
    if "unique_tokens" not in frame:
        return np.full(len(frame), np.nan)
    unique = pd.to_numeric(frame["unique_tokens"], errors="coerce").to_numpy(float)
    with np.errstate(divide="ignore", invalid="ignore"):
        seen = np.maximum(frame["tokens"].to_numpy(float) / unique, 1.0)
    return np.where(np.isfinite(seen) & (unique > 0), seen, np.nan)


def repeated_rows(frame: pd.DataFrame, epochs: float = FEW_EPOCHS) -> NDArray[np.bool_]:
    """Mark the runs that saw their tokens more than `epochs` times, shape (rows,).

    Rows without unique_tokens, or all of a table without the column, are not marked.
    """
    return np.asarray(np.nan_to_num(epochs_seen(frame), nan=0.0) > epochs, dtype=bool)


def repetition_note(frame: pd.DataFrame) -> str | None:
    """Return what a verdict must say about repeated data, or None when there is nothing to say."""
    many, some = int(repeated_rows(frame).sum()), int(repeated_rows(frame, REPEATED).sum())
    if some == 0:
        return None
    if many == 0:
        return (
            f"{some} of {len(frame)} runs repeat data, none more than {FEW_EPOCHS:g} times; "
            "the approaches count repeated tokens as fresh, which costs little up to there."
        )
    return (
        f"{many} of {len(frame)} runs saw their data more than {FEW_EPOCHS:g} times: the "
        "approaches count repeated tokens as fresh, so their exponents mix fresh and repeated data."
    )


def usable_runs(frame: pd.DataFrame, seed: int) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Return the rows that can be fitted, and notes on those that were left out.

    Raises:
        RefusedError: There are no unique tokens, nothing is repeated, or too few runs are.
    """
    if "unique_tokens" not in frame or not np.isfinite(epochs_seen(frame)).any():
        raise RefusedError(
            "the runs have no unique_tokens, so nothing says which tokens were repeated; add that "
            "column (the tokens seen at least once) and runs of more than one epoch"
        )
    notes = []
    has = np.isfinite(epochs_seen(frame))
    if not has.all():
        notes.append(f"{int((~has).sum())} rows without unique_tokens are left out.")
    runs = frame[has].reset_index(drop=True)
    _refuse_thin(runs)
    if len(runs) > MAX_RUNS:
        families = family_codes(runs)
        order = np.random.default_rng(seed).permutation(int(families.max()) + 1)
        rank = np.argsort(order)[families]
        runs = runs[rank <= np.sort(rank)[MAX_RUNS - 1]].reset_index(drop=True)
        notes.append(
            f"Repetition is fitted to {len(runs)} of {int(has.sum())} rows, drawn at random."
        )
        _refuse_thin(runs)
    return runs, tuple(notes)


def _refuse_thin(runs: pd.DataFrame) -> None:
    epochs = epochs_seen(runs)
    repeated = epochs > REPEATED
    unique = float(np.median(runs["unique_tokens"].to_numpy(float)))
    plan = f"add runs of 4, 16 and 60 epochs over {unique:.3g} unique tokens at three sizes"
    if not repeated.any():
        raise RefusedError(
            f"no run repeats data: tokens / unique_tokens is at most {epochs.max():.3g}; {plan}"
        )
    levels = len(np.unique(np.round(np.log(epochs[repeated]), 1)))
    if repeated.sum() < MIN_REPEATED or levels < MIN_LEVELS:
        raise RefusedError(
            f"{int(repeated.sum())} runs repeat data, at {levels} numbers of epochs; at least "
            f"{MIN_REPEATED} at {MIN_LEVELS} are needed, {plan}"
        )
    if len(runs) < MIN_RUNS:
        raise RefusedError(
            f"{len(runs)} usable runs for 7 parameters; at least {MIN_RUNS} are needed, {plan}"
        )


def family_codes(runs: pd.DataFrame) -> NDArray[np.int64]:
    """Return which family each row belongs to, shape (rows,), from 0 without gaps.

    A family is what shares its luck: the repeated runs of one size on the same unique tokens, and
    the checkpoints of one run.
    """
    repeated = epochs_seen(runs) > REPEATED
    sizes, unique = runs["n_params"].astype(str), runs["unique_tokens"].astype(str)
    run = runs["run_id"].astype(str) if "run_id" in runs else pd.Series(runs.index.astype(str))
    names = np.where(repeated, sizes + " on " + unique, "run " + run)
    return np.asarray(pd.factorize(names)[0], dtype=np.int64)
