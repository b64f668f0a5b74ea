import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize
from study_folders import TRUTH, isoflop_table

from analysis.config import Form, Loss
from analysis.errors import InputError, RefusedError
from analysis.parametric import newton
from analysis.parametric.fit import fit_parametric, fit_surface
from analysis.parametric.newton import Solved


def fit(table, **choices):
    choices = {"resamples": 200} | choices
    columns = (table[name].to_numpy(float) for name in ("n_params", "tokens", "loss"))
    n_params, tokens, nats = columns
    return fit_parametric(n_params, tokens, nats=nats, **choices)


@pytest.mark.parametrize("loss", list(Loss))
def test_noise_free_runs_return_the_surface_they_came_from(loss):
    found = fit(isoflop_table(), loss=loss, resamples=100).values
    for name, value in TRUTH.items():
        assert found[name] == pytest.approx(value, rel=1e-5), name


def test_noisy_runs_return_the_exponent_within_its_interval():
    result = fit(isoflop_table(noise=0.002, seed=4), resamples=1000)
    low, high = result.intervals["a"]
    assert low < TRUTH["beta"] / (TRUTH["alpha"] + TRUTH["beta"]) < high
    assert high - low < 0.05
    assert result.n_failed == 0


def test_chinchilla_reaches_the_true_minimum_to_six_digits(chinchilla):
    result = fit(chinchilla, resamples=100)
    assert result.objective == pytest.approx(1.0182740178e-3, rel=1e-9)
    golden = {"E": 1.817218, "A": 477.826, "B": 2143.417, "alpha": 0.347310, "beta": 0.367172}
    for name, value in golden.items():
        assert result.values[name] == pytest.approx(value, rel=1.5e-6), name
    assert result.values["a"] == pytest.approx(0.51390, abs=5e-6)
    assert result.starts_moved == result.starts_reached == result.n_starts >= 4
    assert result.converged
    assert result.gradient < 1e-9
    assert 1e3 < result.condition < 1e4


def test_all_245_chinchilla_points_reach_their_true_minimum(published):
    values = fit(published("chinchilla_epoch.csv"), resamples=100).values
    golden = {"E": 1.89134, "A": 495.726, "B": 12845.6, "alpha": 0.34931, "beta": 0.45305}
    for name, value in golden.items():
        assert values[name] == pytest.approx(value, rel=1e-5), name
    assert values["a"] == pytest.approx(0.56464, abs=5e-6)


def test_least_absolute_deviations_reach_the_published_coefficients(chinchilla):
    result = fit(chinchilla, loss=Loss.lad, resamples=100)
    assert result.objective == pytest.approx(1.12949466, rel=1e-8)
    golden = {"E": 1.816864, "A": 482.0057, "B": 2085.434, "alpha": 0.347813, "beta": 0.365854}
    for name, value in golden.items():
        assert result.values[name] == pytest.approx(value, rel=3e-6), name
    assert result.values["a"] == pytest.approx(0.51264, abs=5e-6)


def test_squared_error_in_nats_reaches_its_published_minimum(chinchilla):
    result = fit(chinchilla, loss=Loss.mse, resamples=100)
    assert result.objective == pytest.approx(0.08320, abs=5e-6)
    golden = {"E": 1.88281, "A": 567.805, "B": 7581.85, "alpha": 0.35762, "beta": 0.42762}
    for name, value in golden.items():
        assert result.values[name] == pytest.approx(value, rel=1.5e-5), name
    assert result.values["a"] == pytest.approx(0.54458, abs=5e-6)


def test_a_window_in_other_units_returns_the_published_squared_error_fit(chinchilla):
    window = chinchilla[chinchilla["flops"] < 1e21]
    assert len(window) == 217
    columns = (window["n_params"] / 1e6, window["tokens"] / 1e9, window["loss"])
    result = fit_surface(*(column.to_numpy() for column in columns), loss=Loss.mse)
    golden = {"E": 1.9051, "A": 4.0005, "B": 1.0509, "alpha": 0.3511, "beta": 0.4587, "a": 0.5665}
    for name, value in golden.items():
        assert result.values[name] == pytest.approx(value, abs=6e-5), name
    assert result.objective == pytest.approx(0.062414, abs=5e-7)


