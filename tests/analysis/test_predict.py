"""The prediction command on files whose true answers are known."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from study_folders import TRUTH, optimal_n, surface

from analysis.config import Form
from analysis.errors import InputError
from analysis.parametric.fit import fit_parametric
from analysis.parametric.frontier import SIX_ND, CostLaw, Surfaces
from analysis.powerlaw import Law, PowerLaw
from analysis.predict import main
from analysis.prediction.draws import (
    MAX_ROWS,
    draws_for_json,
    fit_cost_law,
    measured_for_json,
    thin,
)
from analysis.prediction.fits_file import read_fits
from analysis.prediction.optimum import decades_beyond, predict_budget, predict_size
from analysis.prediction.overhead import SizeRule, overhead, overtrain, sizes_by_rule

A_TRUE = TRUTH["beta"] / (TRUTH["alpha"] + TRUTH["beta"])
K_N = float(optimal_n(np.array(6.0)))
"""N_opt at C = 6, so that N_opt = K_N (C / 6)**a."""


def content(**changes):
    """fits.json of the true surface, with draws that spread alpha and the law's height."""
    rng = np.random.default_rng(0)
    alpha = TRUTH["alpha"] + 0.01 * rng.standard_normal(500)
    rows = [[TRUTH["E"], TRUTH["A"], TRUTH["B"], value, TRUTH["beta"]] for value in alpha]
    k_n = K_N * 6**-A_TRUE
    log_n = np.log(optimal_n(np.array(1e19)))
    heights = log_n + 0.1 * rng.standard_normal(500)
    law = [[A_TRUE, h, 1 - A_TRUE, np.log(1e19 / 6) - h] for h in heights]
    return {
        "schema": 1,
        "conventions": {"n_params": "standard", "flops": "6nd"},
        "isoflop": {
            "a": A_TRUE, "a_ci": [A_TRUE, A_TRUE], "b": 1 - A_TRUE,
            "k_n": k_n, "k_d": 1 / (6 * k_n), "valleys": [],
        },
        "parametric": {**TRUTH, "a": A_TRUE, "a_ci": [0.48, 0.54]},
        "envelope": {"refused": "no training curves"},
        "measured": {
            "flops": [1e18, 1e20], "n_params": [1e8, 1e10], "tokens": [1e9, 1e11],
            "flops_law": {"coefficient": 6.0, "power": 1.0},
        },
        "draws": {
            "parametric": {"names": list(TRUTH), "tail": 0.025, "rows": rows},
            "isoflop": {
                "names": ["a", "log_n", "b", "log_d"], "log_flops": float(np.log(1e19)),
                "tail": 0.025, "rows": law,
            },
        },
        **changes,
    }  # fmt: skip


def write(folder, **changes):
    path = folder / "fits.json"
    path.write_text(json.dumps(content(**changes)))
    return path


def test_every_approach_gives_the_true_optimum_with_an_interval_around_it(tmp_path):
    fits = read_fits(write(tmp_path))
    n = float(optimal_n(np.array(1e21)))
    d = 1e21 / (6 * n)
    found = predict_budget(fits, 1e21)
    assert [item.approach for item in found] == ["isoflop", "parametric"]
    for item in found:
        truths = {
            "n_params": n,
            "tokens": d,
            "tokens_per_param": d / n,
            "loss": float(surface(np.array(n), np.array(d))),
        }
        for name, truth in truths.items():
            got = getattr(item, name)
            assert got.value == pytest.approx(truth, rel=1e-9)
            assert got.interval[0] < truth < got.interval[1]


def test_the_law_s_interval_is_that_of_its_draws(tmp_path):
    """Heights scatter by 0.1 in log N: 95 % of a normal are within 1.96 of that."""
    n = predict_budget(read_fits(write(tmp_path)), 1e19)[0].n_params
    assert n.interval is not None
    assert np.log(n.interval) - np.log(n.value) == pytest.approx([-0.196, 0.196], abs=0.02)


