import time

import numpy as np
import pandas as pd
import pytest
from study_folders import TRUTH, isoflop_table, optimal_n, surface

from analysis.envelope.fit import fit_envelope
from analysis.errors import RefusedError
from analysis.intake.curves import Curve, envelope_curves
from analysis.intake.table import RunsTable

A = TRUTH["beta"] / (TRUTH["alpha"] + TRUTH["beta"])
POINTS = 60


def optimal_flops(n_params):
    """Invert optimal_n."""
    return 6.0 * (np.asarray(n_params) / optimal_n(np.array(6.0))) ** (1 / A)


def curve(n_params, end, *, name, schedule="constant", start=0.01):
    """Sample the surface along the training of one run."""
    flops = end * np.geomspace(start, 1.0, POINTS)
    tokens = flops / (6.0 * n_params)
    loss = surface(np.full(POINTS, n_params), tokens)
    return Curve(name, n_params, flops, loss, end, loss[-1], tokens, "training loss", schedule)


def ladder(step, past, count, **options):
    """One run a size, each trained `past` times beyond its own optimum."""
    sizes = 1e7 * step ** np.arange(count)
    return [
        curve(n, past * float(optimal_flops(n)), name=f"n{k}", **options)
        for k, n in enumerate(sizes)
    ]


def noisy(curves, rng, of_run=0.003):
    """Shift whole curves by `of_run` and each of their points by a third of it, in log loss."""
    return [
        Curve(
            c.run_id, c.n_params, c.flops,
            c.loss * np.exp(of_run * (rng.normal() + rng.normal(size=len(c.loss)) / 3)),
            c.final_flops, c.final_loss, c.tokens, c.source, c.schedule,
        )
        for c in curves
    ]  # fmt: skip


def finals(frame):
    frame = frame.assign(run_id=[f"row {k}" for k in range(len(frame))])
    return envelope_curves(RunsTable(frame, (), "t", "t.csv", ""))


@pytest.mark.parametrize(("step", "count"), [(1.3, 18), (1.6, 10), (2.0, 8)])
@pytest.mark.parametrize("past", [4.0, 10.0, 30.0])
def test_curves_without_noise_give_the_surface_s_exponent(step, count, past):
    fit = fit_envelope(ladder(step, past, count), resamples=400, seed=0)
    assert fit.n_law.fit.exponent == pytest.approx(A, abs=0.002)
    assert fit.d_law.fit.exponent == pytest.approx(1 - fit.n_law.fit.exponent, abs=1e-9)
    assert fit.n_law.interval[0] < A < fit.n_law.interval[1]
    assert fit.notes[0].startswith("2 sizes on the envelope are not optima")


def test_the_points_are_the_runs_that_are_best_there():
    fit = fit_envelope(ladder(1.3, 10.0, 18), resamples=100, seed=0)
    assert [p.run_id for p in fit.points] == [f"n{k}" for k in range(1, 17)]
    for p in fit.points:
        assert p.n_opt == pytest.approx(float(optimal_n(np.array(p.flops))), rel=0.005)
        assert p.d_opt == pytest.approx(p.flops / (6 * p.n_opt), rel=1e-9)
        n, d = np.array(p.n_opt), np.array(p.d_opt)
        assert p.loss == pytest.approx(float(surface(n, d)), rel=1e-4)


def test_the_smallest_and_largest_sizes_are_no_optima():
    fit = fit_envelope(ladder(1.6, 10.0, 10), resamples=100, seed=0)
    assert [(p.run_id, p.why.split()[1]) for p in fit.left_out] == [
        ("n0", "smaller"),
        ("n9", "larger"),
    ]


def test_runs_of_one_token_count_show_the_ends_of_runs_and_are_refused():
    sizes = 1e7 * 1.6 ** np.arange(10)
    short = [curve(n, 6 * n * 1e8, name=f"n{k}") for k, n in enumerate(sizes)]
    with pytest.raises(RefusedError, match=r"0 optima .* no smaller size was still in training"):
        fit_envelope(short, resamples=100, seed=0)


def test_runs_of_one_token_count_that_is_long_enough_are_used():
    sizes = 1e7 * 1.6 ** np.arange(10)
    tokens = float(optimal_flops(sizes[-1])) / (6 * sizes[-1]) * 4
    curves = [curve(n, 6 * n * tokens, name=f"n{k}", start=1e-4) for k, n in enumerate(sizes)]
    fit = fit_envelope(curves, resamples=400, seed=0)
    assert fit.n_law.fit.exponent == pytest.approx(A, abs=0.002)


def test_runs_that_end_at_their_own_optimum_say_nothing():
    with pytest.raises(RefusedError, match="each trained well past the C at which the next"):
        fit_envelope(ladder(1.6, 1.0, 10), resamples=100, seed=0)


def test_final_losses_at_20_tokens_a_parameter_say_nothing():
    n = 1e7 * 1.6 ** np.arange(12)
    frame = pd.DataFrame({"n_params": n, "tokens": 20 * n, "flops": 120 * n * n})
    frame["loss"] = surface(n, 20 * n)
    with pytest.raises(RefusedError, match=r"0 optima on the envelope of 12 runs"):
        fit_envelope(finals(frame), resamples=100, seed=0)


@pytest.mark.parametrize(("step", "sizes"), [(1.6, 7), (1.3, 11)])
def test_final_losses_of_budgets_are_an_envelope_too(step, sizes):
    budgets = tuple(np.geomspace(1e18, 1e21, 8))
    fit = fit_envelope(finals(isoflop_table(budgets, sizes, step)), resamples=400, seed=0)
    assert fit.source == "final losses"
    assert "single point" in fit.notes[0]
    assert fit.n_law.fit.exponent == pytest.approx(A, abs=1e-6)  # the grids are centred
    assert fit.n_law.interval[0] < A < fit.n_law.interval[1]


