"""Laws of learning rate and batch: known ones, the published one, and what is refused."""

import time

import numpy as np
import pandas as pd
import pytest
from lr_grids import PAIRS, P, Q, R, best_batch, best_lr, study

from analysis.errors import RefusedError
from analysis.learning_rate.fit import fit_learning_rate
from analysis.learning_rate.optima import find_optima


def fit(frame, resamples=400, **options):
    return fit_learning_rate(find_optima(frame, resamples=resamples, seed=0, **options), seed=0)


@pytest.fixture
def steplaw(published):
    frame = published("steplaw_lr_batch.csv")
    return frame.assign(batch_tokens=frame["tokens"] / frame["steps"])


def test_known_laws_are_recovered_exactly_without_noise():
    found = fit(study())
    np.testing.assert_allclose(found.lr_law.exponents, [P, Q], atol=1e-6)
    assert found.lr_law.coefficient == pytest.approx(10.0, rel=1e-4)
    assert found.batch_law is not None
    assert found.batch_law.exponent("tokens") == pytest.approx(R, abs=1e-6)
    assert found.batch_law.coefficient == pytest.approx(0.5, rel=1e-4)
    assert found.lr_at(3e8, 1e10)[0] == pytest.approx(best_lr(3e8, 1e10), rel=1e-5)
    assert found.batch_at(1e10)[0] == pytest.approx(best_batch(1e10), rel=1e-5)
    assert found.notes == ()


def test_the_intervals_of_noisy_laws_hold_the_truth():
    found = fit(study(noise=0.002), resamples=1000)
    for name, truth in (("n_params", P), ("tokens", Q)):
        low, high = found.lr_law.interval(name)
        assert low < truth < high
        assert high - low < 0.2
    value, (low, high) = found.lr_at(2e8, 1.6e10)
    assert low < best_lr(2e8, 1.6e10) < high
    assert low < value < high


@pytest.mark.slow
def test_the_intervals_cover_the_truth_as_often_as_they_say():
    rng, inside = np.random.default_rng(0), np.zeros(3)
    for seed in range(200):
        frame = study(noise=0.002, seed=seed)
        # Optima that scatter about the law by .1, as those of the published table do.
        for pair in PAIRS:
            rows = (frame["n_params"] == pair[0]) & (frame["tokens"] == pair[1])
            frame.loc[rows, "lr"] *= np.exp(0.1 * rng.standard_normal())
            frame.loc[rows, "batch_tokens"] *= np.exp(0.1 * rng.standard_normal())
        found = fit(frame)
        assert found.batch_law is not None
        laws = ((found.lr_law, "n_params", P), (found.lr_law, "tokens", Q))
        for k, (law, name, truth) in enumerate((*laws, (found.batch_law, "tokens", R))):
            low, high = law.interval(name)
            inside[k] += low <= truth <= high
    assert (inside / 200 >= 0.91).all()
    assert (inside / 200 <= 0.995).all()


def test_the_published_table_gives_the_published_batch_law(steplaw):
    found = fit(steplaw, resamples=1000)
    assert found.used.all()
    assert len(found.used) == 17
    assert found.batch_law is not None
    assert round(found.batch_law.coefficient, 3) == 0.546
    assert round(found.batch_law.exponent("tokens"), 3) == 0.569
    low, high = found.batch_law.interval("tokens")
    assert low < 0.571 < high


def test_the_published_table_gives_its_own_learning_rate_law(steplaw):
    found = fit(steplaw, resamples=1000)
    assert round(found.lr_law.coefficient, 1) == 10.6
    assert round(found.lr_law.exponent("n_params"), 3) == -0.695
    assert round(found.lr_law.exponent("tokens"), 3) == 0.208
    # The published exponents are -.713 and .307: the released runs do not give the second.
    low, high = found.lr_law.interval("n_params")
    assert low < -0.713 < high
    assert found.lr_law.interval("tokens")[1] < 0.307


def test_every_window_of_the_published_table_agrees_on_tokens_but_not_on_size(steplaw):
    found = fit(steplaw, resamples=400)
    windows = dict(found.windows)
    assert list(windows) == [0.01, 0.02, 0.04]
    assert windows[0.02]["n_params"] == pytest.approx(found.lr_law.exponent("n_params"))
    assert max(w["tokens"] for w in windows.values()) < 0.24
    assert {round(w["batch_tokens"], 2) for w in windows.values()} <= {0.57, 0.59}
    assert windows[0.01]["n_params"] < -0.8 < -0.65 < windows[0.04]["n_params"]
    (note,) = [text for text in found.notes if "moves" in text]
    assert note.startswith("The learning rate's exponent of n_params moves from -0.835 to -0.616")


def test_at_one_batch_the_published_best_learning_rate_does_not_depend_on_tokens(steplaw):
    """Along the valley lr ~ batch**.39, and batch ~ D**.57: what is left of D**.208 is nothing."""
    both, one = fit(steplaw), fit(steplaw[steplaw["batch_seqs"] == 256])
    assert both.batch_law is not None
    left = both.lr_law.exponent("tokens") - both.batch_slope * both.batch_law.exponent("tokens")
    assert left == pytest.approx(0.0, abs=0.03)
    low, high = one.lr_law.interval("tokens")
    assert low < 0.0 < high
    assert one.batch_law is None


