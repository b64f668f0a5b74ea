import shlex

import pandas as pd
import pytest
from study_folders import isoflop_table

from analysis.errors import InputError
from analysis.intake.mixtures import refuse_mixtures
from analysis.intake.where import select_rows


def chosen_by(message):
    """Return the filter that a message advises, as a shell would hand it over."""
    return shlex.split(message[message.index("where=") :].rstrip("."))[0].removeprefix("where=")


@pytest.mark.parametrize("values", [("rw", "owt2"), ("a b", "c"), ("it's", "x"), ("x and y", "z")])
def test_the_advised_filter_keeps_one_data_set(values):
    frame = isoflop_table().assign(dataset=[*values] * 17 + [values[0]])
    with pytest.raises(InputError, match="column dataset takes 2 values") as caught:
        refuse_mixtures(frame)
    kept = frame[select_rows(frame, chosen_by(str(caught.value)))]
    assert len(kept) == 18
    assert refuse_mixtures(kept) == []


def test_all_columns_that_mix_are_named_at_once():
    frame = isoflop_table().assign(
        Dataset=["rw", "owt"] * 17 + ["rw"], val=["train", "val"] * 17 + ["train"], vocab_size=9
    )
    with pytest.raises(InputError, match=r'where="Dataset=rw and val=train"'):
        refuse_mixtures(frame)


def test_set_ups_that_vary_among_runs_of_one_size_and_horizon_are_refused():
    once = isoflop_table()
    frame = pd.concat(
        [once.assign(warmup=w, decay=d) for w, d in (("long", "cos"), ("short", "wsd"))],
        ignore_index=True,
    )
    with pytest.raises(InputError, match=r"warmup takes 2 values .*; column decay") as caught:
        refuse_mixtures(frame)
    assert chosen_by(str(caught.value)) == "warmup=long and decay=cos"
    assert refuse_mixtures(frame[select_rows(frame, "warmup=long and decay=cos")]) == []


def test_set_ups_that_vary_between_sizes_are_noted():
    frame = isoflop_table()
    frame["warmup"] = [
        "long" if n > frame["n_params"].median() else "short" for n in frame["n_params"]
    ]
    (note,) = refuse_mixtures(frame)
    assert "Column warmup takes 2 values (long, short)" in note


def test_advice_names_values_that_occur_together():
    frame = isoflop_table().assign(dataset=[None, *["rw"] * 17, *["owt"] * 17])
    frame["val"] = ["train", *["val"] * 34]
    with pytest.raises(InputError) as caught:
        refuse_mixtures(frame)
    assert select_rows(frame, chosen_by(str(caught.value))).any()


def test_numbers_may_name_data_and_vocabularies():
    frame = isoflop_table().assign(vocab_size=[256, 50257] * 17 + [256])
    with pytest.raises(InputError, match=r'column vocab_size takes 2 values .*"vocab_size=256"'):
        refuse_mixtures(frame)


def test_rows_that_are_marked_are_noted():
    frame = isoflop_table().assign(outlier=[True] * 3 + [False] * 32)
    (note,) = refuse_mixtures(frame)
    assert "Column outlier is true in 3 of 35 rows" in note
    assert select_rows(frame, chosen_by(note)).sum() == 32


def test_names_and_reasons_may_vary():
    frame = isoflop_table().assign(run_id="a", rung="b", reason=["x", "y"] * 17 + ["x"])
    assert refuse_mixtures(frame) == []


def test_marin_s_three_data_sets_are_told_apart(published):
    frame = published("marin_isoflop.csv")
    with pytest.raises(InputError, match="column experiment takes 3 values") as caught:
        refuse_mixtures(frame)
    where = chosen_by(str(caught.value))
    assert where == "experiment=marin_202603__comma__llama_2"
    assert select_rows(frame, where).sum() == 85
    kept = select_rows(frame, f"{where} and outlier=False")
    assert kept.sum() == 80


def test_advice_goes_on_from_the_filter_that_was_given():
    frame = isoflop_table()
    mixed = frame.assign(dataset=["a", "b"] * 17 + ["a"])
    with pytest.raises(InputError, match='choose with where="flops>1e17 and dataset=a"'):
        refuse_mixtures(mixed, "flops>1e17")
    notes = refuse_mixtures(frame.assign(decay=["long", "short"] * 17 + ["long"]), "flops>1e17")
    assert 'where="flops>1e17 and decay=long"' in notes[0]