def test_few_sizes_are_refused_with_the_sizes_to_add():
    with pytest.raises(
        RefusedError, match=r"3 optima .* at least 5 .* beyond 1e[+]07 and 8.1e[+]08"
    ):
        fit_envelope(ladder(3.0, 10.0, 5), resamples=100, seed=0)


def test_optima_within_a_decade_of_compute_are_refused():
    with pytest.raises(RefusedError, match=r"span a factor 5.8. in C, at least 10 is needed"):
        fit_envelope(ladder(1.2, 10.0, 8), resamples=100, seed=0)


def test_a_few_sizes_that_take_turns_are_refused():
    budgets = np.geomspace(1e18, 1e20, 5)
    frame = isoflop_table(tuple(budgets), sizes=3)
    frame["n_params"] = np.tile([1e8, 2e8, 4e8], 5)
    frame["tokens"] = frame["flops"] / (6 * frame["n_params"])
    falls = np.repeat([3.5, 3.3, 3.12, 2.96, 2.82], 3)
    frame["loss"] = falls + np.tile([0.2, 0.0, 0.2], 5)
    with pytest.raises(RefusedError, match=r"1 optima|sizes among the envelope's optima"):
        fit_envelope(finals(frame), resamples=100, seed=0)


def test_losses_that_do_not_fall_with_compute_are_refused():
    frame = isoflop_table().assign(loss=lambda f: 2 + np.log(f["flops"] / 1e18))
    with pytest.raises(RefusedError, match="no envelope falls; add runs of several sizes at more"):
        fit_envelope(finals(frame), resamples=100, seed=0)


def test_resamples_that_mostly_lose_the_envelope_are_no_interval(monkeypatch):
    lost = tuple(np.where(np.arange(100) < 80, np.nan, 0.5) for _ in range(4))
    monkeypatch.setattr("analysis.envelope.fit.resample_laws", lambda *_: lost)
    with pytest.raises(RefusedError, match=r"80% of resamples of the 10 runs leave.*; add sizes"):
        fit_envelope(ladder(1.6, 10.0, 10), resamples=100, seed=0)


def test_no_curves_are_refused():
    with pytest.raises(RefusedError, match="of 0 runs"):
        fit_envelope([], resamples=100, seed=0)


def test_decaying_and_unknown_schedules_are_noted_and_constant_ones_are_not():
    for schedule, said in (("cosine", "cosine"), ("", "unknown"), ("wsd", "wsd")):
        fit = fit_envelope(ladder(1.3, 10.0, 18, schedule=schedule), resamples=100, seed=0)
        assert f"(schedule {said})" in fit.notes[0]
        assert "Kaplan" in fit.notes[0]
    fit = fit_envelope(ladder(1.3, 10.0, 18), resamples=100, seed=0)
    assert not any("schedule" in note for note in fit.notes)


def test_the_order_of_runs_does_not_matter():
    curves = ladder(1.6, 10.0, 10)
    fit = fit_envelope(curves, resamples=100, seed=0)
    assert fit_envelope(curves[::-1], resamples=100, seed=0).points == fit.points


def test_replicas_of_a_size_are_one_size():
    curves = [c for _ in range(3) for c in ladder(1.6, 10.0, 10)]
    assert len(fit_envelope(curves, resamples=200, seed=0).points) == 8


def test_intervals_hold_the_truth_under_noise():
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(30):
        fit = fit_envelope(noisy(ladder(1.6, 10.0, 12), rng, 0.001), resamples=300, seed=0)
        inside += fit.n_law.interval[0] < A < fit.n_law.interval[1]
    assert inside >= 28


def test_resampling_fifty_curves_four_thousand_times_takes_under_three_seconds():
    curves = noisy([c for _ in range(5) for c in ladder(1.6, 10.0, 10)], np.random.default_rng(1))
    begin = time.perf_counter()
    fit = fit_envelope(curves, resamples=4000, seed=0)
    assert time.perf_counter() - begin < 3
    assert len(fit.n_law.exponents) == 4000


def test_more_runs_than_the_work_allows_are_resampled_less_often(monkeypatch):
    monkeypatch.setattr("analysis.envelope.fit.WORK", 10 * 200)
    fit = fit_envelope(ladder(1.6, 10.0, 10), resamples=1000, seed=0)
    assert fit.n_resamples == 200
    assert fit.notes[-1] == "200 resamples of the envelope instead of 1000: of 10 runs."


@pytest.mark.parametrize(
    ("hparams", "warmup", "decay", "param_count", "a"),
    [
        ("base", "long", "kaplan", "kaplan", 0.8353),
        ("base", "long", "kaplan", "standard", 0.7065),
        ("base", "short", "kaplan", "standard", 0.6020),
        ("base", "short", "chinchilla", "standard", 0.5715),
        ("tuned", "short", "const", "standard", 0.4969),
    ],
)
def test_the_envelope_of_porian_s_final_losses_follows_the_published_steps(
    published, hparams, warmup, decay, param_count, a
):
    """Best of each budget's grid, so within .02 of their interpolated minima, not closer."""
    frame = published("porian_isoflop.csv")
    words = {"hparams": hparams, "warmup": warmup, "decay": decay, "param_count": param_count}
    chosen = (frame["file"] == "summary_df") & (frame[list(words)] == list(words.values())).all(
        axis=1
    )
    fit = fit_envelope(finals(frame[chosen]), resamples=400, seed=0)
    assert fit.n_law.fit.exponent == pytest.approx(a, abs=0.02)
    assert fit.n_law.interval[0] < a < fit.n_law.interval[1]
