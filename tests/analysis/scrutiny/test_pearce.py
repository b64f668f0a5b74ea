import numpy as np
import pytest
from study_folders import TRUTH, isoflop_table

from analysis.errors import RefusedError
from analysis.parametric.fit import fit_surface
from analysis.scrutiny.pearce import (
    KAPLAN_SIZES,
    PEARCE,
    Counting,
    Embedding,
    Powers,
    fit_embedding,
    frontier_by_counting,
    powers_of,
    simulate_exponent,
)

EPOCH = Powers(float(np.log(482.01)), float(np.log(2085.43)), 0.3478, 0.3658)
HOFFMANN = Powers(float(np.log(406.4)), float(np.log(410.7)), 0.3392, 0.2849)


@pytest.mark.parametrize(
    ("surface", "counting", "a"),
    [
        (EPOCH, Counting.non_embedding, 0.7805),
        (HOFFMANN, Counting.non_embedding, 0.7388),
        (EPOCH, Counting.total, 0.5154),
        (HOFFMANN, Counting.total, 0.4577),
    ],
)
def test_the_published_grid_returns_the_published_exponents(surface, counting, a):
    assert simulate_exponent(surface, PEARCE, counting) == pytest.approx(a, abs=5e-5)


@pytest.mark.parametrize("surface_counts", list(Counting))
@pytest.mark.parametrize("counting", list(Counting))
def test_the_closed_form_is_the_minimum_found_by_search(surface_counts, counting):
    curve = frontier_by_counting(
        EPOCH, PEARCE, surface_counts=surface_counts, counting=counting, points=50
    )
    n_e = np.geomspace(100, 1e11, 400_001)
    counted = {Counting.non_embedding: n_e, Counting.total: PEARCE.total(n_e)}
    for k in (5, 25, 45):
        tokens = curve.flops[k] / (6 * counted[counting])
        by_n = np.exp(EPOCH.log_a) / counted[surface_counts] ** EPOCH.p
        loss = by_n + np.exp(EPOCH.log_b) / tokens**EPOCH.q
        best = counted[counting][np.argmin(loss)]
        assert best == pytest.approx(curve.n_opt[k], rel=2e-4)


@pytest.mark.parametrize("counting", list(Counting))
def test_the_local_exponent_is_the_derivative_of_the_curve(counting):
    curve = frontier_by_counting(
        EPOCH, PEARCE, surface_counts=Counting.total, counting=counting, points=20_001
    )
    slope = np.gradient(np.log(curve.n_opt), np.log(curve.flops), edge_order=2)
    np.testing.assert_allclose(slope, curve.a, rtol=1e-6)


def test_without_the_embedding_the_exponent_falls_towards_the_surface_own():
    curve = frontier_by_counting(
        EPOCH,
        PEARCE,
        surface_counts=Counting.total,
        counting=Counting.non_embedding,
        sizes=(1.0, 1e18),
    )
    own, small = EPOCH.q / (EPOCH.p + EPOCH.q), EPOCH.q / (EPOCH.p / 3 + EPOCH.q)
    assert (np.diff(curve.flops) > 0).all()
    assert curve.a[-1] == pytest.approx(own, abs=1e-3)
    assert curve.a[0] == pytest.approx(small, abs=1e-3)
    assert curve.a[0] > 0.75


def test_over_the_sizes_of_kaplan_the_chord_is_far_above_the_surface_own():
    curves = [
        frontier_by_counting(surface, PEARCE, surface_counts=Counting.total, counting=counting)
        for surface in (EPOCH, HOFFMANN)
        for counting in (Counting.non_embedding, Counting.total)
    ]
    chords = [curve.chord for curve in curves]
    # the grid's numbers differ by up to .02: it takes the best of 20 sizes, evenly spaced in C
    assert chords[0] == pytest.approx(0.7945, abs=2e-3)
    assert chords[2] == pytest.approx(0.7590, abs=2e-3)
    # minimising over a size's own total count does not depend on how sizes are labelled
    assert chords[1] == pytest.approx(EPOCH.q / (EPOCH.p + EPOCH.q), abs=1e-12)
    assert chords[3] == pytest.approx(HOFFMANN.q / (HOFFMANN.p + HOFFMANN.q), abs=1e-12)
    assert KAPLAN_SIZES == (768.0, 1.5e9)


def test_a_fitted_surface_gives_its_own_exponent_in_its_own_counting():
    table = isoflop_table()
    fit = fit_surface(*(table[name].to_numpy(float) for name in ("n_params", "tokens", "loss")))
    own = TRUTH["beta"] / (TRUTH["alpha"] + TRUTH["beta"])
    curve = frontier_by_counting(
        powers_of(fit), PEARCE, surface_counts=Counting.total, counting=Counting.total
    )
    np.testing.assert_allclose(curve.a, own, rtol=1e-6)


def test_a_relation_between_countings_is_recovered_from_a_ladder():
    width = np.array([256, 384, 512, 768, 1024, 2048])
    blocks = 12 * (width / 64) * width**2
    found = fit_embedding(np.tile(blocks, 3), np.tile(blocks + 50_304 * width, 3))
    assert found.power == pytest.approx(1 / 3, abs=1e-12)
    assert found.omega == pytest.approx(50_304 * (64 / 12) ** (1 / 3), rel=1e-9)
    assert found.scatter < 1e-12


def test_a_ladder_of_changing_shape_says_how_far_its_relation_is_off():
    width = np.array([256, 384, 512, 768, 1024, 2048])
    depth = np.array([4, 4, 8, 8, 16, 16])
    blocks = 12 * depth * width**2
    found = fit_embedding(blocks.astype(float), (blocks + 50_304 * width).astype(float))
    assert 0.01 < found.scatter < 0.3


def test_countings_that_do_not_differ_are_refused():
    sizes = np.geomspace(1e6, 1e9, 6)
    with pytest.raises(RefusedError, match=r"of 1e\+06 parameters 1e\+06 .*n_params_total"):
        fit_embedding(sizes, sizes)


def test_three_sizes_do_not_make_a_relation():
    sizes = np.geomspace(1e6, 1e9, 3)
    with pytest.raises(RefusedError, match=r"3 sizes .* at least 4"):
        fit_embedding(sizes, Embedding(4e4).total(sizes))
