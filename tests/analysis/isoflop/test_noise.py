import numpy as np
import pandas as pd
import pytest

from analysis.isoflop.noise import Noise, Part, measure_noise, measure_seeds


def cells(sd, seeds=4, seed=0):
    """Return 60 cells of `seeds` replicas whose log losses have the given sds."""
    rng = np.random.default_rng(seed)
    noise = sd[:, None] * rng.standard_normal((len(sd), seeds))
    squares = ((noise - noise.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)
    return pd.DataFrame(
        {
            "n_params": np.geomspace(1e6, 1e9, len(sd)),
            "loss": np.tile(np.linspace(2.0, 4.0, 6), len(sd) // 6),
            "seed_squares": squares,
            "seed_freedom": seeds - 1,
        }
    )


def part(residuals, clusters, degree=2):
    design = np.vander(np.arange(len(residuals)), degree + 1)
    annihilator = np.eye(len(residuals)) - design @ np.linalg.pinv(design)
    return Part(annihilator @ residuals, annihilator, np.ones(len(residuals)), np.asarray(clusters))


def test_without_replicas_there_is_no_seed_noise():
    assert measure_seeds(cells(np.full(60, 0.01)).assign(seed_freedom=0)) is None


def test_noise_that_is_the_same_everywhere_is_one_number():
    found = measure_seeds(cells(np.full(60, 0.01)))
    assert found is not None
    assert found.by == ""
    assert found.freedom == 180
    assert found.sd == pytest.approx(0.01, rel=0.15)
    assert found.at(np.array([1e6, 1e9]), np.array([2.0, 3.0])) == pytest.approx([found.sd] * 2)


def test_noise_that_grows_with_the_loss_is_found():
    loss = cells(np.full(60, 0.01))["loss"].to_numpy()
    found = measure_seeds(cells(0.01 * (loss / 3.0) ** 3))
    assert found is not None
    assert found.by == "loss"
    assert found.slope == pytest.approx(3.0, abs=0.7)
    assert found.at(np.array([1e7]), np.array([3.0]))[0] == pytest.approx(0.01, rel=0.15)


def test_noise_that_falls_with_size_is_found_and_not_extrapolated():
    sizes = np.geomspace(1e6, 1e9, 60)
    found = measure_seeds(cells(0.01 * (sizes / 1e7) ** -0.3))
    assert found is not None
    assert found.by == "size"
    assert found.slope == pytest.approx(-0.3, abs=0.06)
    ends = found.at(np.array([1e3, 1e6, 1e9, 1e12]), np.full(4, 3.0))
    assert ends[0] == ends[1]
    assert ends[2] == ends[3]


def test_a_trend_is_not_looked_for_in_few_replicas():
    sizes = np.geomspace(1e6, 1e9, 60)
    few = cells(0.01 * (sizes / 1e7) ** -0.5, seeds=2).iloc[::6]
    assert measure_seeds(few).by == ""


def test_constant_noise_seldom_shows_a_trend():
    shown = [measure_seeds(cells(np.full(60, 0.01), seed=k)).by for k in range(200)]
    assert sum(map(bool, shown)) <= 10  # 1 % each for loss and size


def test_residuals_are_pooled_over_budgets():
    rng = np.random.default_rng(0)
    parts = [part(0.01 * rng.standard_normal(7), 10 * k + np.arange(7)) for k in range(60)]
    noise = measure_noise(parts, None)
    assert noise.sd == pytest.approx(0.01, rel=0.1)
    assert noise.freedom == pytest.approx(240)
    assert noise.shared == 0.0
    assert noise.own == {}


def test_a_budget_that_scatters_more_keeps_its_own_noise():
    rng = np.random.default_rng(1)
    parts = [part(0.01 * rng.standard_normal(7), 10 * k + np.arange(7)) for k in range(5)]
    parts[2] = part(0.3 * rng.standard_normal(7), 20 + np.arange(7))
    noise = measure_noise(parts, None)
    assert set(noise.own) == {2}
    assert noise.of(2) > 10 * noise.of(1)
    assert noise.sd == pytest.approx(0.01, rel=0.4)


@pytest.mark.parametrize("truth", [0.0, 0.5, 1.0])
def test_the_correlation_within_runs_is_recovered(truth):
    rng = np.random.default_rng(2)
    found = []
    for _ in range(100):
        luck = rng.standard_normal(12)
        parts = []
        for k in range(6):
            own = rng.standard_normal(7)
            noise = np.sqrt(truth) * luck[k : k + 7] + np.sqrt(1 - truth) * own
            parts.append(part(0.01 * noise, k + np.arange(7)))
        found.append(measure_noise(parts, None).shared)
    # Clipping to 0..1 moves the mean at the ends.
    assert np.mean(found) == pytest.approx(truth, abs=0.15)


def test_shared_noise_is_drawn_together():
    parts = [part(np.ones(5), np.arange(5)), part(np.ones(5), 2 + np.arange(5))]
    noise = Noise(0.01, 1e9, "", {}, 0.8, None)
    one, other = noise.draw(parts, 20_000, seed=0)
    assert np.corrcoef(one[:, 3], other[:, 1])[0, 1] == pytest.approx(0.8, abs=0.02)
    assert abs(np.corrcoef(one[:, 0], other[:, 1])[0, 1]) < 0.03
    assert one.std() == pytest.approx(0.01, rel=0.02)


def test_few_degrees_of_freedom_make_students_noise():
    parts = [part(np.ones(5), np.arange(5))]
    draws = next(iter(Noise(1.0, 4.0, "", {}, 0.0, None).draw(parts, 40_000, seed=0)))
    # t(.975, 4) = 2.776
    assert np.percentile(draws[:, 0], 97.5) == pytest.approx(2.776, rel=0.05)
