from typing import Any

import pandas as pd
import pytest

from analysis.errors import OptionError
from analysis.where import select_rows

FRAME = pd.DataFrame({"flops": [1e18, 1e20, 1e22], "name": ["a", "b and c", "d"]})


@pytest.mark.parametrize(
    ("where", "kept"),
    [
        ("flops<1e21", [True, True, False]),
        ("flops >= 1e20 and flops != 1e22", [False, True, False]),
        ("name=d", [False, False, True]),
        ("name!='a'", [False, True, True]),
        ("flops=1e18", [True, False, False]),
    ],
)
def test_comparisons_select_rows(where: Any, kept: Any) -> None:
    assert select_rows(FRAME, where).tolist() == kept


def test_an_unknown_column_lists_the_nearest() -> None:
    with pytest.raises(OptionError, match="no column 'flop'; did you mean flops"):
        select_rows(FRAME, "flop<3")


def test_code_is_not_evaluated() -> None:
    with pytest.raises(OptionError, match="cannot read '__import__"):
        select_rows(FRAME, "__import__('os').system('true')")


def test_a_number_column_refuses_words() -> None:
    with pytest.raises(OptionError, match="'big' is not"):
        select_rows(FRAME, "flops<big")


def test_words_have_no_order() -> None:
    with pytest.raises(OptionError, match="column name holds words"):
        select_rows(FRAME, "name<b")
