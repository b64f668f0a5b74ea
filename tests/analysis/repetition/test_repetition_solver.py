"""The repetition objective's derivatives, and where descents end."""

import numpy as np
import pytest
from repeated import SURFACE, repeated_table

from analysis.repetition import effective
from analysis.repetition.solver import Task, descend, expand, leaving, objective

TRUTH = {**SURFACE, "R_D": 15.0, "R_N": 5.0}


def points_of(noise=0.0, **words):
    runs = repeated_table(noise=noise, **words)
    columns = (runs[name].to_numpy() for name in ("n_params", "tokens", "unique_tokens", "loss"))
    points, centers = effective.make_points(*columns)
    return points, effective.to_q(TRUTH, centers)


def test_gradient_and_hessian_are_those_of_the_objective():
    points, q = points_of(noise=0.01)
    once, delta = np.ones((1, len(points.x))), 1.0
    local = expand(q[None], points, once, delta)
    for k in range(7):
        step = np.eye(7)[k] * 1e-5
        ahead, behind = (expand((q + s)[None], points, once, delta) for s in (step, -step))
        rise = (ahead.value - behind.value) / 2e-5
        assert local.gradient[0, k] == pytest.approx(rise[0], rel=1e-6, abs=1e-10)
        bend = (ahead.gradient - behind.gradient)[0] / 2e-5
        assert local.hessian[0, k] == pytest.approx(bend, rel=1e-5, abs=1e-8)
    assert objective(q[None], Task(points, delta)) == pytest.approx(local.value, rel=1e-14)


def test_weights_count_runs():
    points, q = points_of(noise=0.01)
    twice = expand(q[None], points, np.full((1, len(points.x)), 2.0), 1e-3)
    once = expand(q[None], points, np.ones((1, len(points.x))), 1e-3)
    assert twice.value == pytest.approx(2 * once.value)
    assert twice.gradient == pytest.approx(2 * once.gradient)


def test_far_starts_reach_the_truth():
    points, q = points_of()
    starts = q + np.array([[0.3, -1, 1, 0.2, -0.1, 2, -2], [-0.5, 1, 0, -0.1, 0.2, -2, 3]])
    ends = descend(starts, Task(points, 1e-3))
    assert ends.converged.all()
    assert ends.q == pytest.approx(np.stack([q, q]), abs=1e-8)


def test_held_columns_keep_their_values_and_the_rest_is_refitted():
    points, q = points_of(noise=0.003)
    start = q.copy()
    start[5] = np.log(3.0)
    task = Task(points, 1e-3)
    end = descend(start[None], Task(points, 1e-3, held=(5,)))
    assert end.q[0, 5] == start[5]
    assert end.value[0] < objective(start[None], task)[0]
    assert end.value[0] > descend(start[None], task).value[0]


def test_r_without_end_stops_at_the_side_of_its_box():
    points, q = points_of(r_d=1e9)
    start = q.copy()
    start[5] = np.log(10.0)
    end = descend(start[None], Task(points, 1e-3))
    assert end.converged.all()
    assert end.q[0, 5] > np.log(1e5)
    assert leaving(effective.HIGH[None], -np.ones((1, 7))).tolist() == [[True] * 7]


def test_batches_change_nothing(monkeypatch):
    points, q = points_of(noise=0.003)
    starts = np.repeat(q[None], 5, axis=0)
    counts = np.random.default_rng(0).integers(0, 3, (5, len(points.x))).astype(float)
    whole = descend(starts, Task(points, 1e-3), counts)
    monkeypatch.setattr("analysis.repetition.solver.ELEMENTS", 2 * len(points.x))
    parts = descend(starts, Task(points, 1e-3), counts)
    assert parts.value == pytest.approx(whole.value, rel=1e-9)
    assert objective(starts, Task(points, 1e-3)).shape == (5,)
