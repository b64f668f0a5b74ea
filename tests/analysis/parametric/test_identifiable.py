import numpy as np
import pytest

from analysis.config import Form
from analysis.errors import InputError, RefusedError
from analysis.parametric.forms import FORMULAS
from analysis.parametric.identifiable import check_design, check_optimum, check_runs


def refusal(n_params, tokens):
    with pytest.raises(RefusedError) as caught:
        check_design(np.array(n_params, float), np.array(tokens, float))
    return str(caught.value)


def test_five_runs_are_refused():
    assert "5 usable runs" in refusal([1, 2, 3, 4, 5], [5, 1, 4, 2, 3])


def test_two_sizes_are_refused():
    assert "2 distinct model sizes" in refusal([1, 1, 1, 2, 2, 2], [1, 2, 3, 4, 5, 6])


def test_two_token_counts_are_refused():
    assert "2 distinct token counts" in refusal([1, 2, 3, 4, 5, 6], [1, 1, 1, 2, 2, 2])


def test_sizes_that_vary_continuously_are_many_sizes():
    rng = np.random.default_rng(0)
    check_design(10 ** rng.uniform(6, 9, 5000), 10 ** rng.uniform(8, 11, 5000))


def test_runs_at_one_ratio_of_tokens_to_parameters_are_refused():
    n_params = np.geomspace(1e6, 1e9, 12)
    message = refusal(n_params, 20 * n_params * (1 + 0.01 * np.sin(np.arange(12))))
    assert "D/N = 20" in message
    assert "add runs" in message


def test_runs_on_one_line_of_n_and_d_are_refused():
    n_params = np.geomspace(1e6, 1e9, 12)
    assert "D ~ N^0.50" in refusal(n_params, 1e6 * n_params**0.5)


def test_columns_of_other_lengths_are_named_with_theirs():
    ones = np.ones(6)
    with pytest.raises(InputError, match="n_params 6, tokens 5, loss 6"):
        check_runs(ones, ones[:5], ones)


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf])
def test_what_has_no_logarithm_is_named_with_its_run(value):
    bad = np.array([1.0, value, 1.0])
    with pytest.raises(InputError, match=f"tokens={value:g} in run 1 is not a positive number"):
        check_runs(np.ones(3), bad, np.ones(3))


FULL = np.array([0.5, 2.0, 2.0, 0.3, 0.4, 0.8])
"""log E, log A', log B', alpha, beta, k."""


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (3, 11.0, "falling with N to the power alpha = 11, outside .*add runs that vary it more"),
        (4, 1e-4, "falling with D to the power beta = 0.0001, outside"),
        (5, 200.0, "k = 200, outside .*use parametric.form=chinchilla, or add runs"),
        (5, np.nan, "k = nan, outside"),
    ],
)
def test_an_optimum_that_is_no_law_is_refused(place, value, message):
    formula = FORMULAS[Form.skaling]
    values = np.ones(len(formula.names))
    check_optimum(formula, FULL, values)
    full = FULL.copy()
    full[place] = value
    with pytest.raises(RefusedError, match=message):
        check_optimum(formula, full, values)


def test_a_coefficient_beyond_any_number_is_refused():
    formula = FORMULAS[Form.chinchilla]
    values = np.array([1.8, np.inf, 2e3, 0.3, 0.4, 0.5])
    with pytest.raises(RefusedError, match=r"A = inf, .*beyond any number: .*vary them more"):
        check_optimum(formula, FULL, values)
