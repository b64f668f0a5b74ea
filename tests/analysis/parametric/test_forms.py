import numpy as np
import pytest

from analysis.config import Form
from analysis.parametric import surface
from analysis.parametric.forms import FORMULAS
from analysis.parametric.surface import Points

CENTERS = (18.0, 22.0, 1.0)
STEP = 1e-6


@pytest.fixture
def points():
    rng = np.random.default_rng(3)
    return Points(rng.normal(size=12), rng.normal(size=12), 0.1 * rng.normal(size=12))


def thetas(form):
    full = {"e": -0.4, "a": -1.0, "b": -1.2, "alpha": 0.35, "beta": 0.45, "k": 0.8}
    names = {
        Form.chinchilla: "e a b alpha beta",
        Form.kaplan: "a b alpha beta",
        Form.kaplan_e: "e a b alpha beta",
        Form.skaling: "e a b alpha beta k",
    }[form].split()
    first = np.array([full[name] for name in names])
    return np.stack([first, 1.2 * first + 0.1])


@pytest.mark.parametrize("form", list(Form))
@pytest.mark.parametrize("phi", [surface.huber(0.05), surface.squares_in_nats])
def test_gradient_and_hessian_match_central_differences(points, form, phi):
    formula, weights = FORMULAS[form], np.arange(1.0, 13.0)[None]
    theta = thetas(form)
    local = formula.expand(theta, points, weights, phi)
    for k in range(theta.shape[1]):
        shift = STEP * np.eye(theta.shape[1])[k]
        up = formula.expand(theta + shift, points, weights, phi)
        down = formula.expand(theta - shift, points, weights, phi)
        slope = (up.value - down.value) / (2 * STEP)
        assert np.allclose(local.gradient[:, k], slope, rtol=1e-6, atol=1e-7)
        bend = (up.gradient - down.gradient) / (2 * STEP)
        assert np.allclose(local.hessian[:, k], bend, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("form", list(Form))
def test_the_published_parameters_give_the_predicted_loss(form):
    formula, theta = FORMULAS[form], thetas(form)[:1]
    v = dict(zip(formula.names, formula.named(theta, CENTERS)[0], strict=True))
    n, d = 3e7, 5e9
    by_hand = {
        Form.chinchilla: lambda: v["E"] + v["A"] / n ** v["alpha"] + v["B"] / d ** v["beta"],
        Form.kaplan: lambda: joint(v, n, d),
        Form.kaplan_e: lambda: v["E"] + joint(v, n, d),
        Form.skaling: lambda: (
            v["E"] + v["A"] * (n ** -v["alpha"] + v["R"] * d ** -v["beta"]) ** v["k"]
        ),
    }[form]()
    x, y = np.log([n]) - CENTERS[0], np.log([d]) - CENTERS[1]
    predicted = np.exp(formula.log_prediction(theta, x, y)[0, 0] + CENTERS[2])
    assert predicted == pytest.approx(by_hand, rel=1e-12)


def joint(v, n, d):
    return ((v["A"] / n) ** (v["alpha"] / v["beta"]) + v["B"] / d) ** v["beta"]


@pytest.mark.parametrize("form", list(Form))
def test_a_is_the_exponent_of_the_size_that_minimises_the_loss(form):
    formula, theta = FORMULAS[form], thetas(form)[:1]
    best = []
    for log_c in (40.0, 42.0):
        x = np.linspace(-20, 20, 400_001)
        y = log_c - (x + CENTERS[0]) - CENTERS[1]
        best.append(x[np.argmin(formula.log_prediction(theta, x, y)[0])])
    a = formula.named(theta, CENTERS)[0, formula.names.index("a")]
    assert (best[1] - best[0]) / 2.0 == pytest.approx(a, abs=2e-4)
