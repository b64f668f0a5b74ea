"""Which columns count N and C: by this choice alone the same runs give .37 to .70."""

import numpy as np
import pandas as pd

from analysis.config import Convention
from analysis.errors import InputError

CONVENTIONS = {
    Convention.standard: ("n_params", "flops_6nd"),
    Convention.kaplan: ("n_params_non_embedding", None),
    Convention.total: ("n_params_total", None),
    Convention.attention: ("n_params", "flops_exact"),
}
"""Columns of N and of C; C is 6 N D where none is named."""


def in_convention(frame: pd.DataFrame, convention: Convention) -> tuple[pd.DataFrame, str]:
    """Return a copy whose n_params and flops count as asked, and the name of C's counting.

    Raises:
        InputError: The table lacks a column of the convention.
    """
    size, flops = CONVENTIONS[convention]
    named = "6nd" if flops != "flops_exact" else "exact"
    if flops == "flops_6nd" and (flops not in frame or frame[flops].isna().all()):
        flops, named = "flops", "as given"
    out = frame.copy()
    out["n_params"] = _counts(frame, size, convention)
    out["flops"] = (
        6.0 * out["n_params"] * out["tokens"]
        if flops is None
        else _counts(frame, flops, convention)
    )
    return out, named


def _counts(frame: pd.DataFrame, name: str, convention: Convention) -> pd.Series:
    if name not in frame or frame[name].isna().all():
        raise InputError(
            f"convention={convention.name} needs the column '{name}', which the table lacks; "
            "use convention=standard or add the column"
        )
    values: pd.Series = frame[name].astype(float)
    bad = ~(np.isfinite(values) & (values > 0))
    if bad.any():
        first = frame["run_id"][bad].iloc[0]
        raise InputError(
            f"convention={convention.name}: {name} = {values[bad].iloc[0]:g} in {first} and "
            f"{int(bad.sum()) - 1} other rows; it must be positive"
        )
    return values
