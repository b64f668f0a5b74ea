"""A2 to A4: minima at an edge, diverged runs, optimisers that do not arrive."""

import dataclasses
import functools
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import figures, verdict
from analysis.__main__ import main
from analysis.errors import RefusedError
from analysis.isoflop import budgets
from analysis.isoflop import fit as isoflop_fit
from analysis.parametric import fit as surface_fit
from analysis.parametric import newton
from analysis.parametric.fit import fit_surface
from analysis.parametric.newton import Solved
from analysis.refusal import Refusal
from analysis.scrutiny.influence import find_influence
from faults.analysed import FAR, A, by_surface, by_valleys, fits_of, save
from tests.analysis.study_folders import TRUTH, isoflop_table, optimal_n


@pytest.fixture
def saved(tmp_path):
    return functools.partial(save, tmp_path)


# --- A2: the best lies where nobody looked


def with_a_valley_at_the_edge():
    below = isoflop_table(budgets=(1e18, 3e18, 1e19, 3e19))
    above = isoflop_table(budgets=(1e20,), sizes=13)
    return pd.concat([below, above[above["n_params"] > 1.5 * optimal_n(np.array(1e20))]])


def test_a2_a_valley_on_the_edge_is_not_bracketed_and_not_used(saved):
    fits = fits_of(saved(with_a_valley_at_the_edge()))
    assert [found.bracketed for found in fits.valleys] == [True] * 4 + [False]
    assert "add smaller sizes" in fits.valleys[-1].why
    assert by_valleys(fits) == pytest.approx(A, abs=2e-3)
    assert any("is not used" in note for note in fits.isoflop.notes)


def test_a2_control_a_minimum_on_the_edge_bends_the_exponent(saved, monkeypatch):
    def lowest_size_tried(budget, window, minimum, noise):
        lowest = int(np.argmin(budget.losses))
        found = judge(budget, window, minimum, noise)
        n_opt = float(budget.n_params[lowest])
        return dataclasses.replace(
            found,
            n_opt=n_opt,
            d_opt=float(budget.tokens[lowest]),
            bracketed=True,
            why="",
            log_n_sd=0.1,
        )

    judge = isoflop_fit._judge
    monkeypatch.setattr(isoflop_fit, "_judge", lowest_size_tried)
    fits = fits_of(saved(with_a_valley_at_the_edge()))
    assert all(found.bracketed for found in fits.valleys)
    assert abs(by_valleys(fits) - A) > FAR


def with_rates_at_the_edge():
    """Three learning rates; those of sizes above the valley are all too high, the best untried."""
    table = isoflop_table(sizes=9)
    best = np.where(table["n_params"] > 1.01 * optimal_n(table["flops"].to_numpy()), 0.25, 2.0)
    rates = [
        table.assign(lr=lr, loss=table["loss"] * (1 + 0.01 * np.log2(lr / best) ** 2))
        for lr in (1.0, 2.0, 4.0)
    ]
    return pd.concat(rates)


def test_a2_sizes_whose_best_rate_is_on_the_edge_are_left_out_and_named(saved):
    fits = fits_of(saved(with_rates_at_the_edge()))
    assert isinstance(fits.isoflop, Refusal)  # only sizes below the valley are left
    assert "add larger sizes" in fits.isoflop.why
    assert by_surface(fits) == pytest.approx(A, abs=5e-3)


def test_a2_control_badly_tuned_sizes_bend_the_exponent(saved, monkeypatch):
    monkeypatch.setattr(budgets, "_lr_edge", lambda cell, chosen: "")
    fits = fits_of(saved(with_rates_at_the_edge()))
    by_valleys(fits)  # is given, as if the rates had been tuned
    assert by_surface(fits) < A - FAR


# --- A3: a run that went wrong, left in


def with_a_diverged_run():
    table = isoflop_table(noise=0.0005)
    table.loc[6, "loss"] *= 1.5
    return table


def far_off(fits):
    names = fits.best["run_id"].astype(str).tolist()
    return " ".join(verdict._surface_notes(fits.parametric, fits.cells, names))


def influence_of(table):
    names = [f"row {k}" for k in range(1, len(table) + 1)]
    columns = (table[name].to_numpy() for name in ("n_params", "tokens", "flops", "loss"))
    return find_influence(*columns, names)


