"""A number with its 95 % interval: how it is made of draws, and how it is written."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.bootstrap import Interval
from analysis.errors import InputError

Floats = NDArray[np.float64]

HUGE = 1e300
"""What overflows is this."""

NO_BOUND = 1e100
"""An end of an interval beyond is infinite: N hardly rises with C, so no C makes a size optimal."""


@dataclass(frozen=True)
class Quantity:
    """A number with its 95 % interval."""

    value: float
    interval: Interval | None
    """None where the file holds no draws."""


def quantity(value: float, draws: Floats | None, tail: float) -> Quantity:
    """Return a number with the central draws as its interval.

    Raises:
        InputError: The number is not finite.
    """
    if not np.isfinite(value):
        raise InputError(
            f"the fits come to {value:g} here, no size, tokens, loss or cost that a run can have; "
            "write the file again with python -m analysis"
        )
    draws = None if draws is None else draws[~np.isnan(draws)]
    if draws is None or len(draws) == 0:
        return Quantity(float(value), None)
    low, high = np.percentile(np.minimum(draws, HUGE), [100 * tail, 100 * (1 - tail)])
    return Quantity(float(value), (float(low), float(high) if high < NO_BOUND else np.inf))


def number(value: float) -> str:
    """Write a number to three digits: 1.23e9, 45.6."""
    if value == np.inf:
        return "inf"
    if 0.01 <= abs(value) < 1e4:
        return f"{value:.3g}" if abs(value) < 999.5 else f"{value:.0f}"
    mantissa, _, power = f"{value:.2e}".partition("e")
    return f"{float(mantissa):g}e{int(power)}"


def quantity_text(item: Quantity | None, is_loss: bool = False, between: str = " ") -> str:
    """Write a number and its interval."""
    if item is None:
        return "-"
    write = (lambda v: f"{v:.4f}") if is_loss else number
    if item.interval is None or item.interval[0] == item.interval[1]:
        return write(item.value)
    return f"{write(item.value)}{between}[{write(item.interval[0])}, {write(item.interval[1])}]"


def extra_text(item: Quantity) -> str:
    """Write an overhead as a percentage above the optimum, as a factor where it is large."""
    write = _percent if item.value < 10 else _factor
    if item.interval is None:
        return write(item.value)
    return f"{write(item.value)} [{write(item.interval[0])}, {write(item.interval[1])}]"


def _percent(overhead: float) -> str:
    percent = 100 * (overhead - 1)
    return f"{abs(percent):.1f} %" if percent < 9.95 else f"{percent:.0f} %"


def _factor(overhead: float) -> str:
    return f"x{number(overhead)}"
