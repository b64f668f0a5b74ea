"""The columns of a runs table: their names, and their values as numbers.

A column under another name is suggested, never taken: "loss" may be of training or of validation,
and "params" may or may not count embeddings.
"""

import re
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.errors import InputError, near_names
from train.storage.records import REQUIRED_COLUMNS, RUNS_TABLE_COLUMNS

TEXT_COLUMNS = ("run_id", "study", "rung", "schedule", "state", "device")

ALIASES = {
    "n_params": "n params num_params n_parameters num_parameters parameters param_count model_size "
    "size model_params total_params n_params_total params_total non_embedding_params "
    "n_params_non_embedding",
    "tokens": "d n_tokens num_tokens training_tokens train_tokens total_tokens tokens_seen "
    "n_train_tokens data data_size dataset_tokens",
    "flops": "c compute flop training_flops train_flops training_flop total_flops flops_6nd "
    "flops_exact budget compute_budget flops_actual train_compute",
    "loss": "l val_loss validation_loss eval_loss valid_loss test_loss final_loss final_val_loss "
    "train_loss training_loss loss_train loss_smooth cross_entropy xent nll lm_loss",
}
"""Other names of the required columns in published tables, words apart by spaces."""

BITS = ("bits_per_byte", "bpb", "bits_per_token", "bits_per_char", "bpc", "loss_bits", "bits")
"""Names of losses in bits: another unit, so not a name for `loss`."""

OPTIMA_HINT = (
    "; n_opt and d_opt are optima that someone fitted: give the runs behind them, one a row"
)

TOO_MANY = 0.5
"""Share of a required column's values that may be text before the column itself is refused."""


def check_columns(frame: pd.DataFrame) -> None:
    """Check that the required columns are there, once.

    Raises:
        InputError: One is missing or there twice, or the table has no rows.
    """
    names = [str(name) for name in frame.columns]
    twice = sorted({name for name in names if names.count(name) > 1}) if len(names) < 10_000 else []
    if twice:
        raise InputError(f"column '{twice[0]}' is there {names.count(twice[0])} times; keep one")
    missing = [name for name in REQUIRED_COLUMNS if name not in names]
    if missing:
        told = "; ".join(f"'{name}' is missing{_instead(name, frame)}" for name in missing)
        hint = OPTIMA_HINT if {"n_opt", "d_opt"} & set(names) else ""
        raise InputError(
            f"a runs table needs the columns {', '.join(REQUIRED_COLUMNS)}: {told}{hint}"
        )
    if len(frame) == 0:
        raise InputError("the table has 0 rows; a fit needs runs")


def _instead(name: str, frame: pd.DataFrame) -> str:
    """Say which column of numbers may be meant, or how to make it."""
    have = [str(other) for other in frame.columns if str(other) not in REQUIRED_COLUMNS][:200]
    have = [other for other in have if _has_numbers(frame[other])]
    aliases = ALIASES[name].split()
    meant = sorted(
        (o for o in have if _plain(o) in aliases), key=lambda o: aliases.index(_plain(o))
    )
    if meant:
        return f"; did you mean {' or '.join(meant[:3])}? rename it to {name}"
    if name == "loss" and (bits := [other for other in have if _plain(other) in BITS]):
        return f"; {bits[0]} is in bits: add loss in nats per token, bits per token x ln 2"
    near = near_names(name, have)
    if name == "flops":
        return (
            f"{near}; training FLOPs are 6 n_params tokens where nothing else was counted: "
            "flops_6nd=true takes them so"
        )
    return near


def _has_numbers(column: pd.Series) -> bool:
    """Tell a column of numbers, however written, from one of words."""
    first = column.head(20).astype(str).str.strip()
    return len(first) == 0 or bool(first.str.match(r"[-+.]?\d|nan$|inf$").any())


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def as_numbers(frame: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, NDArray[np.bool_]]]:
    """Make the contract's columns numbers.

    Args:
        frame: Checked by check_columns.

    Returns:
        A copy whose unreadable values are NaN, and by required column which rows held text.

    Raises:
        InputError: A required column holds mostly text.
    """
    frame = frame.copy()
    text: dict[str, NDArray[np.bool_]] = {}
    for name in RUNS_TABLE_COLUMNS:
        if name not in frame or name in TEXT_COLUMNS:
            continue
        column = frame[name]
        numbers = _numbers(column)
        if name in REQUIRED_COLUMNS:
            text[name] = numbers.isna().to_numpy() & column.notna().to_numpy()
            _refuse_text(name, column, text[name])
        frame[name] = numbers
    return frame, text


def _numbers(column: pd.Series) -> pd.Series:
    """Return floats; NaN for all that is not a number, dates and truth values among it."""
    kind = pd.api.types
    if kind.is_bool_dtype(column) or kind.is_complex_dtype(column):
        return pd.Series(np.nan, index=column.index)
    if not kind.is_numeric_dtype(column):
        if column.dtype != object and not _is_text(column):
            return pd.Series(np.nan, index=column.index)
        column = column.astype(object).map(_plain_number)
    return pd.to_numeric(column, errors="coerce").astype(float)


def _is_text(column: pd.Series) -> bool:
    return isinstance(column.dtype, pd.StringDtype | pd.CategoricalDtype)


def _plain_number(value: Any) -> Any:  # noqa: ANN401
    """Return a number, or text that looks like one, and None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float | Decimal | np.integer | np.floating):
        try:
            return float(value)
        except OverflowError:
            return None
    if not isinstance(value, str) or "_" in value:
        return None
    try:
        return float(value)
    except ValueError:
        return None


def _refuse_text(name: str, column: pd.Series, text: NDArray[np.bool_]) -> None:
    if text.sum() <= TOO_MANY * len(text):
        return
    first = str(column[text].iloc[0])[:40]
    hint = "write plain numbers such as 1000000 or 1e6"
    if re.fullmatch(r"\s*\d{1,3}([, ']\d{3})+(\.\d+)?\s*", first):
        hint = f"leave out thousands separators: {re.sub('[^0-9.]', '', first)}"
    elif "%" in first:
        hint = "write a share as a number, without a percent sign"
    elif re.fullmatch(r"\s*\d+,\d+\s*", first):
        hint = f"write decimals with a point: {first.replace(',', '.').strip()}"
    elif re.fullmatch(r"\s*[\d.]+\s*[kKmMbBgGtT]\s*", first):
        hint = "write counts out, 1.3B as 1.3e9"
    what = "no numbers, its first value is" if text.all() else f"text in {text.sum()} rows, such as"
    raise InputError(f"column '{name}' holds {what} '{first}'; {hint}")


def with_batch_tokens(frame: pd.DataFrame) -> pd.DataFrame:
    """Add batch_tokens where the table has it in other words: tokens / steps, or seqs x length."""
    if "batch_tokens" in frame:
        return frame
    if "steps" in frame:
        batch = frame["tokens"] / _numbers(frame["steps"])
    elif {"batch_seqs", "seq_len"} <= set(frame.columns):
        batch = _numbers(frame["batch_seqs"]) * _numbers(frame["seq_len"])
    else:
        return frame
    return frame.assign(batch_tokens=batch.where(np.isfinite(batch) & (batch > 0)))