def test_a3_a_diverged_run_left_in_does_not_move_the_answer_and_is_named(saved):
    fits = fits_of(saved(with_a_diverged_run()))
    assert by_surface(fits) == pytest.approx(A, abs=2e-3)
    assert "1 run lies far off the surface (row 7" in far_off(fits)
    worst = influence_of(with_a_diverged_run()).runs[0]
    assert worst.name == "row 7"
    assert worst.flagged


def test_a3_control_least_squares_follow_the_diverged_run(saved):
    fits = fits_of(saved(with_a_diverged_run(), "parametric.loss=mse"))
    assert abs(by_surface(fits) - A) > FAR


def test_a3_control_sound_runs_are_not_named(saved):
    assert "far off" not in far_off(fits_of(saved(isoflop_table(noise=0.0005))))


# --- A4: an optimiser that does not arrive


def continuous():
    """Runs that share no budget, so that the surface is the only answer there could be."""
    table = isoflop_table(noise=0.0005)
    table["tokens"] *= np.geomspace(0.5, 2.0, len(table))
    table["flops"] = 6 * table["n_params"] * table["tokens"]
    n_params, tokens = table["n_params"], table["tokens"]
    table["loss"] = (
        TRUTH["E"] + TRUTH["A"] / n_params ** TRUTH["alpha"] + TRUTH["B"] / tokens ** TRUTH["beta"]
    )
    return table


def give_up(theta, problem, max_steps=0):
    return Solved(_astray(theta), np.ones(len(theta)), np.zeros(len(theta), dtype=bool))


def give_up_in_silence(theta, problem, max_steps=0):
    return Solved(_astray(theta), np.ones(len(theta)), np.ones(len(theta), dtype=bool))


def _astray(theta):
    return theta * np.linspace(0.8, 1.4, theta.shape[1])


def test_a4_no_start_that_converged_is_exit_2_and_no_number(saved, monkeypatch, capsys):
    monkeypatch.setattr(figures, "draw_figures", lambda analysis, folder: [])
    monkeypatch.setattr(newton, "solve", give_up)
    words = saved(continuous())
    assert main(words) == 2
    printed = " ".join(capsys.readouterr().out.split())
    assert "starts converged, so there is no fit to report" in printed
    assert "C^" not in printed.rpartition("parametric")[2]
    fits = json.loads((Path(words[1].removeprefix("out=")) / "fits.json").read_text())
    assert list(fits["parametric"]) == ["refused"]


def test_a4_control_without_the_flag_the_same_steps_give_an_exponent(monkeypatch):
    table = continuous()
    n_params, tokens, nats = (table[name].to_numpy() for name in ("n_params", "tokens", "loss"))
    monkeypatch.setattr(newton, "solve", give_up)
    with pytest.raises(RefusedError, match="no fit to report"):
        fit_surface(n_params, tokens, nats)
    monkeypatch.setattr(newton, "solve", give_up_in_silence)
    assert abs(fit_surface(n_params, tokens, nats).values["a"] - A) > FAR


def test_a4_some_starts_that_fail_change_nothing_but_the_count(monkeypatch):
    table = continuous()
    columns = n_params, tokens, nats = tuple(
        table[name].to_numpy() for name in ("n_params", "tokens", "loss")
    )
    whole = fit_surface(*columns)
    descend = surface_fit.descend

    def half(*words):
        ends = descend(*words)
        lost = np.arange(len(ends.value)) % 2 == 0
        return Solved(
            np.where(lost[:, None], _astray(ends.theta), ends.theta),
            np.where(lost, 0.0, ends.value),  # the lowest of all, if one believed it
            ends.converged & ~lost,
        )

    monkeypatch.setattr(surface_fit, "descend", half)
    fit = fit_surface(n_params, tokens, nats)
    assert fit.converged
    assert fit.values["a"] == pytest.approx(whole.values["a"], rel=1e-6)
    assert fit.starts_reached < whole.starts_reached

    def believed(*words):
        ends = half(*words)
        return Solved(ends.theta, ends.value, np.ones(len(ends.value), dtype=bool))

    monkeypatch.setattr(surface_fit, "descend", believed)  # the control: their word is taken
    assert abs(fit_surface(n_params, tokens, nats).values["a"] - A) > FAR
