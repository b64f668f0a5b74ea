import numpy as np
import pandas as pd
import pytest
from study_folders import TRUTH, isoflop_table

from analysis.config import Form
from analysis.errors import RefusedError
from analysis.parametric.fit import fit_surface
from analysis.parametric.reweighted import Reweighted
from analysis.scrutiny.universes import COSTS, OUTLIERS, WINDOWS, Subset, collect_runs

TRUE_A = TRUTH["beta"] / (TRUTH["alpha"] + TRUTH["beta"])


def named(table, **columns):
    return table.assign(run_id=[f"run {k}" for k in range(len(table))], **columns)


def subset_of(table, window=WINDOWS[0], outliers=OUTLIERS[0]):
    runs = collect_runs(named(table))[0]
    return Subset(runs, runs.used(window, outliers))


@pytest.mark.parametrize("cost", COSTS)
def test_every_cost_is_the_certified_fit_by_that_cost(cost):
    table = isoflop_table(noise=0.002, seed=3)
    a = subset_of(table).surface("chinchilla", cost)
    loss, delta = COSTS[cost]
    columns = (table[name].to_numpy(float) for name in ("n_params", "tokens", "loss"))
    certified = fit_surface(*columns, form=Form.chinchilla, loss=loss, delta=delta)
    # absolute deviations have vertices so near each other that either may be where a fit ends
    assert a == pytest.approx(certified.values["a"], abs=1e-3 if cost == "lad" else 1e-9)


def test_a_refit_without_outliers_is_the_certified_fit_of_the_rest():
    table = isoflop_table(noise=0.002, seed=3)
    runs = collect_runs(named(table))[0]
    for window in WINDOWS:
        parent = Subset(runs, runs.used(window, OUTLIERS[0]))
        used = runs.used(window, OUTLIERS[1])
        n, d, _, loss = (column[used] for column in runs.columns)
        certified = fit_surface(n, d, loss).values["a"]
        assert Subset(runs, used, parent).surface("chinchilla", "huber 1e-3") == pytest.approx(
            certified, abs=1e-9
        )


def test_windows_leave_out_whole_thirds_of_the_runs():
    runs = collect_runs(named(isoflop_table(budgets=(1e18, 3e18, 1e19, 3e19, 1e20, 3e20))))[0]
    flops = runs.frame["flops"].to_numpy()
    lower, upper = runs.used(WINDOWS[1], "none"), runs.used(WINDOWS[2], "none")
    assert set(flops[~lower]) == {1e18, 3e18}
    assert set(flops[~upper]) == {1e20, 3e20}


def test_rules_for_outliers_drop_what_they_say():
    table = isoflop_table(noise=0.001, sizes=10, seed=1)
    table.loc[7, "loss"] *= 1.05
    runs = collect_runs(named(table))[0]
    largest = runs.used(WINDOWS[0], "largest 2 % of losses")
    assert list(np.flatnonzero(~largest)) == [int(np.argmax(table["loss"]))]
    far = runs.used(WINDOWS[0], "residuals over 4 sd")
    assert 7 in np.flatnonzero(~far)
    assert (~far).sum() <= 3


def test_a_form_that_does_not_describe_the_runs_is_refused():
    subset = subset_of(isoflop_table(noise=0.001))
    assert subset.surface("chinchilla", "huber 1e-3") == pytest.approx(TRUE_A, abs=0.01)
    with pytest.raises(RefusedError, match=r"kaplan_e surface costs .* times as much as the"):
        subset.surface("kaplan_e", "huber 1e-3")


def test_valleys_give_the_exponent_and_refuse_continuous_compute():
    table = isoflop_table(noise=0.0005)
    assert subset_of(table).valleys("cubic") == pytest.approx(TRUE_A, abs=0.01)
    spread = table.assign(flops=table["flops"] * np.geomspace(1, 40, len(table)))
    with pytest.raises(RefusedError, match=r"0 of 35 .*no valleys; add runs of several sizes"):
        subset_of(spread).valleys("cubic")


def test_only_conventions_with_columns_of_their_own_are_variants():
    table = named(isoflop_table(noise=0.001))
    assert [runs.choices["convention"] for runs in collect_runs(table)] == ["standard"]
    counted = table.assign(
        n_params_non_embedding=0.8 * table["n_params"], n_params_total=table["n_params"]
    )
    assert [runs.choices["convention"] for runs in collect_runs(counted)] == ["standard", "kaplan"]


def test_training_loss_and_untuned_runs_are_variants_where_they_differ():
    table = isoflop_table(noise=0.001)
    worse = table.assign(loss=table["loss"] * 1.01, lr=3e-3)
    both = named(pd.concat([table.assign(lr=1e-3), worse], ignore_index=True))
    both["loss_train"] = both["loss"] * 0.98
    choices = [(r.choices["measured"], r.choices["runs"]) for r in collect_runs(both)]
    assert choices == [
        ("loss", "best of each cell"),
        ("loss", "every run"),
        ("loss_train", "best of each cell"),
        ("loss_train", "every run"),
    ]


def test_budgets_planned_in_another_counting_are_cut_again():
    sizes = np.geomspace(3e7, 3e9, 12)
    rows = [(n, c / 6 / n, c) for c in np.geomspace(1e18, 1e20, 7) for n in sizes]
    table = pd.DataFrame(rows, columns=["n_params", "tokens", "flops"])
    by_n, by_d = 480 / table["n_params"] ** 0.35, 2100 / table["tokens"] ** 0.37
    table["loss"] = 1.8 + by_n + by_d
    table["n_params_non_embedding"] = table["n_params"] - 47491 * (table["n_params"] / 2) ** (1 / 3)
    kaplan = collect_runs(named(table))[1]
    a = Subset(kaplan, kaplan.used(WINDOWS[0], OUTLIERS[0])).valleys("cubic")
    assert TRUE_A < a < TRUE_A + 0.08


def test_a_refit_that_does_not_converge_is_no_variant(monkeypatch):
    subset = subset_of(isoflop_table(noise=0.001))
    lost = Reweighted(np.array([np.nan]), np.array([np.nan]), np.full((1, 5), np.nan))
    monkeypatch.setattr(Subset, "_refit", lambda *_: lost)
    with pytest.raises(RefusedError, match="chinchilla surface by mse did not converge; add runs"):
        subset.surface("chinchilla", "mse")


def test_the_surface_s_exponent_is_read_at_the_cost_of_its_convention():
    table = isoflop_table(noise=0.001)
    n, d = table["n_params"], table["tokens"]
    variants = collect_runs(named(table, flops_exact=40.0 * n**0.9 * d))
    assert [runs.choices["convention"] for runs in variants] == ["standard", "attention"]
    plain, moved = (
        Subset(runs, runs.used(WINDOWS[0], OUTLIERS[0])).surface("chinchilla", "mse")
        for runs in variants
    )
    assert moved == pytest.approx(plain / (1 - 0.1 * plain), rel=1e-6)
