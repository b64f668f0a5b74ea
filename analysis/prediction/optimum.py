"""N, D, D/N and loss for a compute budget or for a model size, by each approach, with intervals."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.prediction.fits_file import Answer, FitsFile, LawAnswer, SurfaceAnswer
from analysis.prediction.quantity import HUGE, Quantity, quantity

Floats = NDArray[np.float64]

UNSUPPORTED_DECADES = 3.0
"""Decades beyond the measured range of C at which no data support a prediction (ours: published
laws were checked one or two decades beyond the runs they were fitted to, not further)."""

NO_LOSS = "no surface was fitted, and C is outside the measured valleys"


@dataclass(frozen=True)
class Optimum:
    """One approach's compute-optimal run."""

    approach: str
    flops: Quantity
    """The budget; for a model of given size, the C at which that size is optimal."""
    n_params: Quantity
    tokens: Quantity
    tokens_per_param: Quantity
    loss: Quantity | None
    loss_source: str
    """Where the loss is from, or why there is none."""


@dataclass(frozen=True)
class _Runs:
    """Optimal runs: of the fit, shape (1,), or of its draws, shape (draws,)."""

    flops: Floats
    n_params: Floats
    tokens: Floats


def predict_budget(fits: FitsFile, flops: float) -> list[Optimum]:
    """Return each approach's optimum at a budget."""
    return [_optimum(fits, answer, *_at_budget(fits, answer, flops)) for answer in fits.answers]


def predict_size(fits: FitsFile, n_params: float) -> list[Optimum]:
    """Return each approach's budget and tokens for which a model of this size is optimal.

    Approaches whose N does not rise with C are left out: no C makes a size optimal there.
    """
    rising = [answer for answer in fits.answers if rises(answer)]
    return [_optimum(fits, answer, *_at_size(fits, answer, n_params)) for answer in rising]


def rises(answer: Answer) -> bool:
    """Return whether N rises with C, as by every surface but not by every law."""
    return isinstance(answer, SurfaceAnswer) or answer.n_law.exponent > 0


def decades_beyond(fits: FitsFile, flops: float) -> float:
    """Return how many decades C lies above (positive) or below (negative) what was run, or 0."""
    if fits.flops_range is None:
        return 0.0
    low, high = fits.flops_range
    return float(max(0.0, np.log10(flops / high)) - max(0.0, np.log10(low / flops)))


def _at_budget(fits: FitsFile, answer: Answer, flops: float) -> tuple[_Runs, _Runs | None]:
    at = np.array([flops])
    if isinstance(answer, SurfaceAnswer):
        sizes = [
            np.exp(surfaces.log_optimal_size(at, fits.cost)[:, 0])
            for surfaces in (answer.surface, answer.draws)
            if surfaces is not None
        ]
        runs = [_Runs(np.full_like(n, flops), n, fits.cost.tokens(at, n)) for n in sizes]
        return runs[0], runs[1] if len(runs) > 1 else None
    point = _Runs(at, answer.n_law.at(at), answer.d_law.at(at))
    drawn = answer.draws
    if drawn is None:
        return point, None
    along = np.log(flops) - drawn.log_flops
    n, d = np.exp(drawn.log_n + drawn.a * along), np.exp(drawn.log_d + drawn.b * along)
    return point, _Runs(np.full_like(n, flops), n, d)


def _at_size(fits: FitsFile, answer: Answer, n_params: float) -> tuple[_Runs, _Runs | None]:
    size = np.array([n_params])
    if isinstance(answer, SurfaceAnswer):
        budgets = [
            _exp(surfaces.log_optimal_flops(size, fits.cost)[:, 0])
            for surfaces in (answer.surface, answer.draws)
            if surfaces is not None
        ]
        runs = [_Runs(c, np.full_like(c, n_params), fits.cost.tokens(c, size)) for c in budgets]
        return runs[0], runs[1] if len(runs) > 1 else None
    law = answer.n_law
    flops = _exp(law.log_pivot + (np.log(size) - law.log_center) / law.exponent)
    point = _Runs(flops, size, answer.d_law.at(flops))
    drawn = answer.draws
    if drawn is None:
        return point, None
    rising = drawn.a > 0  # where N does not rise with C, no C makes this size optimal
    slope = np.where(rising, drawn.a, 1.0)
    along = np.where(rising, (np.log(n_params) - drawn.log_n) / slope, np.inf)
    log_d = np.where(rising, drawn.log_d + drawn.b * np.where(rising, along, 0.0), np.inf)
    flops, tokens = _exp(along + drawn.log_flops), _exp(log_d)
    return point, _Runs(flops, np.full_like(tokens, n_params), tokens)


def _exp(log: Floats) -> Floats:
    """Return exp, at most HUGE."""
    return np.exp(np.minimum(log, np.log(HUGE)))


def _optimum(fits: FitsFile, answer: Answer, point: _Runs, drawn: _Runs | None) -> Optimum:
    tail = _tail(answer)
    loss, source = _loss(fits, answer, point, drawn)

    def of(name: str) -> Quantity:
        draws = getattr(drawn, name) if drawn else None
        return quantity(getattr(point, name)[0], draws, tail)

    return Optimum(
        approach=answer.approach,
        flops=of("flops"),
        n_params=of("n_params"),
        tokens=of("tokens"),
        tokens_per_param=quantity(
            float(point.tokens[0] / point.n_params[0]),
            drawn.tokens / drawn.n_params if drawn else None,
            tail,
        ),
        loss=loss,
        loss_source=source,
    )


def _tail(answer: Answer) -> float:
    if isinstance(answer, SurfaceAnswer):
        return answer.tail
    return answer.draws.tail if answer.draws else 0.0


def _loss(
    fits: FitsFile, answer: Answer, point: _Runs, drawn: _Runs | None
) -> tuple[Quantity | None, str]:
    """Return the surface's loss of a run, or between measured valleys theirs."""
    by = fits.surface
    if by is not None:
        value = float(by.surface.predict(point.n_params, point.tokens)[0, 0])
        draws = None
        if drawn is not None and by.draws is not None:
            # A law's draws and the surface's are paired in order, as if independent: near the
            # optimum the loss hardly depends on N, so that the pairing does not matter.
            count = min(len(drawn.flops), len(by.draws))
            n, d = drawn.n_params[:count, None], drawn.tokens[:count, None]
            draws = by.draws.take(count).predict(n, d)[:, 0]
        own = isinstance(answer, SurfaceAnswer)
        return quantity(value, draws, by.tail), "" if own else "by the surface, at this N and D"
    floors = answer.floors if isinstance(answer, LawAnswer) else np.empty((0, 2))
    flops = float(point.flops[0])
    if len(floors) == 0 or not floors[0, 0] <= flops <= floors[-1, 0]:
        return None, NO_LOSS
    log_loss = np.interp(np.log(flops), *np.log(floors.T))
    return Quantity(float(np.exp(log_loss)), None), "between the measured valleys"