@pytest.mark.parametrize(
    ("form", "objective"),
    # Kaplan's own form without E is published as 2.660e-3; 2.66310e-3 is where every start ends.
    [(Form.skaling, 9.5418e-4), (Form.kaplan_e, 2.1747e-3), (Form.kaplan, 2.66310e-3)],
)
def test_other_forms_reach_their_minimum_on_the_same_runs(chinchilla, form, objective):
    columns = (chinchilla[name].to_numpy() for name in ("n_params", "tokens", "loss"))
    result = fit_surface(*columns, form=form)
    assert result.objective == pytest.approx(objective, rel=2e-5)
    assert result.gradient < 1e-9
    if form is Form.skaling:
        assert result.values["k"] == pytest.approx(0.774, abs=5e-4)


def test_the_published_stop_at_the_second_iteration_is_no_optimum(chinchilla):
    log_n, log_d, log_loss = (
        np.log(chinchilla[name].to_numpy()) for name in ("n_params", "tokens", "loss")
    )

    def mean_huber(theta):
        a, b, e, alpha, beta = theta
        prediction = np.logaddexp(np.logaddexp(a - alpha * log_n, b - beta * log_d), e)
        residual = prediction - log_loss
        slope = np.clip(residual, -1e-3, 1e-3)
        return np.mean(slope * (residual - 0.5 * slope))

    # Hoffmann's values, SciPy's default tolerances and numerical gradient: the original error.
    start = np.array([6.0073, 6.0179, 0.5267, 0.3392, 0.2849])
    stopped = minimize(mean_huber, start, method="L-BFGS-B")
    assert stopped.success
    assert stopped.nit == 2
    # The start is known to four decimals of a log, which is 4e-5 of A.
    assert np.exp(stopped.x[:3]) == pytest.approx([406.40, 410.73, 1.69344], rel=5e-5)
    assert stopped.x[3:] == pytest.approx([0.33899, 0.28468], abs=3e-5)
    columns = (chinchilla[name].to_numpy() for name in ("n_params", "tokens", "loss"))
    ours = fit_surface(*columns)
    assert ours.objective / 240 < 0.9 * stopped.fun
    assert ours.gradient < 1e-9


def test_a_weight_of_two_is_the_run_given_twice():
    table = isoflop_table(noise=0.002)
    columns = [table[name].to_numpy() for name in ("n_params", "tokens", "loss")]
    weights = np.ones(len(table))
    weights[3], weights[5] = 2.0, 0.0
    rows = [k for k in range(len(table)) for _ in range(int(weights[k]))]
    weighted = fit_surface(*columns, weights=weights)
    repeated = fit_surface(*(column[rows] for column in columns))
    assert weighted.objective == pytest.approx(repeated.objective, rel=1e-9)
    assert weighted.values == pytest.approx(repeated.values, rel=1e-6)
    assert len(weighted.residuals) == len(table)


def test_weights_of_one_over_variance_are_refused_by_name():
    table = isoflop_table(noise=0.002)
    columns = [table[name].to_numpy() for name in ("n_params", "tokens", "loss")]
    with pytest.raises(InputError, match=r"weights average 2.5e\+05.*how often a run counts"):
        fit_surface(*columns, weights=np.full(len(table), 1 / 0.002**2))
    with pytest.raises(InputError, match="not negative"):
        fit_surface(*columns, weights=-np.ones(len(table)))
    with pytest.raises(InputError, match="give one a run"):
        fit_surface(*columns, weights=np.ones(3))


def test_a_fit_that_never_left_its_start_is_refused(monkeypatch):
    def stay(theta, problem, max_steps=0):
        return Solved(theta, np.ones(len(theta)), np.ones(len(theta), dtype=bool))

    monkeypatch.setattr(newton, "solve", stay)
    with pytest.raises(RefusedError, match="left its place"):
        fit(isoflop_table())


