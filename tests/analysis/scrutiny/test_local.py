from dataclasses import replace

import numpy as np
import pytest
from study_folders import TRUTH, isoflop_table

from analysis.config import Method
from analysis.errors import RefusedError
from analysis.isoflop.budgets import make_cells
from analysis.isoflop.fit import Valley, find_valleys
from analysis.parametric.frontier import CostLaw
from analysis.scrutiny.local import NO_DRIFT, local_exponent_of_surface, local_exponent_of_valleys

COLUMNS = ("n_params", "tokens", "flops", "loss")
TRUE_A = TRUTH["beta"] / (TRUTH["alpha"] + TRUTH["beta"])


def by_surface(table, **choices):
    choices = {"resamples": 200} | choices
    return local_exponent_of_surface(*(table[name].to_numpy(float) for name in COLUMNS), **choices)


def bending_valleys(bend, noise=0.0, budgets=7):
    """Valleys whose a changes by `bend` per decade."""
    flops = np.geomspace(1e17, 1e21, budgets)
    x = np.log10(flops) - 19
    rng = np.random.default_rng(3)
    log_n = 8 + 0.5 * x + 0.5 * bend * x**2 + noise * rng.standard_normal(budgets)
    empty = np.array([])
    return tuple(
        Valley(
            flops=float(c),
            n_opt=float(n),
            d_opt=float(c / 6 / n),
            loss=3.0,
            bracketed=True,
            why="",
            n_params=empty,
            tokens=empty,
            losses=empty,
            window=None,
            n_opt_ci=(float(n * 10**-0.02), float(n * 10**0.02)),
        )
        for c, n in zip(flops, 10**log_n, strict=True)
    )


def test_the_chinchilla_points_drift_and_are_flagged(chinchilla):
    found = by_surface(chinchilla)
    assert not found.stable
    assert found.z < -4
    assert found.interval[1] < -0.05
    first, _, last = found.windows
    assert (first.n_runs, first.a) == (82, pytest.approx(0.667, abs=5e-4))
    assert last.a < 0.38
    assert first.interval[0] > last.interval[1]
    assert "DRIFTS: a is 0.667" in found.sentence
    assert "does not extrapolate" in found.sentence


@pytest.mark.parametrize("seed", range(5))
def test_runs_of_one_surface_are_not_flagged(seed):
    found = by_surface(isoflop_table(noise=0.002, sizes=9, seed=seed), seed=seed)
    assert found.stable
    low, high = found.interval
    assert low < 0 < high
    assert found.p > 0.05
    assert "One exponent describes" in found.sentence
    for window in found.windows:
        assert window.interval[0] < TRUE_A < window.interval[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("budgets", "sizes", "noise"), [(5, 7, 0.001), (7, 9, 0.003), (10, 9, 0.003)]
)
def test_the_false_alarm_rate_is_at_most_a_twentieth(budgets, sizes, noise):
    flagged = 0
    for seed in range(200):
        table = isoflop_table(tuple(np.geomspace(1e18, 1e20, budgets)), sizes, 1.6, noise, seed)
        try:
            flagged += not by_surface(table, seed=seed).stable
        except RefusedError:
            continue
    # binomial: 200 tables at 5 % give more than 17 once in 100 times
    assert flagged <= 17


def test_two_surfaces_glued_together_are_flagged():
    table = isoflop_table((1e18, 2e18, 4e18, 3e19, 6e19, 1.2e20), sizes=7, noise=0.001)
    upper = table["flops"] > 1e19
    n, d = table["n_params"] / 1e9, table["tokens"] / 1e10
    table.loc[upper, "loss"] = (1.9 + 0.2 * n**-0.5 + 0.4 * d**-0.3)[upper]
    found = by_surface(table)
    assert not found.stable
    assert found.interval[1] < 0
    assert found.windows[-1].a == pytest.approx(0.375, abs=1e-3)


