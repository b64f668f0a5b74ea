import numpy as np
import pytest

from analysis.parametric import surface
from analysis.parametric.surface import Points


@pytest.fixture
def points():
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=12), rng.normal(size=12)
    return Points(x, y, 1.0 + 0.1 * rng.normal(size=12))


THETA = np.array([[0.3, -0.4, -0.2, 0.35, 0.45], [0.1, -1.0, 0.2, 0.6, 0.2]])


@pytest.mark.parametrize("phi", [surface.huber(0.05), surface.squares_in_nats])
def test_gradient_and_hessian_match_central_differences(points, phi):
    weights = np.arange(1.0, 13.0)[None]
    local = surface.expand(THETA, points, weights, phi)
    step = 1e-6
    for k in range(5):
        shift = step * np.eye(5)[k]
        up = surface.expand(THETA + shift, points, weights, phi)
        down = surface.expand(THETA - shift, points, weights, phi)
        slope = (up.value - down.value) / (2 * step)
        assert np.allclose(local.gradient[:, k], slope, rtol=1e-6, atol=1e-7)
        bend = (up.gradient - down.gradient) / (2 * step)
        assert np.allclose(local.hessian[:, k], bend, rtol=1e-5, atol=1e-6)


def test_huber_is_a_square_inside_delta_and_linear_outside():
    cost, slope, curve = surface.huber(0.1)(np.array([0.05, 0.3, -0.3]), np.zeros(3))
    assert cost == pytest.approx([0.00125, 0.025, 0.025])
    assert slope == pytest.approx([0.05, 0.1, -0.1])
    assert curve.tolist() == [1.0, 0.0, 0.0]
