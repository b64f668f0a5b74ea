import pandas as pd
import pytest
from study_folders import isoflop_table

from analysis.errors import InputError, OptionError
from analysis.intake.table import screen
from analysis.intake.where import clause, select_rows

FRAME = pd.DataFrame(
    {
        "flops": [1e18, 1e20, 1e22],
        "name": ["a", "b and c", "d"],
        "outlier": [False, True, False],
        "set-up": ["it's", "x=1", None],
    }
)


@pytest.mark.parametrize(
    ("where", "kept"),
    [
        ("flops<1e21", [True, True, False]),
        ("flops >= 1e20 and flops != 1e22", [False, True, False]),
        ("name=d", [False, False, True]),
        ("name!='a'", [False, True, True]),
        ("flops=1e18", [True, False, False]),
        ("name='b and c'", [False, True, False]),
        ('name="b and c" AND flops<1e21', [False, True, False]),
        ("name!='b and c' and flops>1e21", [False, False, True]),
        ("outlier=False", [True, False, True]),
        ("outlier != 0", [False, True, False]),
        ("outlier=true and flops>1", [False, True, False]),
        ("'set-up'=\"it's\"", [True, False, False]),
        ("'set-up'='x=1'", [False, True, False]),
        ("flops<inf", [True, True, True]),
    ],
)
def test_comparisons_select_rows(where, kept):
    assert select_rows(FRAME, where).tolist() == kept


def test_an_unknown_column_lists_the_nearest():
    with pytest.raises(OptionError, match="no column 'flop'; did you mean flops"):
        select_rows(FRAME, "flop<3")


def test_code_is_not_evaluated():
    with pytest.raises(OptionError, match="cannot read '__import__"):
        select_rows(FRAME, "__import__('os').system('true')")


def test_a_number_column_refuses_words():
    with pytest.raises(OptionError, match="'big' is not"):
        select_rows(FRAME, "flops<big")


def test_words_have_no_order():
    with pytest.raises(OptionError, match="column name holds words"):
        select_rows(FRAME, "name<b")


def test_marks_are_true_or_false():
    with pytest.raises(OptionError, match="column outlier is true or false; write outlier=true"):
        select_rows(FRAME, "outlier=maybe")
    with pytest.raises(OptionError, match="column outlier is true or false"):
        select_rows(FRAME, "outlier<1")


def test_a_word_that_no_row_has_lists_the_nearest():
    with pytest.raises(OptionError, match="no row has name 'bandc'; did you mean b and c"):
        select_rows(FRAME, "name=bandc")


@pytest.mark.parametrize("where", ["flops<nan", "flops<1e18 and", "flops<", "flops"])
def test_what_is_no_comparison_is_an_error(where):
    with pytest.raises(OptionError, match="where: "):
        select_rows(FRAME, where)


@pytest.mark.parametrize("where", ["", "and", "<3", "flops<<3", "name='b and c", "a=1; b=2 = 3"])
def test_what_cannot_be_read_says_how_to_write_it(where):
    with pytest.raises(OptionError, match=r"where: cannot read .*joined by 'and', and quote"):
        select_rows(FRAME, where)


@pytest.mark.parametrize("value", ["a", "a b", "it's", "x=1", "1e18", "b and c"])
def test_an_advised_comparison_is_read_back(value):
    frame = pd.DataFrame({"set up": [value, "other"]})
    assert select_rows(frame, clause("set up", value)).tolist() == [True, False]


def test_a_filter_that_keeps_nothing_says_what_each_part_keeps():
    frame = isoflop_table().assign(data="a")
    with pytest.raises(
        InputError, match=r"none of 35 rows; .*keep: data=a 35, flops>1e30 0; widen"
    ):
        screen(frame, "data=a and flops>1e30")
    with pytest.raises(InputError, match=r"keeps none of 35 rows; widen it"):
        screen(frame, "flops>1e30")
