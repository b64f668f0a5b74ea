"""Whether N, D, C and L can be parameters, tokens, training FLOPs and nats of the same runs."""

import numpy as np
import pandas as pd

from analysis.errors import InputError

TOKENS_PER_PARAM = (0.5, 4000.0)
"""Median D/N of a table from elsewhere. 6ND / C does not see tokens and flops that are both off by
1e3, nor n_params and flops, but D/N moves by 1e3 then. Medians of published studies lie between
4 (Marin, Porian et al. with attention) and 53 (step-law), budget by budget between 1.5 and 35; a
factor 1e3 either way leaves the band (ours)."""

TOKENS_PER_PARAM_RECORDED = (1e-2, 1e7)
"""Median D/N of runs whose counts were written by this program: small models on much text."""

RATIO_MEDIAN = (0.03, 30.0)
"""Median of 6ND / flops outside this is a mistake of units: conventions differ by less
(12 at d_model 16 with 4096 tokens, between Kaplan's counting and all matrices)."""

RATIO_ROW = (0.02, 50.0)
"""6ND / flops of any one row."""

LOSS = (0.05, 15.0)
"""Nats per token of a language model: ln(vocabulary) is below 13. A median outside is noted."""

LOSS_REFUSED = (0.02, 1e3)
"""A median loss above these is a perplexity or in thousandths of a nat, one below in thousands."""


def check_units(frame: pd.DataFrame, *, recorded: bool = False) -> list[str]:
    """Check N, D, C and L against each other.

    Args:
        frame: Usable rows.
        recorded: Whether the counts were written by this program, which knows its units.

    Returns:
        Notes about what is odd but possible.

    Raises:
        InputError: The numbers cannot be parameters, tokens, training FLOPs and nats.
    """
    n, d, c = (frame[name].to_numpy(float) for name in ("n_params", "tokens", "flops"))
    ratio = np.exp(np.log(6.0) + np.log(n) + np.log(d) - np.log(c))
    per_param = float(np.median(d / n))
    middle = float(np.median(ratio))
    _check_ratio(frame, ratio, middle, per_param)
    low, high = TOKENS_PER_PARAM_RECORDED if recorded or _is_ours(frame) else TOKENS_PER_PARAM
    if not low <= per_param <= high:
        pair = "n_params and flops" if per_param > high else "tokens and flops"
        raise InputError(
            f"the median of tokens / n_params is {per_param:.3g}, outside {low:g}..{high:g}: "
            f"{pair} may both be in thousands, or the other count too large by that; "
            "give n_params and tokens as counts, not in thousands or millions"
        )
    notes = []
    if not 0.5 <= middle <= 2.0:
        notes.append(
            f"6 n_params tokens / flops is {middle:.3g} in the median: check that flops counts "
            "forward and backward passes, and which parameters n_params counts."
        )
    return [*notes, *_check_loss(frame)]


def _check_ratio(frame: pd.DataFrame, ratio: np.ndarray, middle: float, per_param: float) -> None:
    what = "6 n_params tokens / flops"
    low, high = RATIO_MEDIAN
    if not low <= middle <= high:
        power = round(float(np.log10(middle)))
        raise InputError(
            f"the median of {what} is {middle:.3g}, outside {low:g}..{high:g}, and that of "
            f"tokens / n_params is {per_param:.3g}; a unit is off by about 1e{power:+d}: give "
            "counts and FLOPs (not PFLOPs, not thousands)"
        )
    worst = int(np.argmax(np.abs(np.log(ratio))))
    if not RATIO_ROW[0] <= ratio[worst] <= RATIO_ROW[1]:
        raise InputError(
            f"{frame['run_id'].iloc[worst]}: {what} is {ratio[worst]:.3g}, outside "
            f"{RATIO_ROW[0]:g}..{RATIO_ROW[1]:g}, and the median is {middle:.3g}; correct the row "
            "or filter it out with where="
        )


def _is_ours(frame: pd.DataFrame) -> bool:
    """Tell a table that this program wrote: it counts everything twice, and the counts agree."""
    names = ["flops_6nd", "n_params_total", "n_params_embedding", "n_params_non_embedding"]
    if not set(names) <= set(frame.columns) or frame[names].isna().any(axis=None):
        return False
    six = 6.0 * frame["n_params"] * frame["tokens"] / frame["flops_6nd"]
    parts = frame["n_params_embedding"] + frame["n_params_non_embedding"]
    sizes = frame["n_params"] <= 1.01 * frame["n_params_total"]
    whole = parts <= 1.01 * frame["n_params_total"]
    return bool((np.abs(six - 1) < 0.01).all() and sizes.all() and whole.all())


def _check_loss(frame: pd.DataFrame) -> list[str]:
    loss = float(frame["loss"].median())
    if len(frame) > 1 and frame["loss"].nunique() == 1:
        raise InputError(
            f"every one of {len(frame)} losses is {loss:.6g}: runs of different size and tokens "
            "have different losses; give each its own final loss"
        )
    if not LOSS_REFUSED[0] <= loss <= LOSS_REFUSED[1]:
        low, high = LOSS_REFUSED
        raise InputError(
            f"the median loss is {loss:.3g}, outside {low:g}..{high:g}: no language model has that "
            "in nats per token; give nats per token, the log of a perplexity"
        )
    if not LOSS[0] <= loss <= LOSS[1]:
        return [f"The median loss is {loss:.3g}: it is read as nats per token."]
    if "bits_per_byte" in frame:
        bits = frame["bits_per_byte"].to_numpy(float)
        if np.allclose(bits, frame["loss"].to_numpy(float), rtol=1e-6):
            raise InputError(
                "loss repeats bits_per_byte; give loss in nats per token: bits per byte x ln 2 x "
                "bytes per token"
            )
    return []
