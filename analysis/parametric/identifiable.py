"""Which sets of runs can determine a surface at all, and what to add where they cannot."""

import numpy as np
from numpy.typing import NDArray

from analysis.errors import InputError, RefusedError
from analysis.parametric.forms import Formula

Floats = NDArray[np.float64]

MIN_SIZES = 3
"""Sizes below which E, A and alpha trade off freely; the same for token counts."""

MIN_SPREAD = 0.1
"""Natural-log sd of the runs across the line that fits (log N, log D) best; below it N and D
move together, and the part of the loss due to N cannot be told from that due to D."""

EXPONENTS = (1e-3, 10.0)
"""Exponents outside are no law: the loss does not fall, or falls within one step of the grid."""

POWERS = (0.01, 100.0)
"""Outer powers outside make the joint term the larger of its two parts, or their product."""


def check_runs(n_params: Floats, tokens: Floats, nats: Floats) -> None:
    """Refuse numbers that have no logarithm.

    Raises:
        InputError: A value is not positive and finite, or the arrays differ in length.
    """
    columns = {"n_params": n_params, "tokens": tokens, "loss": nats}
    if len({len(values) for values in columns.values()}) > 1:
        raise InputError(
            "the columns differ in length: "
            + ", ".join(f"{name} {len(values)}" for name, values in columns.items())
        )
    for name, values in columns.items():
        wrong = ~(np.isfinite(values) & (values > 0))
        if wrong.any():
            row = int(wrong.argmax())
            raise InputError(
                f"{name}={values[row]:g} in run {row} is not a positive number; leave that run out"
            )


def check_design(n_params: Floats, tokens: Floats, n_free: int = 5) -> None:
    """Refuse sets of runs that cannot determine the surface's parameters.

    Args:
        n_params: Shape (runs,). Parameters per run.
        tokens: Shape (runs,). Training tokens per run.
        n_free: Parameters of the surface.

    Raises:
        RefusedError: Too few runs, sizes or token counts, or N and D move together.
    """
    if len(n_params) <= n_free:
        raise RefusedError(
            f"{len(n_params)} usable runs for the surface's {n_free} parameters; add runs until "
            f"there are at least {n_free + 1}"
        )
    for name, values in (("model sizes", n_params), ("token counts", tokens)):
        distinct = _distinct(values)
        if distinct < MIN_SIZES:
            raise RefusedError(
                f"{distinct} distinct {name}; at least {MIN_SIZES} are needed, add runs at others"
            )
    log_n, log_d = np.log(n_params), np.log(tokens)
    spread, axes = np.linalg.eigh(np.cov(log_n, log_d))
    if np.sqrt(max(spread[0], 0.0)) < MIN_SPREAD:
        power = axes[1, 1] / axes[0, 1] if abs(axes[0, 1]) > 1e-9 else np.inf
        ratio = float(np.median(tokens / n_params))
        one_ratio = abs(power - 1) < 0.05
        what = f"at D/N = {ratio:.3g}" if one_ratio else f"on one line, D ~ N^{power:.2f}"
        raise RefusedError(
            f"all runs are {what}, so the part of the loss due to N cannot be told from that due "
            "to D; add runs of the same sizes with several times more and fewer tokens"
        )


def _distinct(values: Floats) -> int:
    """Count values that differ by more than 1 %, at most MIN_SIZES."""
    count, last = 0, 0.0
    for value in np.unique(values):
        if value > 1.01 * last:
            count, last = count + 1, float(value)
        if count == MIN_SIZES:
            break
    return count


def check_optimum(formula: Formula, full: Floats, values: Floats) -> None:
    """Refuse an optimum that says that the runs show no fall of the loss.

    Args:
        formula: The form.
        full: Shape (6,). The optimum's full parameters.
        values: Shape (names,). Its published ones.

    Raises:
        RefusedError: An exponent is outside EXPONENTS, an outer power outside POWERS, or a
            coefficient is no number.
    """
    low, high = EXPONENTS
    for name, value, letter in (("alpha", full[3], "N"), ("beta", full[4], "D")):
        if not low < value < high:
            raise RefusedError(
                f"the best surface {formula.equation} has loss falling with {letter} to the power "
                f"{name} = {value:.3g}, outside {low:g}..{high:g}: these runs do not show how loss "
                f"falls with {letter}; add runs that vary it more"
            )
    low, high = POWERS
    if not low < full[5] < high:
        raise RefusedError(
            f"the best surface {formula.equation} has k = {full[5]:.3g}, outside {low:g}..{high:g}"
            ": these runs do not tell its terms apart; use parametric.form=chinchilla, or add runs "
            "that vary N and D more"
        )
    if not np.isfinite(values).all():
        shown = ", ".join(f"{k} = {v:.3g}" for k, v in zip(formula.names, values, strict=True))
        raise RefusedError(
            f"the best surface {formula.equation} has {shown}, beyond any number: these runs do "
            "not show how loss falls with N and D; add runs that vary them more"
        )