def test_checkpoints_of_one_run_are_resampled_together():
    table = isoflop_table(noise=0.002)
    doubled = pd.concat([table, table], ignore_index=True)
    codes = np.tile(np.arange(len(table)), 2)
    once = fit(table, resamples=400).intervals["a"]
    alone = fit(doubled, resamples=400).intervals["a"]
    together = fit(doubled, resamples=400, clusters=codes)
    assert together.n_clusters == len(table)
    assert together.intervals["a"] == pytest.approx(once, rel=1e-6)
    assert alone[1] - alone[0] < 0.85 * (once[1] - once[0])


def test_too_few_runs_of_many_checkpoints_are_refused():
    table = isoflop_table(noise=0.002)
    with pytest.raises(RefusedError, match="checkpoints of 5 runs"):
        fit(table, clusters=np.arange(len(table)) % 5)


@pytest.mark.parametrize("unit", [1e-9, 1e12])
@pytest.mark.parametrize("loss", list(Loss))
def test_losses_in_any_unit_give_the_same_exponents(unit, loss):
    table = isoflop_table(noise=0.002)
    columns = [table[name].to_numpy() for name in ("n_params", "tokens", "loss")]
    plain = fit_surface(*columns, loss=loss)
    scaled = fit_surface(columns[0], columns[1], unit * columns[2], loss=loss)
    assert scaled.values["a"] == pytest.approx(plain.values["a"], rel=1e-6)
    assert scaled.values["E"] == pytest.approx(unit * plain.values["E"], rel=1e-6)


def test_a_loss_that_is_not_positive_is_named():
    table = isoflop_table()
    table.loc[4, "loss"] = -1.0
    with pytest.raises(InputError, match="loss=-1 in run 4"):
        fit(table)


@pytest.mark.parametrize(
    ("low", "high", "runs", "a"),
    [
        (0, 3e19, 82, 0.667),
        (0, 1e20, 136, 0.602),
        (1e19, 1e30, 192, 0.412),
        (3e19, 1e30, 158, 0.386),
        (1e20, 1e30, 104, 0.376),
    ],
)
def test_windows_of_compute_return_the_published_drift(chinchilla, low, high, runs, a):
    window = chinchilla[(chinchilla["flops"] >= low) & (chinchilla["flops"] < high)]
    assert len(window) == runs
    assert fit(window, resamples=100).values["a"] == pytest.approx(a, abs=6e-4)


def test_bootstrap_spread_matches_the_published_one_within_monte_carlo_error(chinchilla):
    result = fit(chinchilla, resamples=4000)
    spread = dict(zip(result.names, result.draws.std(axis=0), strict=True))
    golden = {
        "E": 0.02566,
        "A": 124.49,
        "B": 1293.2,
        "alpha": 0.0154,
        "beta": 0.02059,
        "a": 0.01997,
    }
    for name, value in golden.items():
        # 1.1 % is the standard error of an sd of 4000 normal draws; B is skewed, its tail is heavy.
        assert spread[name] == pytest.approx(value, rel=0.08 if name == "B" else 0.045), name
    assert result.n_failed == 0
    assert result.intervals["alpha"] == pytest.approx((0.317, 0.373), abs=0.002)
    assert result.intervals["beta"] == pytest.approx((0.331, 0.415), abs=0.004)
    # Both sides are ends of 4000 draws: three standard errors of their difference, read off how the
    # draws are spaced there (A and B are skewed, so their upper ends are known less well).
    for name, published in (("E", (1.769, 1.871)), ("A", (285, 744)), ("B", (1042, 5810))):
        draws = result.draws[:, result.names.index(name)]
        for end, share, value in zip(result.intervals[name], (2.5, 97.5), published, strict=True):
            near = np.percentile(draws, [share - 1, share + 1])
            density = 0.02 / (near[1] - near[0])
            error = np.sqrt(2 * 0.025 * 0.975 / len(draws)) / density
            assert end == pytest.approx(value, abs=3 * error + 0.0005 * value), name


