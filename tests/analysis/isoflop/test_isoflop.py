import numpy as np
import pandas as pd
import pytest
from study_folders import TRUTH, isoflop_table, optimal_n, surface

from analysis.config import Method
from analysis.errors import RefusedError
from analysis.isoflop.budgets import make_cells, split_budgets
from analysis.isoflop.fit import find_valleys, fit_isoflop
from analysis.isoflop.valley import find_minima, resample_minimum, whole_window
from analysis.powerlaw import fit_power_law

PORIAN_KEYS = ["file", "dataset", "hparams", "warmup", "decay", "param_count", "val"]


def porian(published, group):
    """Return one experiment's runs and its published row."""
    truth = published("porian_exponents.csv").iloc[group]
    table = published("porian_isoflop.csv")
    return table[(table[PORIAN_KEYS] == truth[PORIAN_KEYS]).all(axis=1)], truth


A = TRUTH["beta"] / (TRUTH["alpha"] + TRUTH["beta"])


def fit(table, method=Method.cubic, resamples=1000, seed=0):
    cells = make_cells(table)
    return fit_isoflop(find_valleys(cells, method, resamples, seed), cells, seed)


@pytest.mark.parametrize(
    ("method", "tolerance"), [(Method.cubic, 1e-4), (Method.parabola, 1e-3), (Method.akima, 1e-3)]
)
def test_noise_free_runs_return_the_exponents_of_their_surface(method, tolerance):
    result = fit(isoflop_table(), method)
    assert result.n_law.fit.exponent == pytest.approx(A, abs=tolerance)
    assert result.d_law.fit.exponent == pytest.approx(1 - A, abs=tolerance)
    for valley in result.valleys:
        assert valley.bracketed
        assert valley.n_opt == pytest.approx(float(optimal_n(np.array(valley.flops))), rel=0.02)
        assert 6 * valley.n_opt * valley.d_opt == pytest.approx(valley.flops, rel=1e-6)


def test_noisy_runs_contain_the_truth_in_their_interval():
    result = fit(isoflop_table(noise=0.003, seed=2), resamples=4000)
    low, high = result.n_law.interval
    assert low < A < high
    assert high - low < 0.15
    assert result.noise == pytest.approx(0.003, rel=0.6)


def test_the_order_of_runs_does_not_matter():
    table = isoflop_table(noise=0.003)
    shuffled = fit(table.sample(frac=1, random_state=5))
    assert shuffled.n_law.fit.exponent == pytest.approx(fit(table).n_law.fit.exponent, rel=1e-9)


def test_other_units_of_n_do_not_move_the_exponent():
    table = isoflop_table(noise=0.003)
    scaled = fit(table.assign(n_params=table["n_params"] / 1e6))
    assert scaled.n_law.fit.exponent == pytest.approx(fit(table).n_law.fit.exponent, rel=1e-9)


@pytest.mark.parametrize("group", range(15))
@pytest.mark.parametrize(("method", "tolerance"), [(Method.cubic, 0.028), (Method.akima, 0.02)])
def test_porian_runs_return_their_published_exponents(published, method, tolerance, group):
    rows, truth = porian(published, group)
    result = fit(rows, method)
    assert result.n_law.fit.exponent == pytest.approx(truth["weighted"], abs=tolerance)
    low, high = result.n_law.interval
    # Their interval and ours overlap.
    assert low < truth["ci_hi"]
    assert high > truth["ci_lo"]


@pytest.mark.parametrize("group", range(15))
def test_porian_analysis_rebuilt_from_our_parts_returns_their_exponents(published, group):
    """Akima through all sizes, medians of copies with their measured noise, edges rejected."""
    rows, truth = porian(published, group)
    rng = np.random.default_rng(0)
    found = []
    for budget in split_budgets(make_cells(rows).frame):
        if len(budget.n_params) < 4:
            continue
        window = whole_window(np.log(budget.n_params), np.log(budget.losses), Method.akima)
        noise = 0.005 / budget.losses * rng.standard_normal((1000, len(budget.losses)))
        minimum = resample_minimum(window, noise)
        alone = find_minima(window, window.inside_y[None])[0][0]
        if minimum.steady >= 0.5 and np.isfinite(alone):
            copies = find_minima(window, window.inside_y + noise)[0]
            sd = max(np.nanstd(copies), window.spacing / 3) / minimum.steady
            found.append((budget.flops, np.exp(minimum.log_n), sd))
    flops, n_opt, sd = np.array(found).T
    a = fit_power_law(flops, n_opt, sd=sd).exponent
    assert a == pytest.approx(truth["weighted"], abs=0.006)


@pytest.mark.parametrize(
    ("group", "naive"), [(0, 1.209), (1, 1.038), (2, 0.659), (3, 0.563), (4, 0.514)]
)
def test_a_parabola_through_all_sizes_fails_as_published_and_ours_does_not(published, group, naive):
    rows, truth = porian(published, group)
    flops, n_opt = [], []
    for budget in split_budgets(make_cells(rows).frame):
        x = np.log(budget.n_params)
        bend, slope, _ = np.polyfit(x, budget.losses, 2)
        flops.append(budget.flops)
        n_opt.append(np.exp(-slope / (2 * bend)))
    assert fit_power_law(np.array(flops), np.array(n_opt)).exponent == pytest.approx(
        naive, abs=0.0006
    )
    assert abs(fit(rows).n_law.fit.exponent - truth["weighted"]) < 0.028


