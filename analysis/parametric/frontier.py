"""The compute-optimal N, D and loss of fitted surfaces, for every form and any cost of a run.

Every form of the surface is a case of L = E + (A / N**p + B / D**q)**k, and every convention's C
is close to a case of C = c N**m D, so that one closed form serves them all. Many surfaces at once
(a fit's draws) are one call.
Shapes: S surfaces, P points.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from analysis.bootstrap import Interval
from analysis.config import Form

if TYPE_CHECKING:  # a prediction needs no solver
    from analysis.parametric.result import ParametricFit, SurfaceFit

Floats = NDArray[np.float64]
Exponents = TypeVar("Exponents", float, Floats)

TAIL = 0.025
"""Share of draws beyond each end of a 95 % interval."""


@dataclass(frozen=True)
class CostLaw:
    """C = coefficient * N**power * D, training FLOPs."""

    coefficient: float = 6.0
    power: float = 1.0

    def flops(self, n_params: Floats, tokens: Floats) -> Floats:
        """Return C."""
        return np.asarray(self.coefficient * n_params**self.power * tokens, dtype=np.float64)

    def tokens(self, flops: Floats, n_params: Floats) -> Floats:
        """Return the D that spends C on N."""
        return np.asarray(flops / (self.coefficient * n_params**self.power), dtype=np.float64)

    def exponent_from(self, a: Exponents) -> Exponents:
        """Return the exponent of N_opt at this cost, from that of the same surface at C = 6 N D."""
        return a / (1.0 + (self.power - 1.0) * a)

    @property
    def is_6nd(self) -> bool:
        """Whether C is 6 N D."""
        return self.coefficient == 6.0 and self.power == 1.0


SIX_ND = CostLaw()


@dataclass(frozen=True)
class Surfaces:
    """S surfaces L = E + (A / N**p + B / D**q)**k; all fields have shape (S,)."""

    floor: Floats
    """E, nats per token; 0 in a form without one."""
    log_a: Floats
    log_b: Floats
    p: Floats
    q: Floats
    k: Floats

    @staticmethod
    def of(form: Form, columns: Mapping[str, Floats | float]) -> "Surfaces":
        """Read the named parameters of a form.

        Args:
            form: The formula.
            columns: Each of the form's parameters, a number or shape (S,); others are ignored.

        Raises:
            KeyError: A parameter of the form is missing.

        Source:
            chinchilla: Hoffmann et al. 2022 (arXiv:2203.15556), equation 2. kaplan: Kaplan et al.
            2020 (arXiv:2001.08361), equation 1.5, ((A/N)**(alpha/beta) + B/D)**beta. skaling:
            E + A (N**-alpha + R D**-beta)**k, whose A is taken inside the power.
        """
        have = {name: np.atleast_1d(np.asarray(v, np.float64)) for name, v in columns.items()}
        alpha, beta = have["alpha"], have["beta"]
        one, zero = np.ones_like(alpha), np.zeros_like(alpha)
        with np.errstate(divide="ignore", invalid="ignore"):
            log_a = np.log(have["A"])
            if form is Form.chinchilla:
                return Surfaces(have["E"], log_a, np.log(have["B"]), alpha, beta, one)
            if form is Form.skaling:
                k = have["k"]
                inner = log_a / k
                return Surfaces(have["E"], inner, inner + np.log(have["R"]), alpha, beta, k)
            floor = have["E"] if form is Form.kaplan_e else zero
            power = alpha / beta
            return Surfaces(floor, power * log_a, np.log(have["B"]), power, one, beta)

    @staticmethod
    def of_draws(form: Form, names: Sequence[str], rows: Floats) -> "Surfaces":
        """Read draws, shape (S, names), leaving out those without a minimum or not finite."""
        all_of = Surfaces.of(form, {name: rows[:, j] for j, name in enumerate(names)})
        fields = list(vars(all_of).values())
        sane = np.all([np.isfinite(field) for field in fields], axis=0)
        sane &= (all_of.p > 0) & (all_of.q > 0) & (all_of.k > 0)
        return Surfaces(*(field[sane] for field in fields))

    def __len__(self) -> int:
        """Return S."""
        return len(self.p)

    def take(self, count: int) -> "Surfaces":
        """Return the first surfaces."""
        return Surfaces(*(field[:count] for field in vars(self).values()))

    def exponent(self, cost: CostLaw = SIX_ND) -> Floats:
        """Return a of N_opt ~ C**a: q / (p + q) where C is 6 N D."""
        return self.q / (self.p + cost.power * self.q)

    def predict(self, n_params: Floats, tokens: Floats) -> Floats:
        """Return L, shape (S, P); N and D have shape (P,) or (S, P)."""
        log_u = self.log_inner(np.log(n_params), np.log(tokens))
        return np.asarray(self.floor[:, None] + np.exp(self.k[:, None] * log_u), np.float64)

    def log_inner(self, log_n: Floats, log_d: Floats) -> Floats:
        """Return the log of A / N**p + B / D**q, by which L falls whatever E and k are."""
        by_n = self.log_a[:, None] - self.p[:, None] * log_n
        by_d = self.log_b[:, None] - self.q[:, None] * log_d
        return np.asarray(np.logaddexp(by_n, by_d), dtype=np.float64)

    def log_optimal_size(self, flops: Floats, cost: CostLaw = SIX_ND) -> Floats:
        """Return log N_opt, shape (S, P), where d/dN of A / N**p + B / D(N)**q is zero.

        Source:
            Hoffmann et al. 2022, equation 4, for m = 1: with D = C / (c N**m) the derivative
            vanishes at p A N**-p = m q B D**-q, which is linear in log N.
        """
        p, q, m = self.p[:, None], self.q[:, None], cost.power
        ratio = np.log(p / (m * q)) + self.log_a[:, None] - self.log_b[:, None]
        log_n = (ratio + q * np.log(flops / cost.coefficient)) / (p + m * q)
        return np.asarray(log_n, dtype=np.float64)

    def log_optimal_flops(self, n_params: Floats, cost: CostLaw = SIX_ND) -> Floats:
        """Return the log of the C at which N is optimal, shape (S, P)."""
        at_one = self.log_optimal_size(np.ones(1), cost)
        log_c = (np.log(n_params) - at_one) / self.exponent(cost)[:, None]
        return np.asarray(log_c, dtype=np.float64)


def surfaces_of(fit: "SurfaceFit") -> Surfaces:
    """Return the fitted surface, S = 1."""
    return Surfaces.of(fit.form, fit.values)


def optimal_size(fit: "SurfaceFit", flops: Floats) -> Floats:
    """Return N that minimises the surface at C = 6 N D."""
    return np.asarray(np.exp(surfaces_of(fit).log_optimal_size(flops)[0]), dtype=np.float64)


def optimal_band(fit: "ParametricFit", flops: Floats, what: str) -> tuple[Floats, Floats]:
    """Return the 95 % band of the surface's optimal N or D (`what`)."""
    draws = draws_of(fit)
    tail = tail_of(draws.exponent(), fit.intervals["a"])
    log_n = draws.log_optimal_size(flops)
    low, high = np.percentile(log_n, [100 * tail, 100 * (1 - tail)], axis=0)
    if what == "N":
        return np.exp(low), np.exp(high)
    return flops / (6.0 * np.exp(high)), flops / (6.0 * np.exp(low))