def test_the_jitter_of_last_losses_leaves_too_few_optima(steplaw):
    with pytest.raises(RefusedError, match=r"\d \(N, D\) with an interior optimum, at least 4"):
        fit(steplaw.drop(columns="loss_smooth"))


def test_the_published_table_takes_under_two_seconds(steplaw):
    began = time.process_time()
    fit(steplaw, resamples=4000)
    assert time.process_time() - began < 2.0


def test_a_learning_rate_off_by_two_costs_what_the_curvature_says():
    found = fit(study())
    assert found.penalty == pytest.approx(0.5 * 0.014 * np.log(2) ** 2, rel=1e-5)
    assert found.penalty_range == pytest.approx((found.penalty, found.penalty))
    assert found.batch_slope == pytest.approx(0.004 / 0.014, rel=1e-5)


def test_one_batch_gives_a_law_of_learning_rate_alone():
    found = fit(study(batches=1))
    np.testing.assert_allclose(found.lr_law.exponents, [P, Q], atol=1e-6)
    assert found.batch_law is None
    (note,) = found.notes
    assert note.startswith("Batch differs between groups (1.")
    assert note.endswith("was not tuned: the law holds along these batches.")
    with pytest.raises(RefusedError, match=r"no batch law: batch size was not varied"):
        found.batch_at(1e10)


def test_one_ratio_of_tokens_to_parameters_gives_one_exponent():
    found = fit(study([(n, 20 * n) for n in (1e8, 2e8, 4e8, 8e8, 1.6e9)]))
    assert found.lr_law.names == ("n_params",)
    assert found.lr_law.exponent("n_params") == pytest.approx(P + Q, abs=1e-6)
    assert found.notes == (
        "The learning-rate law has no exponent of its own where tokens follows n_params**1.00 "
        "(r2 1.000), so that only their joint exponent is known.",
    )
    assert found.batch_law is not None
    assert found.batch_law.exponent("tokens") == pytest.approx(R, abs=1e-6)


def test_one_number_of_tokens_gives_no_batch_law():
    found = fit(study([(n, 1e10) for n in (1e8, 2e8, 4e8, 8e8)]))
    assert found.lr_law.names == ("n_params",)
    assert found.batch_law is None
    assert found.batch_refused == (
        "tokens varies by less than a factor of 2; add groups of other sizes and tokens"
    )


def test_three_groups_are_refused_with_what_to_add():
    with pytest.raises(
        RefusedError,
        match=r"3 \(N, D\) with an interior optimum, at least 4 are needed; add sizes, each at 4",
    ):
        fit(study(PAIRS[:3]))


def test_groups_of_one_size_and_tokens_are_refused():
    pairs = [(1e8 * k, 1e10 * k) for k in (1.0, 1.1, 1.2, 1.3)]
    with pytest.raises(RefusedError, match="n_params varies by less than a factor of 2; tokens v"):
        fit(study(pairs))


def test_a_group_on_the_edge_is_left_out_by_name_and_four_such_are_a_refusal():
    frame = study()
    first = frame["n_params"] == 1e8
    cut = frame[~first | (frame["lr"] < 0.5 * best_lr(1e8, 4e9))]
    found = fit(cut)
    assert found.used.sum() == 6
    told = [note for note in found.notes if note.startswith("N = 1e+08, D = ")]
    assert len(told) == 2  # the third has fewer than 3 learning rates left
    assert all("is not used" in note and "learning rates" in note for note in told)
    assert all("higher than" in note for note in told)
    low = frame["lr"] < 0.5 * frame["n_params"].map(lambda n: best_lr(n, 4e9))
    with pytest.raises(RefusedError, match=r"0 \(N, D\) .* higher than .*and 2 more"):
        fit(frame[low])


def test_groups_tuned_at_one_batch_are_not_mixed_with_those_tuned_over_batches():
    frame = pd.concat([study(), study([(8e8, 4e9)], batches=1)], ignore_index=True)
    found = fit(frame)
    assert found.used.sum() == 9
    assert "1 groups that were tuned at one batch are not used." in found.notes


def test_rescaling_tokens_and_batch_leaves_the_exponents():
    frame = study(noise=0.001)
    scaled = frame.assign(
        tokens=frame["tokens"] * 1e3, batch_tokens=frame["batch_tokens"] * 1e3, lr=frame["lr"] * 7
    )
    one, other = fit(frame), fit(scaled)
    np.testing.assert_allclose(one.lr_law.exponents, other.lr_law.exponents, atol=1e-7)
    np.testing.assert_allclose(one.lr_law.draws, other.lr_law.draws, atol=1e-6)


def test_without_any_noise_measure_the_scatter_about_the_law_gives_the_interval():
    frame = study(batches=1)
    rng = np.random.default_rng(0)
    scatter = {pair: np.exp(0.05 * rng.standard_normal()) for pair in PAIRS}
    pairs = zip(frame["n_params"], frame["tokens"], strict=True)
    frame["lr"] *= [scatter[pair] for pair in pairs]
    # Three learning rates each: the lowest and its neighbours.
    kept = [rows.sort_values("loss").head(3) for _, rows in frame.groupby(["n_params", "tokens"])]
    found = fit(pd.concat(kept), resamples=1000)
    assert np.isnan(found.survey.noise)
    low, high = found.lr_law.interval("n_params")
    assert low < P < high
    assert high - low > 0.02
