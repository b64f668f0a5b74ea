import numpy as np
import pytest

from analysis.errors import InputError
from analysis.prediction.quantity import Quantity, extra_text, number, quantity, quantity_text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.234e9, "1.23e9"), (7e9, "7e9"), (45.64, "45.6"), (1234.4, "1234"), (9999.4, "9999"),
        (12345.0, "1.23e4"), (0.0123, "0.0123"), (0.001234, "1.23e-3"), (np.inf, "inf"),
        (999.4, "999"), (999.6, "1000"),
    ],
)  # fmt: skip
def test_numbers_have_three_digits(value, text):
    assert number(value) == text


def test_the_interval_is_that_of_the_central_draws():
    draws = np.arange(1001.0)
    assert quantity(500.0, draws, 0.025) == Quantity(500.0, (25.0, 975.0))
    assert quantity(500.0, draws, 0.0).interval == (0.0, 1000.0)
    assert quantity(500.0, None, 0.025).interval is None
    assert quantity(500.0, np.array([np.nan]), 0.025).interval is None
    assert quantity(500.0, np.array([np.nan, 3.0]), 0.025).interval == (3.0, 3.0)


def test_an_end_that_overflows_is_open():
    assert quantity(1.0, np.array([1.0, np.inf]), 0.0).interval == (1.0, np.inf)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_no_answer(value):
    with pytest.raises(InputError, match=f"come to {value:g} here.*write the file again"):
        quantity(value, None, 0.025)


def test_quantities_are_written_with_their_interval():
    assert quantity_text(None) == "-"
    assert quantity_text(Quantity(2e9, None)) == "2e9"
    assert quantity_text(Quantity(2e9, (2e9, 2e9))) == "2e9"
    assert quantity_text(Quantity(2e9, (1e9, np.inf))) == "2e9 [1e9, inf]"
    assert quantity_text(Quantity(2.30449, (2.2, 2.4)), True, "\n") == "2.3045\n[2.2000, 2.4000]"


@pytest.mark.parametrize(
    ("ratio", "interval", "text"),
    [
        (1.0004, (1.0, 1.006), "0.0 % [0.0 %, 0.6 %]"),
        (1.25, None, "25 %"),
        (2.97, (2.05, 3.9), "197 % [105 %, 290 %]"),
        (28.1, (9.0, 50.0), "x28.1 [x9, x50]"),
        (1 - 1e-16, None, "0.0 %"),  # rounding is no gain
    ],
)
def test_overheads_are_percentages_and_large_ones_factors(ratio, interval, text):
    assert extra_text(Quantity(ratio, interval)) == text
