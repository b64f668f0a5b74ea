"""A1: rows and tables that cannot be meant must not become an exponent."""

import functools
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import figures
from analysis.__main__ import main
from analysis.errors import InputError
from analysis.intake import load
from analysis.isoflop import budgets
from analysis.parametric import fit as surface_fit
from analysis.parametric.fit import fit_surface
from analysis.refusal import Refusal
from faults.analysed import FAR, A, by_surface, by_valleys, fits_of, save
from tests.analysis.study_folders import TRUTH, isoflop_table


@pytest.fixture
def saved(tmp_path):
    return functools.partial(save, tmp_path)


def use_every_row(frame, where):
    return frame.assign(run_id=[f"row {k}" for k in range(1, len(frame) + 1)]), []


def with_a_nan():
    table = isoflop_table()
    table.loc[3, "loss"] = np.nan
    return table


def test_a1_a_nan_is_excluded_by_name_and_the_answer_stays(saved):
    fits = fits_of(saved(with_a_nan()))
    assert [(row.run_id, row.reason) for row in fits.table.excluded] == [("row 4", "nonfinite")]
    assert by_valleys(fits) == pytest.approx(A, abs=1e-3)
    assert by_surface(fits) == pytest.approx(A, abs=1e-3)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a1_control_a_nan_that_is_let_in_takes_every_answer_away(saved, monkeypatch):
    monkeypatch.setattr(load, "screen", use_every_row)
    monkeypatch.setattr(surface_fit, "check_runs", lambda *columns: None)
    fits = fits_of(saved(with_a_nan()))
    assert not fits.table.excluded
    assert isinstance(fits.isoflop, Refusal)
    assert isinstance(fits.parametric, Refusal)


def with_copies_of_one_run():
    """A run that had luck, and thirty copies of its row."""
    table = isoflop_table()
    table.loc[0, "loss"] *= 0.97
    return pd.concat([table, *[table.iloc[[0]]] * 30])


def test_a1_copies_of_a_row_are_excluded_and_do_not_count(saved):
    fits = fits_of(saved(with_copies_of_one_run()))
    assert [row.reason for row in fits.table.excluded] == ["duplicate"] * 30
    assert by_surface(fits) == pytest.approx(A, abs=5e-3)


def test_a1_control_copies_that_count_carry_the_answer(saved, monkeypatch):
    monkeypatch.setattr(load, "screen", use_every_row)
    assert by_surface(fits_of(saved(with_copies_of_one_run()))) > A + FAR


def of_one_size():
    """A token series of one model: nothing in it says how loss falls with size."""
    tokens = np.geomspace(1e9, 1e12, 12)
    loss = 2.0 + TRUTH["B"] / tokens ** TRUTH["beta"]
    return pd.DataFrame({"n_params": 1e8, "tokens": tokens, "flops": 6e8 * tokens, "loss": loss})


def of_two_runs():
    return isoflop_table().iloc[[0, 20]]


@pytest.mark.parametrize(
    ("make", "why"),
    [(of_one_size, "1 distinct model sizes"), (of_two_runs, "2 usable runs for the surface's 5")],
)
def test_a1_one_size_or_two_runs_are_refused_with_exit_2(saved, monkeypatch, capsys, make, why):
    monkeypatch.setattr(figures, "draw_figures", lambda analysis, folder: [])
    words = saved(make())
    assert main(words) == 2
    printed = capsys.readouterr().out
    assert why in " ".join(printed.split())
    assert "N_opt ~ C^" not in printed
    out = json.loads((Path(words[1].removeprefix("out=")) / "fits.json").read_text())
    for approach in ("isoflop", "parametric", "envelope"):
        assert list(out[approach]) == ["refused"]


@pytest.mark.parametrize("make", [of_one_size, of_two_runs])
def test_a1_control_unchecked_designs_return_exponents_of_nothing(monkeypatch, make):
    monkeypatch.setattr(surface_fit, "check_design", lambda *design: None)
    monkeypatch.setattr(surface_fit, "check_optimum", lambda *optimum: None)
    columns = (make()[name].to_numpy() for name in ("n_params", "tokens", "loss"))
    n_params, tokens, nats = columns
    fit = fit_surface(n_params, tokens, nats)
    assert fit.converged  # and the objective is zero to the eye: nothing else would tell
    assert abs(fit.values["a"] - A) > FAR


def shuffled():
    return isoflop_table(noise=0.001).sample(frac=1, random_state=1)


def test_a1_the_order_of_rows_changes_nothing(saved):
    ordered, mixed = fits_of(saved(isoflop_table(noise=0.001))), fits_of(saved(shuffled()))
    assert by_valleys(mixed) == pytest.approx(by_valleys(ordered), rel=1e-9)
    assert by_surface(mixed) == pytest.approx(by_surface(ordered), rel=1e-6)


def test_a1_control_budgets_read_in_the_rows_order_fall_apart(saved, monkeypatch):
    def by_neighbours(flops):
        steps = np.abs(np.diff(np.log(flops))) > budgets.GAP
        return np.concatenate([[0], np.cumsum(steps)])

    monkeypatch.setattr(budgets, "group_budgets", by_neighbours)
    assert isinstance(fits_of(saved(shuffled())).isoflop, Refusal)


def of_two_conventions():
    """The smaller half counted without embeddings, here half of all parameters."""
    table = isoflop_table().assign(convention="standard")
    small = table["n_params"] < table["n_params"].median()
    table.loc[small, "convention"] = "kaplan"
    table.loc[small, "n_params"] *= 0.5
    return table


def test_a1_mixed_conventions_are_refused_with_the_filter_that_helps(saved):
    with pytest.raises(InputError, match=r'convention takes 2 values .* where="convention=kaplan"'):
        fits_of(saved(of_two_conventions()))


def test_a1_control_mixed_conventions_bend_the_exponent(saved, monkeypatch):
    monkeypatch.setattr(load, "refuse_mixtures", lambda frame, where: [])
    assert by_valleys(fits_of(saved(of_two_conventions()))) > A + 0.1