def test_a_size_is_optimal_at_the_budget_whose_optimum_it_is(tmp_path):
    fits = read_fits(write(tmp_path))
    n = float(optimal_n(np.array(3e19)))
    for item in predict_size(fits, n):
        assert item.flops.value == pytest.approx(3e19, rel=1e-9)
        assert item.flops.interval is not None
        assert item.flops.interval[0] < 3e19 < item.flops.interval[1]
        assert item.n_params.value == n


def brute_force_overhead(surfaces, n, d, cost):
    """Search the budget whose best loss over a fine grid of sizes is the loss at (N, D)."""
    target = surfaces.predict(np.array([n]), np.array([d]))[0, 0]

    def best_loss(flops):
        sizes = np.geomspace(n / 50, n * 50, 20_001)
        return float(surfaces.predict(sizes, cost.tokens(np.array(flops), sizes)).min())

    spent = float(cost.flops(np.array(n), np.array(d)))
    low, high = np.log(spent / 1e4), np.log(spent)
    for _ in range(45):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if best_loss(np.exp(middle)) > target else (low, middle)
    return spent / float(np.exp(0.5 * (low + high)))


FORMS = {
    Form.chinchilla: TRUTH,
    Form.kaplan: {"A": 8.8e13, "B": 5.4e13, "alpha": 0.076, "beta": 0.095},
    Form.kaplan_e: {"E": 0.5, "A": 8.8e12, "B": 5.4e12, "alpha": 0.15, "beta": 0.2},
    Form.skaling: {"E": 1.7, "A": 300.0, "R": 5.0, "alpha": 0.4, "beta": 0.42, "k": 0.77},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("cost", [SIX_ND, CostLaw(40.0, 0.93)])
def test_the_overhead_is_what_a_search_over_budgets_finds(form, cost):
    surfaces = Surfaces.of(form, FORMS[form])
    best = float(np.exp(surfaces.log_optimal_size(np.array([1e20]), cost))[0, 0])
    for factor in (0.2, 1.0, 3.0):
        n = np.array([factor * best])
        d = cost.tokens(np.array([1e20]), n)
        got = float(overhead(surfaces, n, d, cost)[0, 0])
        assert got == pytest.approx(brute_force_overhead(surfaces, n[0], d[0], cost), rel=1e-4)
        assert got >= 1 - 1e-12


def test_a_rule_of_size_meets_the_frontier_at_its_pivot_and_costs_more_away_from_it():
    surfaces = Surfaces.of(Form.chinchilla, TRUTH)
    rule = SizeRule(0.73, 1e19)
    flops = np.array([1e18, 1e19, 1e20, 1e22])
    sizes = sizes_by_rule(surfaces, flops, rule)
    assert sizes[0, 1] == pytest.approx(float(optimal_n(np.array(1e19))))
    assert np.diff(np.log(sizes[0])) / np.diff(np.log(flops)) == pytest.approx([0.73] * 3)
    costs = overhead(surfaces, sizes, SIX_ND.tokens(flops, sizes))[0]
    assert costs[1] == pytest.approx(1.0)
    assert costs[0] > 1.001
    assert costs[3] > costs[2] > 1.001


def test_training_a_model_further_lowers_its_loss_at_a_growing_overhead(tmp_path):
    fits = read_fits(write(tmp_path))
    assert fits.surface is not None
    n = 1e9
    rows = overtrain(fits, fits.surface, n)
    assert [row.multiple for row in rows] == [1, 2, 5, 20]
    d = rows[0].tokens
    assert float(optimal_n(np.array(6 * n * d))) == pytest.approx(n)
    for row in rows:
        expected = float(surface(np.array(n), np.array(row.multiple * d)))
        assert row.loss.value == pytest.approx(expected)
        assert row.fall.value == pytest.approx(rows[0].loss.value - expected, abs=1e-12)
        assert row.flops == pytest.approx(6 * n * d * row.multiple)
    assert [row.overhead.value for row in rows] == sorted(row.overhead.value for row in rows)
    assert rows[0].overhead.value == pytest.approx(1.0)


def test_the_command_ends_with_one_line_an_approach(tmp_path, capsys):
    assert main([f"fits={write(tmp_path)}", "flops=1e19"]) == 0
    out = capsys.readouterr().out
    number = r"[\d.]+(e\d+)?"
    pair = rf"{number} \[{number}, {number}\]"
    for line, approach in zip(out.splitlines()[-2:], ("isoflop", "parametric"), strict=True):
        assert re.fullmatch(
            rf"N = {pair}  D = {pair}  D/N = {pair}  loss = {pair}  \({approach}, C = 1e19\)", line
        )
    assert "WARNING" not in out
    assert "envelope: refused: no training curves" in out
    assert "Kaplan et al. 2020" in out
    assert "its low end" in out


def test_extrapolation_is_said_in_decades_and_beyond_three_called_unsupported(tmp_path, capsys):
    path = write(tmp_path)
    assert decades_beyond(read_fits(path), 1e22) == pytest.approx(2)
    assert decades_beyond(read_fits(path), 1e15) == pytest.approx(-3)
    main([f"fits={path}", "flops=1e22"])
    near = capsys.readouterr().out
    assert "C = 1e22 is 2.0 decades above the largest measured C, 1e20: extrapolated" in near
    assert "NOT SUPPORTED" not in near
    assert near.rstrip().endswith("(parametric, C = 1e22, 2.0 decades extrapolated)")
    main([f"fits={path}", "flops=1e24"])
    assert "NOT SUPPORTED BY DATA" in capsys.readouterr().out


def test_a_size_outside_the_measured_ones_is_said(tmp_path, capsys):
    assert main([f"fits={write(tmp_path)}", "n_params=1e12"]) == 0
    out = capsys.readouterr().out
    assert "WARNING: N = 1e12 is outside the measured sizes, 1e8 to 1e10" in out
    assert "NOT SUPPORTED BY DATA" in out


def test_json_has_every_number(tmp_path, capsys):
    words = [f"fits={write(tmp_path)}", "flops=1e19,1e21", "n_params=1e9", "format=json"]
    assert main(words) == 0
    got = json.loads(capsys.readouterr().out)
    assert [item["flops"] for item in got["budgets"]] == [1e19, 1e21]
    optimum = got["budgets"][0]["optima"][1]
    assert optimum["n_params"]["value"] == pytest.approx(float(optimal_n(np.array(1e19))))
    assert len(optimum["n_params"]["interval"]) == 2
    assert got["budgets"][1]["warnings"][0].startswith("WARNING: C = 1e21 is 1.0 decades")
    assert got["sizes"][0]["overtrained"][3]["multiple"] == 20
    assert got["refused"] == [{"approach": "envelope", "why": "no training curves"}]


def test_a_file_without_draws_gives_values_and_says_what_it_lacks(tmp_path, capsys):
    assert main([f"fits={write(tmp_path, draws={}, measured={})}", "flops=1e21"]) == 0
    out = capsys.readouterr().out
    assert "No intervals for isoflop, parametric" in out
    assert "how far this reaches is unknown" in out
    last = out.splitlines()[-1]
    assert last.startswith("N = ")
    assert "[" not in last


def test_draws_in_which_no_budget_makes_a_size_optimal_leave_its_interval_open(tmp_path, capsys):
    draws = content()["draws"]
    for row in draws["isoflop"]["rows"][:50]:
        row[0] = -0.01
    for row in draws["parametric"]["rows"][:50]:
        row[3:] = [0.9, 0.0005]
    path = write(tmp_path, draws=draws)
    for item in predict_size(read_fits(path), 1e9):
        assert item.flops.interval is not None
        assert item.flops.interval[1] == np.inf
        assert np.isfinite(item.flops.interval[0])
    assert main([f"fits={path}", "n_params=1e9"]) == 0
    assert ", inf]" in capsys.readouterr().out
    assert main([f"fits={path}", "n_params=1e9", "format=json"]) == 0
    got = json.loads(capsys.readouterr().out)
    assert got["sizes"][0]["optima"][0]["flops"]["interval"][1] is None


def test_without_a_surface_the_loss_is_read_between_valleys_and_not_beyond(tmp_path):
    flops = np.array([1e18, 1e19, 1e20])
    n = optimal_n(flops)
    valleys = [
        {"flops": c, "n_opt": k, "d_opt": c / (6 * k), "loss": loss, "bracketed": True}
        for c, k, loss in zip(flops, n, (3.0, 2.5, 2.2), strict=True)
    ]
    law = {"a": A_TRUE, "b": 1 - A_TRUE, "valleys": valleys}
    path = write(tmp_path, isoflop=law, parametric={"refused": "one size"}, draws={}, measured={})
    fits = read_fits(path)
    assert fits.flops_range == (1e18, 1e20)
    inside = predict_budget(fits, 1e19)[0]
    assert inside.n_params.value == pytest.approx(float(n[1]), rel=1e-6)
    assert inside.loss is not None
    assert inside.loss.value == pytest.approx(2.5)
    outside = predict_budget(fits, 1e21)[0]
    assert outside.loss is None
    assert outside.loss_source.startswith("no surface was fitted")


def test_exact_flops_are_followed_by_a_power_of_n(tmp_path, capsys):
    cost = CostLaw(40.0, 0.93)
    n, d = np.geomspace(1e7, 1e9, 5), np.geomspace(1e10, 1e8, 5)
    found = fit_cost_law(n, d, cost.flops(n, d))
    assert (found.coefficient, found.power) == pytest.approx((40.0, 0.93))
    assert fit_cost_law(n, d, 6.05 * n * d) == SIX_ND
    measured = {**content()["measured"], "flops_law": {"coefficient": 40.0, "power": 0.93}}
    path = write(
        tmp_path, measured=measured, conventions={"n_params": "attention", "flops": "exact"}
    )
    best = predict_budget(read_fits(path), 1e19)[1]
    sizes = np.geomspace(0.5, 2, 100_001) * best.n_params.value
    losses = surface(sizes, cost.tokens(np.array(1e19), sizes))
    assert sizes[np.argmin(losses)] == pytest.approx(best.n_params.value, rel=1e-4)
    assert main([f"fits={path}", "flops=1e19"]) == 0
    assert "C counts exact FLOPs: these runs spend C = 40 N^0.93 D" in capsys.readouterr().out


@pytest.mark.parametrize("form", FORMS)
def test_a_surface_of_any_form_is_read(form, tmp_path):
    part = {**FORMS[form], "form": form.name, "a": 0.5}
    best = predict_budget(read_fits(write(tmp_path, parametric=part, draws={})), 1e20)[1]
    surfaces = Surfaces.of(form, FORMS[form])
    sizes = np.geomspace(0.5, 2, 100_001) * best.n_params.value
    losses = surfaces.predict(sizes, 1e20 / (6 * sizes))[0]
    assert sizes[np.argmin(losses)] == pytest.approx(best.n_params.value, rel=1e-4)


def test_draws_written_from_fits_are_read_back_with_the_same_intervals(tmp_path):
    rng = np.random.default_rng(1)
    n, d = np.exp(rng.uniform(17, 22, 60)), np.exp(rng.uniform(21, 26, 60))
    nats = surface(n, d) * np.exp(0.002 * rng.standard_normal(60))
    fit = fit_parametric(n, d, nats=nats, resamples=1500)
    exponents = rng.normal(0.5, 0.02, 1500)
    heights = rng.normal(20, 0.1, 1500)
    heights[3] = np.nan
    ends = np.percentile(exponents, [2.5, 97.5])
    n_law = Law(
        PowerLaw(0.5, 44.0, 20.0, 0.1), (float(ends[0]), float(ends[1])), exponents, heights
    )
    d_law = Law(PowerLaw(0.5, 45.0, 22.0, 0.1), (0.4, 0.6), 1 - exponents, heights + 2)
    drawn = draws_for_json(fit, (n_law, d_law), None)
    assert list(drawn) == ["parametric", "isoflop"]
    assert len(drawn["parametric"]["rows"]) == len(drawn["isoflop"]["rows"]) == MAX_ROWS
    runs = pd.DataFrame({"n_params": n, "tokens": d, "flops": 6 * n * d, "loss": nats})
    parts = {
        "parametric": fit.values,
        "isoflop": {"a": 0.5, "b": 0.5, "k_n": 0.1, "k_d": 1.6},
        "draws": drawn,
        "measured": measured_for_json(runs, fit_cost_law(n, d, 6 * n * d)),
    }
    fits = read_fits(write(tmp_path, **parts))
    assert fits.cost.is_6nd
    assert fits.n_range == (n.min(), n.max())
    by = fits.surface
    assert by is not None
    assert by.draws is not None
    ends = np.percentile(by.draws.exponent(), [100 * by.tail, 100 - 100 * by.tail])
    assert ends == pytest.approx(fit.intervals["a"], abs=0.003)
    law = fits.answers[0].draws
    assert law is not None
    # The law of D is moved to the pivot of the law of N.
    assert law.log_d[0] == pytest.approx(heights[0] + 2 - (1 - exponents[0]), abs=1e-5)


def test_thinning_keeps_finite_rows_evenly():
    rows = np.arange(6000.0).reshape(3000, 2)
    rows[7, 0] = np.nan
    kept = thin(rows)
    assert len(kept) == MAX_ROWS
    assert (kept[0], kept[-1]) == ([0.0, 1.0], [5998.0, 5999.0])
    assert thin(np.array([[1.23456789, 1e300]])) == [[1.234568, 1e300]]


WORDS = [
    ([], "give fits=FILE"),
    (["fits={path}"], "give flops=1e21 or n_params=7e9"),
    (["fits={path}", "flops=1e3"], r"flops=1e3 is outside .*training FLOPs, such as 1e21"),
    (["fits={path}", "flops=-1e21"], "flops=-1e21 is outside"),
    (["fits={path}", "flops=nan"], "flops=nan is outside"),
    (["fits={path}", "flops=lots"], "flops=lots is not a number"),
    (["fits={path}", "n_params=7"], "n_params=7 is outside"),
    (["fits={path}", "flops=1e20", "wrong_a=73"], "wrong_a=73 is outside"),
    (["fits={path}", "flop=1e20"], "unknown key 'flop'; did you mean flops"),
    (["fits={path}", "flops=1e20", "format=jsn"], "format=jsn is not a choice; did you mean json"),
    (["fits={folder}/fit.json", "flops=1e20"], "no file .*did you mean fits.json"),
    (["fits={folder}", "flops=1e20"], "is a folder; give the file: fits="),
]


@pytest.mark.parametrize(("words", "message"), WORDS)
def test_user_mistakes_exit_2_with_the_nearest_right_value(words, message, tmp_path, capsys):
    path = write(tmp_path)
    assert main([word.format(path=path, folder=tmp_path) for word in words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.search("error: .*" + message, captured.err)


LAW, DRAWS = content()["isoflop"], content()["draws"]["parametric"]
FILES = [
    ({"schema": 7}, "has schema 7"),
    ({"parametric": {**TRUTH, "A": -1.0}}, "parametric.A = -1 must be positive"),
    ({"parametric": {**TRUTH, "alpha": "big"}}, "parametric.alpha is 'big', not a number"),
    ({"parametric": {"E": 1.8}}, "parametric.A is missing"),
    ({"parametric": 3}, "'parametric' is '3', not an object"),
    ({"parametric": {**TRUTH, "form": "kaplen"}}, "form is 'kaplen'.*did you mean kaplan"),
    ({"parametric": {**TRUTH, "a_ci": [0.5]}}, "a_ci is .* not"),
    ({"parametric": {**TRUTH, "a_ci": [0.6, 0.5]}}, "the low end comes first"),
    ({"isoflop": {**LAW, "a": None}}, "isoflop.a is None, not a number"),
    ({"isoflop": {**LAW, "k_n": -2.0}}, "isoflop.k_n = -2 must be positive"),
    ({"isoflop": {"a": 0.5, "b": 0.5, "valleys": []}}, "neither k_n nor a bracketed valley"),
    ({"isoflop": {**LAW, "valleys": 3}}, "not a list of valleys"),
    (
        {"isoflop": {**LAW, "valleys": [dict.fromkeys(("flops", "n_opt", "d_opt", "loss"), -1)
                                        | {"bracketed": True}]}},
        "a number that is not positive",
    ),
    ({"draws": {"parametric": {"names": ["E"], "rows": []}}}, "draws.parametric.names lacks A"),
    (
        {"draws": {"parametric": {"names": list(TRUTH), "rows": [[1, 2]]}}},
        "draws.parametric.rows is not a list of 5 numbers each",
    ),
    ({"measured": {"flops_law": {"coefficient": -6, "power": 1}}}, "both exceed 0"),
    ({"measured": {"flops": [0, 1e20]}}, r"measured.flops is \[0.0, 1e\+20\]: both ends exceed 0"),
    ({"measured": {"n_params": [-1, 5]}}, "measured.n_params is .* both ends exceed 0"),
    ({"draws": {"parametric": {"names": "E"}}}, "draws.parametric.names is 'E', not a list"),
    ({"draws": {"parametric": {**DRAWS, "rows": [[1, 2, None, 4, 5]]}}}, "rows holds nan, not a"),
    ({"draws": {"parametric": {**DRAWS, "tail": "x"}}}, "draws.parametric.tail is 'x', not a num"),
    ({"draws": {"parametric": {**DRAWS, "tail": 0.7}}}, "parametric.tail = 0.7 is no share"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), FILES)
def test_what_cannot_be_in_a_fits_file_is_named(changes, message, tmp_path):
    with pytest.raises(InputError, match=message):
        read_fits(write(tmp_path, **changes))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[1]", "expected a JSON object"),
        ("{}", "no fits.json"),
        pytest.param('{"isoflop": ' + "[" * 100_000, "nested too deeply", id="deep"),
        pytest.param('{"isoflop": ' + "9" * 5000 + "}", "not JSON", id="long"),
    ],
)
def test_files_that_are_no_fits_are_refused(text, message, tmp_path):
    path = tmp_path / "fits.json"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_fits(path)


def test_when_every_approach_was_refused_the_reasons_are_said(tmp_path, capsys):
    refused = {"refused": "all runs are at D/N = 20"}
    path = write(tmp_path, isoflop={"refused": "2 valleys"}, parametric=refused)
    assert main([f"fits={path}", "flops=1e21"]) == 2
    err = capsys.readouterr().err
    assert "no approach has an answer" in err
    assert "all runs are at D/N = 20" in err


def test_exponents_without_coefficients_are_refused_by_name(tmp_path):
    fits = read_fits(write(tmp_path, envelope={"a": 0.5, "a_ci": [0.4, 0.6]}))
    assert [item.approach for item in fits.refused] == ["envelope"]
    assert "without their coefficients" in fits.refused[0].why


def test_a_law_that_falls_makes_no_size_optimal(tmp_path, capsys):
    falling = {"a": -0.1, "b": 1.1, "k_n": 1e8, "k_d": 1e-9, "valleys": []}
    path = write(tmp_path, isoflop=falling, draws={})
    assert main([f"fits={path}", "n_params=1e9"]) == 0
    out = capsys.readouterr().out
    assert "isoflop: N does not rise with C, so no C makes a size optimal." in out
    assert out.strip().splitlines()[-1].endswith("(parametric)")
    assert "(isoflop)" not in out
    path = write(tmp_path, isoflop=falling, draws={}, parametric={"refused": "one size"})
    assert main([f"fits={path}", "n_params=1e9"]) == 2
    assert "N does not rise with C by isoflop" in capsys.readouterr().err


def test_numbers_beyond_what_a_run_can_have_are_no_answer(tmp_path, capsys):
    measured = {"flops_law": {"coefficient": 1e-300, "power": 1e-300}}
    path = write(tmp_path, measured=measured)
    assert main([f"fits={path}", "flops=1e21"]) == 2
    assert "no size, tokens, loss or cost that a run can have" in capsys.readouterr().err


def test_what_n_counts_is_the_table_s_where_the_table_counts_c(tmp_path, capsys):
    path = write(tmp_path, conventions={"n_params": "standard", "flops": "as given"})
    assert main([f"fits={path}", "flops=1e20"]) == 0
    assert "N counts as in the table that was fitted" in capsys.readouterr().out


def test_help_lists_every_key(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    for key in ("fits", "flops", "n_params", "wrong_a", "format"):
        assert f"  {key}" in out
