"""A1 to A6: what must not become an exponent, and that it would.

Every fault is shown twice: with the protection, a named error or exclusion, or the right answer all
the same; and with the protection taken away, the wrong number or the silence that it prevents.
"""

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "analysis"))

from study_folders import TRUTH, edit_json, isoflop_table, optimal_n, write_study

from analysis import figures, verdict
from analysis.__main__ import main
from analysis.config import Options, parse_options
from analysis.errors import InputError, RefusedError
from analysis.fits import Fitted, fit_approaches, survey
from analysis.intake import load, study
from analysis.intake.source import load_runs
from analysis.intake.table import RunsTable
from analysis.isoflop import budgets
from analysis.isoflop import fit as isoflop_fit
from analysis.parametric import fit as surface_fit
from analysis.parametric import newton
from analysis.parametric.fit import fit_surface
from analysis.parametric.newton import Solved
from analysis.refusal import Refusal
from analysis.scrutiny.influence import find_influence

A = TRUTH["beta"] / (TRUTH["alpha"] + TRUTH["beta"])
FAR = 0.02
"""Difference of an exponent that a reader would act on."""


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., list[str]]:
    """Return a writer of a table, which answers with the command's words for it."""

    def save(table: pd.DataFrame, *words: str) -> list[str]:
        table.to_csv(tmp_path / "runs.csv", index=False)
        return [f"table={tmp_path / 'runs.csv'}", f"out={tmp_path}/out", "bootstrap=100", *words]

    return save


def loaded(words: list[str]) -> tuple[RunsTable, Options]:
    options = parse_options(words)
    return load_runs(options), options


def fits_of(words: list[str]) -> Fitted:
    table, options = loaded(words)
    return fit_approaches(survey(table, options), lambda done: None)


def by_valleys(fits: Fitted) -> float:
    assert not isinstance(fits.isoflop, Refusal), fits.isoflop.why
    return fits.isoflop.n_law.fit.exponent


def by_surface(fits: Fitted) -> float:
    assert not isinstance(fits.parametric, Refusal), fits.parametric.why
    return fits.parametric.values["a"]


def use_every_row(frame: pd.DataFrame, where: str | None) -> tuple[pd.DataFrame, list[Any]]:
    """What is left of `screen` without its checks."""
    return frame.assign(run_id=[f"row {k}" for k in range(1, len(frame) + 1)]), []


# --- A1: rows and tables that cannot be meant


def with_a_nan() -> pd.DataFrame:
    table = isoflop_table()
    table.loc[3, "loss"] = np.nan
    return table


