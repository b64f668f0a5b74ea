"""What it costs to train a model of another size than the optimal one, on fitted surfaces.

The overhead is the training compute spent over the compute that the optimum needs for the same
loss. On a surface L = E + u**k with u = A / N**p + B / D**q it does not depend on E or k, because
equal losses are equal u.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.parametric.frontier import SIX_ND, CostLaw, Surfaces
from analysis.prediction.fits_file import FitsFile, SurfaceAnswer
from analysis.prediction.quantity import Quantity, quantity

Floats = NDArray[np.float64]

MULTIPLES = (1.0, 2.0, 5.0, 20.0)
"""Training tokens over the optimal ones, for a model of given size."""


@dataclass(frozen=True)
class SizeRule:
    """N chosen by another exponent: N_opt(pivot) * (C / pivot)**exponent."""

    exponent: float
    pivot: float
    """C at which the rule and the surface choose the same N."""
    label: str = ""


@dataclass(frozen=True)
class WrongSize:
    """What choosing N by a rule comes to at one budget."""

    rule: SizeRule
    n_params: Quantity
    ratio: Quantity
    """Its N over the optimal N."""
    overhead: Quantity
    """Compute spent over the compute that the optimum needs for the same loss."""


@dataclass(frozen=True)
class Overtrained:
    """A model of given size trained on a multiple of its optimal tokens."""

    multiple: float
    tokens: float
    flops: float
    loss: Quantity
    fall: Quantity
    """Nats below the loss at the optimal tokens."""
    overhead: Quantity


def overhead(
    surfaces: Surfaces, n_params: Floats, tokens: Floats, cost: CostLaw = SIX_ND
) -> Floats:
    """Return C(N, D) / C' with L*(C') = L(N, D), at least 1, shape (S, P).

    Args:
        surfaces: S fitted surfaces.
        n_params: Shape (P,) or (S, P).
        tokens: The same.
        cost: How C counts.

    Source:
        Ours, by derivation: on the frontier N ~ C**(q / (p + m q)), so u falls as C**-s with
        s = p q / (p + m q), and u(N, D) = u*(C') gives C / C' = (u(N, D) / u*(C))**(1 / s).
    """
    flops = cost.flops(n_params, tokens)
    best = surfaces.log_optimal_size(flops, cost)
    log_u = surfaces.log_inner(np.log(n_params), np.log(tokens))
    least = surfaces.log_inner(best, np.log(cost.tokens(flops, np.exp(best))))
    p, q = surfaces.p[:, None], surfaces.q[:, None]
    slope = p * q / (p + cost.power * q)
    return np.asarray(np.exp((log_u - least) / slope), dtype=np.float64)


def sizes_by_rule(
    surfaces: Surfaces, flops: Floats, rule: SizeRule, cost: CostLaw = SIX_ND
) -> Floats:
    """Return the N that a rule chooses, shape (S, P)."""
    at_pivot = surfaces.log_optimal_size(np.array([rule.pivot]), cost)
    return np.asarray(np.exp(at_pivot + rule.exponent * np.log(flops / rule.pivot)), np.float64)


def pivot_of(fits: FitsFile) -> float | None:
    """Return the middle of the measured range of C, where any sensible rule fits the runs."""
    return None if fits.flops_range is None else float(np.exp(np.log(fits.flops_range).mean()))


def wrong_size(fits: FitsFile, by: SurfaceAnswer, flops: float, rule: SizeRule) -> WrongSize:
    """Return what a rule of size costs at a budget."""
    at = np.array([flops])

    def chosen(surfaces: Surfaces) -> Floats:
        return sizes_by_rule(surfaces, at, rule, fits.cost)

    def ratio(surfaces: Surfaces) -> Floats:
        return chosen(surfaces) / np.exp(surfaces.log_optimal_size(at, fits.cost))

    def excess(surfaces: Surfaces) -> Floats:
        sizes = chosen(surfaces)
        return overhead(surfaces, sizes, fits.cost.tokens(at, sizes), fits.cost)

    return WrongSize(rule, _over(by, chosen), _over(by, ratio), _over(by, excess))


def overtrain(fits: FitsFile, by: SurfaceAnswer, n_params: float) -> list[Overtrained]:
    """Return how loss and compute change as a model is trained beyond its optimal tokens."""
    size = np.array([n_params])
    best = np.exp(by.surface.log_optimal_flops(size, fits.cost)[0])
    tokens = fits.cost.tokens(best, size)
    return [_overtrained(fits, by, size, tokens, multiple) for multiple in MULTIPLES]


def _overtrained(
    fits: FitsFile, by: SurfaceAnswer, size: Floats, tokens: Floats, multiple: float
) -> Overtrained:
    more = multiple * tokens

    def loss(surfaces: Surfaces) -> Floats:
        return surfaces.predict(size, more)

    def fall(surfaces: Surfaces) -> Floats:
        return surfaces.predict(size, tokens) - surfaces.predict(size, more)

    def excess(surfaces: Surfaces) -> Floats:
        return overhead(surfaces, size, more, fits.cost)

    return Overtrained(
        multiple,
        float(more[0]),
        float(fits.cost.flops(size, more)[0]),
        _over(by, loss),
        _over(by, fall),
        _over(by, excess),
    )


def _over(by: SurfaceAnswer, value: Callable[[Surfaces], Floats]) -> Quantity:
    """Evaluate on the fit and on its draws."""
    draws = value(by.draws)[:, 0] if by.draws is not None else None
    return quantity(float(value(by.surface)[0, 0]), draws, by.tail)
