import numpy as np
import pandas as pd
import pytest
from study_folders import TRUTH, optimal_n, surface

from analysis.config import parse_options
from analysis.scrutiny.by_convention import PLANNED, SURFACE, VALLEYS, exponents_by_convention

A = TRUTH["beta"] / (TRUTH["alpha"] + TRUTH["beta"])
BUDGETS = np.geomspace(1e17, 1e21, 9)


def without_head(n):
    return n - 30 * n**0.7


def grid():
    """Noise-free runs on common sizes at every budget of C = 6 N D with the head."""
    sizes = np.geomspace(optimal_n(BUDGETS[0]) / 6, optimal_n(BUDGETS[-1]) * 6, 24)
    n, flops = (m.ravel() for m in np.meshgrid(sizes, BUDGETS))
    d = flops / (6 * n)
    return pd.DataFrame(
        {
            "n_params": n,
            "tokens": d,
            "flops": flops,
            "loss": surface(n, d),
            "n_params_non_embedding": without_head(n),
            "run_id": [f"r{k}" for k in range(len(n))],
        }
    )


@pytest.fixture(scope="module")
def rows():
    options = parse_options(["table=t.csv", "bootstrap=200"])
    return {(row.convention, row.approach): row for row in exponents_by_convention(grid(), options)}


def true_exponent():
    """Regress the best N without the head on C = 6 N D without the head, found by brute force."""
    sizes = np.geomspace(1e6, 3e11, 200_001)
    counted = without_head(sizes)
    flops = np.geomspace(1e18, 1e20, 9)
    best = [counted[np.argmin(surface(sizes, c / (6 * counted)))] for c in flops]
    return float(np.polyfit(np.log(flops), np.log(best), 1)[0])


def test_the_planned_counting_returns_the_exponent_of_the_surface(rows):
    assert rows["standard", VALLEYS].a == pytest.approx(A, abs=2e-3)
    assert rows["standard", SURFACE].a == pytest.approx(A, abs=1e-6)


def test_another_counting_returns_the_optimum_in_that_counting(rows):
    row = rows["kaplan", VALLEYS]
    assert row.a == pytest.approx(true_exponent(), abs=0.01)
    assert row.a > A + 0.01  # leaving the head out moves the exponent up
    assert row.interval[0] <= row.a <= row.interval[1]


def test_planned_budgets_with_another_counting_of_n_are_a_row_of_their_own(rows):
    flops = np.geomspace(1e18, 1e20, 9)
    truth = np.polyfit(np.log(flops), np.log(without_head(optimal_n(flops))), 1)[0]
    assert rows["kaplan", PLANNED].a == pytest.approx(truth, abs=0.01)
    assert ("standard", PLANNED) not in rows


def test_a_convention_without_its_column_names_the_column(rows):
    row = rows["total", "all"]
    assert "n_params_total" in row.refused
    assert np.isnan(row.a)


def test_runs_without_budgets_have_a_surface_and_refused_valleys():
    rng = np.random.default_rng(0)
    n, d = np.exp(rng.uniform(np.log(1e7), np.log(1e10), (2, 80)))
    frame = pd.DataFrame({"n_params": n, "tokens": 30 * d, "run_id": np.arange(80).astype(str)})
    frame["flops"] = 6 * frame["n_params"] * frame["tokens"]
    frame["loss"] = surface(n, frame["tokens"].to_numpy())
    options = parse_options(["table=t.csv", "bootstrap=200"])
    found = {row.approach: row for row in exponents_by_convention(frame, options)[:2]}
    assert "valleys need budgets" in found[VALLEYS].refused
    assert found[SURFACE].a == pytest.approx(A, abs=1e-6)