def test_chinchilla_points_are_refused_because_no_compute_is_shared(chinchilla):
    with pytest.raises(RefusedError, match=r"of 234 .* share their C"):
        fit(chinchilla)


def test_a_valley_on_the_edge_is_not_used_and_says_which_sizes_to_add():
    table = isoflop_table()
    smallest = table["flops"].min()
    truth = float(optimal_n(np.array(smallest)))
    cut = table[(table["flops"] > smallest) | (table["n_params"] > 1.1 * truth)]
    more = isoflop_table(budgets=(smallest,), sizes=9)
    cut = pd.concat([cut[cut["flops"] > smallest], more[more["n_params"] > 1.1 * truth]])
    result = fit(cut)
    first = result.valleys[0]
    assert not first.bracketed
    assert "smallest size" in first.why
    assert "add smaller sizes" in first.why
    assert any("is not used" in note for note in result.notes)
    assert result.n_law.fit.exponent == pytest.approx(A, abs=2e-4)


def test_two_bracketed_valleys_are_refused():
    with pytest.raises(RefusedError, match=r"2 bracketed valleys, at least 3 .* add budgets"):
        fit(isoflop_table(budgets=(1e18, 1e19)))


def test_three_sizes_a_budget_are_refused():
    with pytest.raises(RefusedError, match="only 0 of 15"):
        fit(isoflop_table(sizes=3))


def test_a_size_whose_best_learning_rate_is_on_the_edge_is_left_out_and_named():
    table = isoflop_table().assign(lr=1.0)
    victim = table.iloc[[3]]
    worse = [victim.assign(lr=lr, loss=victim["loss"] * 1.01 * lr) for lr in (2.0, 4.0)]
    result = fit(pd.concat([table, *worse]))
    assert len(result.valleys[0].n_params) == 6
    assert any("best learning rate is the lowest tried" in note for note in result.notes)


def test_replicas_over_seeds_set_the_noise_when_they_show_more():
    table = isoflop_table(noise=0.0)
    seeds = [table.assign(seed=k, loss=table["loss"] * np.exp(0.01 * (k - 1))) for k in range(3)]
    result = fit(pd.concat(seeds))
    assert result.noise_source == "replicas over seeds"
    assert result.noise == pytest.approx(0.01 / np.sqrt(3), rel=0.01)


def test_valleys_that_scatter_more_than_noise_explains_widen_the_interval():
    table = isoflop_table()
    shift = {flops: 1.2 if k % 2 else 1 / 1.2 for k, flops in enumerate(table["flops"].unique())}
    factor = table["flops"].map(shift)
    moved = table.assign(n_params=table["n_params"] * factor, tokens=table["tokens"] / factor)
    straight, bent = fit(table), fit(moved)
    assert straight.excess < 0.01
    assert bent.excess > 0.1
    assert np.diff(bent.n_law.interval) > 5 * np.diff(straight.n_law.interval)


def test_a_run_in_several_budgets_brings_its_luck_to_each():
    """Checkpoints of one run: the same size in every budget, one offset a run."""
    rng = np.random.default_rng(5)
    sizes = np.geomspace(2e8, 6e9, 14)
    offset = 0.002 * rng.standard_normal(14)
    rows = [
        {
            "n_params": n,
            "tokens": flops / (6 * n),
            "flops": flops,
            "loss": float(surface(n, flops / (6 * n)) * np.exp(offset[k])),
            "run_id": f"run {k}",
        }
        for flops in np.geomspace(1e19, 1e21, 6)
        for k, n in enumerate(sizes)
        if abs(np.log(n / optimal_n(np.array(flops)))) < 1.2
    ]
    table = pd.DataFrame(rows)
    together, apart = fit(table), fit(table.drop(columns="run_id"))
    assert together.shared > 0.3
    assert apart.shared == 0.0


def test_two_budgets_are_told_which_budget_to_add():
    with pytest.raises(RefusedError, match=r"add budgets, 4e\+19 for example, with 5 sizes"):
        fit(isoflop_table(budgets=(1e18, 1e19)))


def test_budgets_whose_losses_have_a_maximum_are_refused_in_words():
    table = isoflop_table()
    top = table.groupby("flops")["loss"].transform("max")
    upside_down = table.assign(loss=2 * top - table["loss"])
    with pytest.raises(RefusedError, match=r"0 bracketed .* curvature is wrong: losses have a max"):
        fit(upside_down)


@pytest.mark.parametrize("method", [Method.cubic, Method.parabola])
def test_scatter_of_valleys_that_noise_explains_is_no_excess(method):
    assert fit(isoflop_table(noise=0.002, seed=4), method).excess == 0.0


def test_seeds_that_agree_with_the_residuals_are_pooled_with_them():
    table = pd.concat(
        [isoflop_table(noise=0.004, seed=k).assign(seed=k) for k in range(3)], ignore_index=True
    )
    result = fit(table)
    assert result.noise_source == "residuals about the curves and replicas over seeds"
    assert result.seeds is not None
    assert result.seeds.freedom == 70
    assert result.noise == pytest.approx(0.004 / np.sqrt(3), rel=0.2)