def test_checkpoints_of_one_run_do_not_make_the_drift_more_certain():
    table = isoflop_table(noise=0.002, sizes=9)
    codes = np.arange(len(table))
    once = by_surface(table, clusters=codes)
    repeated = table.loc[np.repeat(table.index, 4)]
    four_times = by_surface(repeated, clusters=np.repeat(codes, 4))
    width, wider = (np.ptp(found.interval) for found in (once, four_times))
    assert wider == pytest.approx(width, rel=0.1)
    assert [w.n_runs for w in once.windows] == [w.n_runs for w in four_times.windows]


def test_too_few_runs_are_refused_with_the_number_to_reach():
    with pytest.raises(RefusedError, match=r"20 runs; .* until there are 30"):
        by_surface(isoflop_table(budgets=(1e18, 1e19, 1e20, 1e21), sizes=5))


def test_less_than_a_decade_is_refused():
    with pytest.raises(RefusedError, match=r"0\.6 decades .* at least 1 .* add budgets"):
        by_surface(isoflop_table(budgets=(1e18, 2e18, 3e18, 4e18), sizes=9))


def test_noise_that_hides_a_drift_is_refused_and_not_called_stable():
    with pytest.raises(RefusedError, match="would go unseen, so stability cannot be claimed"):
        by_surface(isoflop_table(noise=0.01, sizes=9, seed=1))


def test_a_window_that_identifies_no_surface_is_named():
    table = isoflop_table(sizes=7, noise=0.001)
    low = table["flops"] < 5e18
    table.loc[low, "tokens"] = 20 * table.loc[low, "n_params"]
    with pytest.raises(RefusedError, match=r"in the window C = 1e\+18 to 1e\+19"):
        by_surface(table.assign(loss=table["loss"]))


def test_a_bent_law_through_valleys_is_flagged_and_a_straight_one_is_not():
    bent = local_exponent_of_valleys(bending_valleys(-0.06))
    assert not bent.stable
    assert bent.drift == pytest.approx(-0.06, abs=1e-9)
    assert [w.a for w in bent.windows] == pytest.approx([0.62, 0.5, 0.38], abs=1e-9)
    straight = local_exponent_of_valleys(bending_valleys(0.0, noise=0.01))
    assert straight.stable
    assert straight.interval[0] < 0 < straight.interval[1]


def test_scatter_beyond_the_valleys_own_errors_widens_the_interval():
    quiet = local_exponent_of_valleys(bending_valleys(0.0, noise=0.005))
    loud = local_exponent_of_valleys(bending_valleys(0.0, noise=0.03))
    assert np.ptp(loud.interval) > 2 * np.ptp(quiet.interval)


def test_scattered_valleys_that_could_hide_a_bend_are_refused():
    with pytest.raises(RefusedError, match="would go unseen"):
        local_exponent_of_valleys(bending_valleys(0.0, noise=0.3))


def test_four_valleys_cannot_show_a_bend():
    valleys = bending_valleys(0.0)
    open_ones = tuple(replace(v, bracketed=False, n_opt_ci=None) for v in valleys[4:])
    with pytest.raises(RefusedError, match=r"4 bracketed valleys; .* add 1 budgets"):
        local_exponent_of_valleys((*valleys[:4], *open_ones))


def test_valleys_of_one_surface_do_not_bend():
    cells = make_cells(isoflop_table(noise=0.001, sizes=9))
    found = local_exponent_of_valleys(find_valleys(cells, Method.cubic, 500, 0).valleys)
    assert found.stable
    assert found.decades == pytest.approx(2.0)


def test_a_drift_too_small_to_matter_is_none_however_certain():
    found = local_exponent_of_valleys(bending_valleys(0.9 * NO_DRIFT, budgets=400))
    assert found.stable
    assert found.interval[0] > 0
    assert not local_exponent_of_valleys(bending_valleys(1.1 * NO_DRIFT, budgets=400)).stable


def test_windows_are_read_at_the_cost_of_a_run():
    table = isoflop_table(noise=0.001, sizes=9)
    plain, moved = by_surface(table), by_surface(table, cost=CostLaw(40.0, 0.9))
    for one, other in zip(plain.windows, moved.windows, strict=True):
        assert other.a == pytest.approx(one.a / (1 - 0.1 * one.a))
        assert other.interval[0] > one.interval[0]