def test_the_order_of_runs_does_not_matter():
    table = isoflop_table(noise=0.002)
    shuffled = table.sample(frac=1.0, random_state=1)
    assert fit(shuffled).values == pytest.approx(fit(table).values, rel=1e-8)


def test_other_units_of_n_and_d_move_only_a_and_b():
    table = isoflop_table(noise=0.002)
    scaled = table.assign(n_params=table["n_params"] / 1e6, tokens=table["tokens"] / 1e9)
    one, other = fit(table).values, fit(scaled).values
    for name in ("E", "alpha", "beta", "a"):
        assert other[name] == pytest.approx(one[name], rel=1e-7), name
    assert other["A"] == pytest.approx(one["A"] / 1e6 ** one["alpha"], rel=1e-6)
    assert other["B"] == pytest.approx(one["B"] / 1e9 ** one["beta"], rel=1e-6)


def test_the_same_seed_gives_the_same_interval_and_another_does_not():
    table = isoflop_table(noise=0.002)
    assert fit(table, seed=1).intervals == fit(table, seed=1).intervals
    assert fit(table, seed=1).intervals != fit(table, seed=2).intervals


def test_a_surface_that_does_not_fall_with_n_is_refused():
    table = isoflop_table()
    flat = table.assign(loss=1.8 + 2100 / table["tokens"] ** 0.37)
    with pytest.raises(
        RefusedError, match=r"these runs\s+do not show how loss falls with N|did not"
    ):
        fit(flat)


def test_no_converged_start_is_refused_and_gives_no_number(monkeypatch):
    def never(theta, problem, max_steps=0):
        return Solved(theta, np.ones(len(theta)), np.zeros(len(theta), dtype=bool))

    monkeypatch.setattr(newton, "solve", never)
    with pytest.raises(RefusedError, match=r"none of .* starts converged"):
        fit(isoflop_table())


def test_losses_of_noise_alone_have_no_exponent():
    table = isoflop_table()
    table["loss"] = 3 + 0.05 * np.random.default_rng(0).standard_normal(len(table))
    with pytest.raises(
        RefusedError, match=r"do not bound a: .* has 0.\d+, .* no end on either side; add runs"
    ):
        fit(table)


def test_a_bootstrap_that_mostly_fails_is_refused(monkeypatch):
    solve = newton.solve

    def rarely(theta, problem, max_steps=1000):
        solved = solve(theta, problem, max_steps)
        converged = solved.converged & (len(problem.counts) == 1)
        return Solved(solved.theta, solved.value, converged)

    monkeypatch.setattr(newton, "solve", rarely)
    with pytest.raises(RefusedError, match="200 of 200 bootstrap refits"):
        fit(isoflop_table(noise=0.002))


@pytest.mark.parametrize(
    ("loss", "copies", "resampling"),
    [
        (Loss.huber, 1, "weights"),
        (Loss.lad, 1, "weights"),
        (Loss.mse, 1, "pairs"),
        (Loss.huber, 3, "pairs"),
    ],
)
def test_bounded_costs_of_few_runs_are_resampled_by_weights(loss, copies, resampling):
    table = pd.concat([isoflop_table(noise=0.002, seed=k) for k in range(copies)])
    assert fit(table, loss=loss, resamples=100).resampling == resampling


def test_weights_are_narrower_than_pairs_on_few_runs(monkeypatch):
    table = isoflop_table(budgets=(1e18, 2e18, 4e18, 8e18), sizes=5, noise=0.003, seed=1)
    by_weights = np.diff(fit(table, resamples=400).intervals["a"])[0]
    monkeypatch.setattr("analysis.parametric.result.PAIRS_FROM", 0)
    assert by_weights < np.diff(fit(table, resamples=400).intervals["a"])[0]
