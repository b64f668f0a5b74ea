from typing import Any

import numpy as np
import pytest

from analysis.errors import RefusedError
from analysis.parametric.identifiable import check_design


def refusal(n_params: Any, tokens: Any) -> Any:
    with pytest.raises(RefusedError) as caught:
        check_design(np.array(n_params, float), np.array(tokens, float))
    return str(caught.value)


def test_five_runs_are_refused() -> None:
    assert "5 usable runs" in refusal([1, 2, 3, 4, 5], [5, 1, 4, 2, 3])


def test_two_sizes_are_refused() -> None:
    assert "2 distinct model sizes" in refusal([1, 1, 1, 2, 2, 2], [1, 2, 3, 4, 5, 6])


def test_two_token_counts_are_refused() -> None:
    assert "2 distinct token counts" in refusal([1, 2, 3, 4, 5, 6], [1, 1, 1, 2, 2, 2])


def test_sizes_that_vary_continuously_are_many_sizes() -> None:
    rng = np.random.default_rng(0)
    check_design(10 ** rng.uniform(6, 9, 5000), 10 ** rng.uniform(8, 11, 5000))


def test_runs_at_one_ratio_of_tokens_to_parameters_are_refused() -> None:
    n_params = np.geomspace(1e6, 1e9, 12)
    message = refusal(n_params, 20 * n_params * (1 + 0.01 * np.sin(np.arange(12))))
    assert "D/N = 20" in message
    assert "add runs" in message


def test_runs_on_one_line_of_n_and_d_are_refused() -> None:
    n_params = np.geomspace(1e6, 1e9, 12)
    assert "D ~ N^0.50" in refusal(n_params, 1e6 * n_params**0.5)
