"""The full study takes an hour; its parts are here, and a few designs among the slow tests."""

import json

import numpy as np
import pytest

import coverage_study as study


def named(name):
    return next(design for design in study.DESIGNS if design.name == name)


def test_the_true_exponent_is_that_of_the_best_sizes():
    for surface in (study.SMALL, study.LARGE):
        for flops in (1e12, 1e15):
            best = surface.best_size(flops)
            around = best * np.array([0.99, 1.0, 1.01])
            losses = surface.loss(around, flops / (6 * around))
            assert losses.argmin() == 1
        slope = np.log(surface.best_size(1e15) / surface.best_size(1e12)) / np.log(1e3)
        assert slope == pytest.approx(surface.a)


def test_a_design_has_its_budgets_sizes_and_seeds():
    table = study.simulate(named("5 x 7, 3 seeds"), 0.01, np.random.default_rng(0))
    assert len(table) == 5 * 7 * 3
    assert (table.groupby(["flops", "n_params"]).size() == 3).all()
    assert table["run_id"].is_unique
    assert np.allclose(6 * table["n_params"] * table["tokens"], table["flops"])


@pytest.mark.parametrize("name", ["5 x 7", "5 x 7, heavy tails", "5 x 7, checkpoints"])
def test_noise_has_the_sd_it_is_said_to_have(name):
    design, residuals = named(name), []
    for seed in range(40):
        table = study.simulate(design, 0.01, np.random.default_rng(seed))
        clean = design.surface.loss(table["n_params"], table["tokens"])
        residuals.append(np.log(table["loss"] / clean))
    assert np.concatenate(residuals).std() == pytest.approx(0.01, rel=0.15)


def test_checkpoints_of_one_run_share_their_luck():
    design = named("5 x 7, checkpoints")
    table = study.simulate(design, 0.01, np.random.default_rng(0))
    assert table["run_id"].nunique() < len(table) / 2
    assert (table.groupby("run_id")["n_params"].nunique() == 1).all()


def test_a_study_that_no_approach_can_read_is_counted_as_refused():
    row = study.measure(named("4 budgets x 5 sizes"), 3.0, "valleys, cubic", 3, 200, 0)
    assert row.refused == 3
    assert np.isnan(row.coverage)
    assert "| 3 of 3 |" in study.table_of([row])


def test_the_study_prints_writes_and_draws(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(study, "DESIGNS", study.DESIGNS[1:2])
    keep = ("valleys, cubic", "surface, MSE")
    monkeypatch.setattr(study, "APPROACHES", {name: study.APPROACHES[name] for name in keep})
    file = tmp_path / "rows.json"
    study.main(["--quick", "--noise", "0.01", "--json", str(file), "--figure", str(tmp_path)])
    rows = json.loads(file.read_text())
    assert [row["approach"] for row in rows] == list(keep)
    assert all(row["coverage"] > 70 for row in rows)
    assert (tmp_path / "coverage.png").stat().st_size > 10_000
    assert "5 x 7 | 0.01 | valleys, cubic" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("name", ["4 budgets x 5 sizes", "5 x 7", "5 x 7, 3 seeds"])
@pytest.mark.parametrize("approach", ["valleys, cubic", "valleys, parabola"])
def test_intervals_of_valleys_contain_the_truth_as_often_as_they_say(name, approach):
    """92 to 98 %, give or take two standard errors of 300 replicates at the nearer end."""
    row = study.measure(named(name), 0.01, approach, 300, 500, seed=1)
    slack_low = 200 * np.sqrt(0.92 * 0.08 / (300 - row.refused))
    slack_high = 200 * np.sqrt(0.98 * 0.02 / (300 - row.refused))
    assert 92 - slack_low <= row.coverage <= 98 + slack_high
