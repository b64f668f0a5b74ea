import numpy as np
import pytest
from study_folders import isoflop_table

from analysis.config import Convention
from analysis.errors import InputError
from analysis.intake.conventions import in_convention


def test_conventions_choose_their_columns():
    frame = isoflop_table().assign(
        n_params_non_embedding=lambda f: f["n_params"] / 2,
        n_params_total=lambda f: f["n_params"] * 2,
        flops_exact=lambda f: f["flops"] * 1.1,
    )
    kaplan, named = in_convention(frame, Convention.kaplan)
    assert named == "6nd"
    assert np.allclose(kaplan["flops"], frame["flops"] / 2)
    total, _ = in_convention(frame, Convention.total)
    assert np.allclose(total["n_params"], 2 * frame["n_params"])
    exact, named = in_convention(frame, Convention.attention)
    assert named == "exact"
    assert np.allclose(exact["flops"], 1.1 * frame["flops"])
    assert in_convention(frame, Convention.standard)[1] == "as given"


def test_a_convention_without_its_column_names_it():
    with pytest.raises(InputError, match="convention=kaplan needs the column 'n_params_non_emb"):
        in_convention(isoflop_table(), Convention.kaplan)


def test_a_convention_with_a_hole_in_its_column_names_the_row():
    frame = isoflop_table().assign(run_id=[f"r{k}" for k in range(35)])
    frame["flops_exact"] = frame["flops"]
    frame.loc[3, "flops_exact"] = 0.0
    with pytest.raises(InputError, match="flops_exact = 0 in r3 and 0 other rows"):
        in_convention(frame, Convention.attention)