def test_a1_a_nan_is_excluded_by_name_and_the_answer_stays(saved: Any) -> None:
    fits = fits_of(saved(with_a_nan()))
    assert [(row.run_id, row.reason) for row in fits.table.excluded] == [("row 4", "nonfinite")]
    assert by_valleys(fits) == pytest.approx(A, abs=1e-3)
    assert by_surface(fits) == pytest.approx(A, abs=1e-3)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a1_control_a_nan_that_is_let_in_takes_every_answer_away(
    saved: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(load, "screen", use_every_row)
    monkeypatch.setattr(surface_fit, "check_runs", lambda *columns: None)
    fits = fits_of(saved(with_a_nan()))
    assert not fits.table.excluded
    assert isinstance(fits.isoflop, Refusal)
    assert isinstance(fits.parametric, Refusal)


def with_copies_of_one_run() -> pd.DataFrame:
    """A run that had luck, and thirty copies of its row."""
    table = isoflop_table()
    table.loc[0, "loss"] *= 0.97
    return pd.concat([table, *[table.iloc[[0]]] * 30])


def test_a1_copies_of_a_row_are_excluded_and_do_not_count(saved: Any) -> None:
    fits = fits_of(saved(with_copies_of_one_run()))
    assert [row.reason for row in fits.table.excluded] == ["duplicate"] * 30
    assert by_surface(fits) == pytest.approx(A, abs=5e-3)


def test_a1_control_copies_that_count_carry_the_answer(saved: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(load, "screen", use_every_row)
    assert by_surface(fits_of(saved(with_copies_of_one_run()))) > A + FAR


def of_one_size() -> pd.DataFrame:
    """A token series of one model: nothing in it says how loss falls with size."""
    tokens = np.geomspace(1e9, 1e12, 12)
    loss = 2.0 + TRUTH["B"] / tokens ** TRUTH["beta"]
    return pd.DataFrame({"n_params": 1e8, "tokens": tokens, "flops": 6e8 * tokens, "loss": loss})


def of_two_runs() -> pd.DataFrame:
    return isoflop_table().iloc[[0, 20]]


@pytest.mark.parametrize(
    ("make", "why"),
    [(of_one_size, "1 distinct model sizes"), (of_two_runs, "2 usable runs for the surface's 5")],
)
def test_a1_one_size_or_two_runs_are_refused_with_exit_2(
    saved: Any, monkeypatch: Any, capsys: Any, make: Any, why: str
) -> None:
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
def test_a1_control_unchecked_designs_return_exponents_of_nothing(
    monkeypatch: Any, make: Any
) -> None:
    monkeypatch.setattr(surface_fit, "check_design", lambda *design: None)
    monkeypatch.setattr(surface_fit, "check_optimum", lambda *optimum: None)
    columns = (make()[name].to_numpy() for name in ("n_params", "tokens", "loss"))
    n_params, tokens, nats = columns
    fit = fit_surface(n_params, tokens, nats)
    assert fit.converged  # and the objective is zero to the eye: nothing else would tell
    assert abs(fit.values["a"] - A) > FAR


def shuffled() -> pd.DataFrame:
    return isoflop_table(noise=0.001).sample(frac=1, random_state=1)


def test_a1_the_order_of_rows_changes_nothing(saved: Any) -> None:
    ordered, mixed = fits_of(saved(isoflop_table(noise=0.001))), fits_of(saved(shuffled()))
    assert by_valleys(mixed) == pytest.approx(by_valleys(ordered), rel=1e-9)
    assert by_surface(mixed) == pytest.approx(by_surface(ordered), rel=1e-6)


def test_a1_control_budgets_read_in_the_rows_order_fall_apart(saved: Any, monkeypatch: Any) -> None:
    def by_neighbours(flops: Any) -> Any:
        steps = np.abs(np.diff(np.log(flops))) > budgets.GAP
        return np.concatenate([[0], np.cumsum(steps)])

    monkeypatch.setattr(budgets, "group_budgets", by_neighbours)
    assert isinstance(fits_of(saved(shuffled())).isoflop, Refusal)


def of_two_conventions() -> pd.DataFrame:
    """The smaller half counted without embeddings, here half of all parameters."""
    table = isoflop_table().assign(convention="standard")
    small = table["n_params"] < table["n_params"].median()
    table.loc[small, "convention"] = "kaplan"
    table.loc[small, "n_params"] *= 0.5
    return table


def test_a1_mixed_conventions_are_refused_with_the_filter_that_helps(saved: Any) -> None:
    with pytest.raises(InputError, match=r'convention takes 2 values .* where="convention=kaplan"'):
        fits_of(saved(of_two_conventions()))


def test_a1_control_mixed_conventions_bend_the_exponent(saved: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(load, "refuse_mixtures", lambda frame, where: [])
    assert by_valleys(fits_of(saved(of_two_conventions()))) > A + 0.1


# --- A2: the best lies where nobody looked


def with_a_valley_at_the_edge() -> pd.DataFrame:
    """The largest budget's sizes all lie above the one that would have been best."""
    below = isoflop_table(budgets=(1e18, 3e18, 1e19, 3e19))
    above = isoflop_table(budgets=(1e20,), sizes=13)
    return pd.concat([below, above[above["n_params"] > 1.5 * optimal_n(np.array(1e20))]])


def test_a2_a_valley_on_the_edge_is_not_bracketed_and_not_used(saved: Any) -> None:
    fits = fits_of(saved(with_a_valley_at_the_edge()))
    assert [found.bracketed for found in fits.valleys] == [True] * 4 + [False]
    assert "add smaller sizes" in fits.valleys[-1].why
    assert by_valleys(fits) == pytest.approx(A, abs=2e-3)
    assert not isinstance(fits.isoflop, Refusal)
    assert any("is not used" in note for note in fits.isoflop.notes)


def test_a2_control_a_minimum_on_the_edge_bends_the_exponent(saved: Any, monkeypatch: Any) -> None:
    def lowest_size_tried(budget: Any, window: Any, minimum: Any, noise: float) -> Any:
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


def with_rates_at_the_edge() -> pd.DataFrame:
    """Three learning rates; those of sizes above the valley are all too high, the best untried."""
    table = isoflop_table(sizes=9)
    best = np.where(table["n_params"] > 1.01 * optimal_n(table["flops"].to_numpy()), 0.25, 2.0)
    rates = [
        table.assign(lr=lr, loss=table["loss"] * (1 + 0.01 * np.log2(lr / best) ** 2))
        for lr in (1.0, 2.0, 4.0)
    ]
    return pd.concat(rates)


def test_a2_sizes_whose_best_rate_is_on_the_edge_are_left_out_and_named(saved: Any) -> None:
    fits = fits_of(saved(with_rates_at_the_edge()))
    assert isinstance(fits.isoflop, Refusal)  # only sizes below the valley are left
    assert "add larger sizes" in fits.isoflop.why
    assert by_surface(fits) == pytest.approx(A, abs=5e-3)


def test_a2_control_badly_tuned_sizes_bend_the_exponent(saved: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(budgets, "_lr_edge", lambda cell, chosen: "")
    fits = fits_of(saved(with_rates_at_the_edge()))
    by_valleys(fits)  # is given, as if the rates had been tuned
    assert by_surface(fits) < A - FAR


# --- A3: a run that went wrong, left in


def with_a_diverged_run() -> pd.DataFrame:
    table = isoflop_table(noise=0.0005)
    table.loc[6, "loss"] *= 1.5
    return table


def far_off(fits: Fitted) -> str:
    """What the verdict says of runs far off the surface."""
    assert not isinstance(fits.parametric, Refusal)
    names = fits.best["run_id"].astype(str).tolist()
    return " ".join(verdict._surface_notes(fits.parametric, fits.cells, names))


def influence_of(table: pd.DataFrame) -> Any:
    names = [f"row {k}" for k in range(1, len(table) + 1)]
    columns = (table[name].to_numpy() for name in ("n_params", "tokens", "flops", "loss"))
    return find_influence(*columns, names)


def test_a3_a_diverged_run_left_in_does_not_move_the_answer_and_is_named(saved: Any) -> None:
    fits = fits_of(saved(with_a_diverged_run()))
    assert by_surface(fits) == pytest.approx(A, abs=2e-3)
    assert "1 run lies far off the surface (row 7" in far_off(fits)
    worst = influence_of(with_a_diverged_run()).runs[0]
    assert worst.name == "row 7"
    assert worst.flagged


def test_a3_control_least_squares_follow_the_diverged_run(saved: Any) -> None:
    fits = fits_of(saved(with_a_diverged_run(), "parametric.loss=mse"))
    assert abs(by_surface(fits) - A) > FAR


def test_a3_control_sound_runs_are_not_named(saved: Any) -> None:
    assert "far off" not in far_off(fits_of(saved(isoflop_table(noise=0.0005))))


# --- A4: an optimiser that does not arrive


def continuous() -> pd.DataFrame:
    """Runs that share no budget, so that the surface is the only answer there could be."""
    table = isoflop_table(noise=0.0005)
    table["tokens"] *= np.geomspace(0.5, 2.0, len(table))
    table["flops"] = 6 * table["n_params"] * table["tokens"]
    n_params, tokens = table["n_params"], table["tokens"]
    table["loss"] = (
        TRUTH["E"] + TRUTH["A"] / n_params ** TRUTH["alpha"] + TRUTH["B"] / tokens ** TRUTH["beta"]
    )
    return table


def give_up(theta: Any, problem: Any, max_steps: int = 0) -> Solved:
    """An optimiser that takes a wrong step and knows it."""
    return Solved(_astray(theta), np.ones(len(theta)), np.zeros(len(theta), dtype=bool))


def give_up_in_silence(theta: Any, problem: Any, max_steps: int = 0) -> Solved:
    return Solved(_astray(theta), np.ones(len(theta)), np.ones(len(theta), dtype=bool))


def _astray(theta: Any) -> Any:
    """A step that changes the two exponents unlike each other."""
    return theta * np.linspace(0.8, 1.4, theta.shape[1])


def test_a4_no_start_that_converged_is_exit_2_and_no_number(
    saved: Any, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.setattr(figures, "draw_figures", lambda analysis, folder: [])
    monkeypatch.setattr(newton, "solve", give_up)
    words = saved(continuous())
    assert main(words) == 2
    printed = " ".join(capsys.readouterr().out.split())
    assert "starts converged, so there is no fit to report" in printed
    assert "C^" not in printed.rpartition("parametric")[2]
    fits = json.loads((Path(words[1].removeprefix("out=")) / "fits.json").read_text())
    assert list(fits["parametric"]) == ["refused"]


def test_a4_control_without_the_flag_the_same_steps_give_an_exponent(monkeypatch: Any) -> None:
    table = continuous()
    n_params, tokens, nats = (table[name].to_numpy() for name in ("n_params", "tokens", "loss"))
    monkeypatch.setattr(newton, "solve", give_up)
    with pytest.raises(RefusedError, match="no fit to report"):
        fit_surface(n_params, tokens, nats)
    monkeypatch.setattr(newton, "solve", give_up_in_silence)
    assert abs(fit_surface(n_params, tokens, nats).values["a"] - A) > FAR


def test_a4_some_starts_that_fail_change_nothing_but_the_count(monkeypatch: Any) -> None:
    table = continuous()
    columns = n_params, tokens, nats = tuple(
        table[name].to_numpy() for name in ("n_params", "tokens", "loss")
    )
    whole = fit_surface(*columns)
    descend = surface_fit.descend

    def half(*words: Any) -> Solved:
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

    def believed(*words: Any) -> Solved:
        ends = half(*words)
        return Solved(ends.theta, ends.value, np.ones(len(ends.value), dtype=bool))

    monkeypatch.setattr(surface_fit, "descend", believed)  # the control: their word is taken
    assert abs(fit_surface(n_params, tokens, nats).values["a"] - A) > FAR


# --- A5: files that are not what was written


def cut_metrics(run: Path) -> None:
    path = run / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-20])


def garble_metrics(run: Path) -> None:
    path = run / "metrics.jsonl"
    path.write_bytes(b"\xff{not a row\n" + path.read_bytes())


def cut_result(run: Path) -> None:
    path = run / "result.json"
    path.write_bytes(path.read_bytes()[:-20])


def garble_result(run: Path) -> None:
    (run / "result.json").write_bytes(b"\x00\xff\x00")


FALSE_LOSS = 2.0


def flatter(run: Path) -> None:
    """A lower loss in the result and in the evaluations, which then agree."""
    for name in ("result.json", "evals.jsonl"):
        value = json.loads((run / name).read_text())
        value.get("row", value)["loss"] = FALSE_LOSS
        (run / name).write_text(json.dumps(value) + "\n")


@pytest.mark.parametrize(
    "damage", [cut_metrics, garble_metrics, cut_result, garble_result, flatter]
)
def test_a5_a_run_with_damaged_files_is_excluded_by_name(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    ids = write_study(tmp_path, table=isoflop_table())
    damage(tmp_path / "tunnel" / ids[16])
    fits = fits_of(["study=tunnel", f"runs={tmp_path}", "bootstrap=100"])
    excluded = [(row.run_id, row.reason) for row in fits.table.excluded]
    assert excluded == [(ids[16], "hash_mismatch")]
    assert by_valleys(fits) == pytest.approx(A, abs=2e-3)


@pytest.mark.parametrize("damage", [cut_metrics, garble_metrics, flatter])
def test_a5_control_without_the_hashes_damage_is_used_in_silence(
    tmp_path: Path, monkeypatch: Any, damage: Callable[[Path], None]
) -> None:
    monkeypatch.setattr(study, "_check_files", lambda folder, files: None)
    ids = write_study(tmp_path, table=isoflop_table())
    damage(tmp_path / "tunnel" / ids[16])
    fits = fits_of(["study=tunnel", f"runs={tmp_path}", "bootstrap=100"])
    assert not fits.table.excluded
    if damage is flatter:
        assert (fits.runs["loss"] == FALSE_LOSS).sum() == 1


def test_a5_control_without_the_result_s_check_the_command_fails(
    tmp_path: Path, monkeypatch: Any
) -> None:
    def unguarded(folder: Path, entry: dict[str, Any]) -> Any:
        return study._read_result(folder, str(entry["run_id"]), entry, "")

    monkeypatch.setattr(study, "_read_run", unguarded)
    ids = write_study(tmp_path, table=isoflop_table())
    cut_result(tmp_path / "tunnel" / ids[16])
    with pytest.raises(ValueError, match="not JSON"):
        loaded(["study=tunnel", f"runs={tmp_path}"])


# --- A6: runs that are still going on


@pytest.fixture
def live(tmp_path: Path) -> Path:
    """The runs of a study whose largest budget is being trained."""
    table = isoflop_table()
    ids = write_study(tmp_path, table=table)
    for run_id, flops in zip(ids, table["flops"], strict=True):
        if flops == table["flops"].max():
            folder = tmp_path / "tunnel" / run_id
            (folder / "result.json").unlink()
            edit_json(folder / "status.json", state="running", step=7)
    return tmp_path


def test_a6_a_study_that_is_running_is_refused_and_nothing_is_written(
    live: Path, capsys: Any
) -> None:
    assert main(["study=tunnel", f"runs={live}"]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "7 of 35 runs are missing or incomplete" in told
    assert "state is running" in told
    assert not (live / "tunnel" / "analysis").exists()


def test_a6_what_is_asked_for_all_the_same_is_stamped(live: Path) -> None:
    fits = fits_of(["study=tunnel", f"runs={live}", "allow_incomplete=true", "bootstrap=100"])
    assert fits.table.stamp == "INCOMPLETE: 7 of 35 runs not finished"
    assert [row.reason for row in fits.table.excluded] == ["incomplete"] * 7


def test_a6_control_without_the_refusal_half_a_study_looks_whole(
    live: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(study, "refuse_unfinished", lambda unfinished, planned, allowed: None)
    monkeypatch.setattr(study, "stamp_for", lambda unfinished, planned: "")
    fits = fits_of(["study=tunnel", f"runs={live}", "bootstrap=100"])
    assert by_valleys(fits) > 0  # an answer, from four budgets of five, and no word of it
    assert len(fits.valleys) == 4
    assert fits.table.stamp == ""