def at_cost(fit: "ParametricFit", cost: CostLaw) -> "ParametricFit":
    """Return the fit with its exponent a read at another cost of a run than 6 N D.

    Where C = c N**m D grows with another power of N, as with attention's FLOPs, the optimum grows
    as C**(q / (p + m q)) (Surfaces.exponent). That rises with q / (p + q), so the ends of one's
    profile are those of the other's.
    """
    column = fit.names.index("a")
    draws = fit.draws.copy()
    every = Surfaces.of(fit.form, {name: draws[:, j] for j, name in enumerate(fit.names)})
    with np.errstate(divide="ignore", invalid="ignore"):
        draws[:, column] = every.exponent(cost)
    low, high = fit.intervals["a"]
    tail = tail_of(fit.draws[:, column], (low, high))
    ends = np.nanpercentile(draws[:, column], [100 * tail, 100 * (1 - tail)])
    return replace(
        fit,
        values={**fit.values, "a": float(surfaces_of(fit).exponent(cost)[0])},
        intervals={**fit.intervals, "a": (float(ends[0]), float(ends[1]))},
        draws=draws,
        profiles={
            name: item.of(cost.exponent_from) if name == "a" else item
            for name, item in fit.profiles.items()
        },
    )


def draws_of(fit: "ParametricFit") -> Surfaces:
    """Return the bootstrap's surfaces."""
    return Surfaces.of_draws(fit.form, fit.names, fit.draws)


def tail_of(draws: Floats, interval: Interval) -> float:
    """Return the share of draws beyond each end of an interval, so that others can be read alike.

    Intervals of few runs are expanded, so their ends are not the 2.5 % points; what is derived
    from the same draws takes its ends at the same share.
    """
    low, high = interval
    share = 0.5 * float(np.mean(draws < low) + np.mean(draws > high))
    return share if 1e-4 < share < 0.2 else TAIL
