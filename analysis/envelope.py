"""Approach 1: the envelope of training curves, and the power laws along it.

The lower convex hull of log loss over log FLOPs touches each size's curve over a stretch; the
middle of the stretch is where that size is the best. Not every stretch is an optimum: at the ends
of the hull no smaller or no larger size competes, and a run may end while it is still the best.
Such stretches are left out, in every resample anew. Sizes are discrete, so a run at the middle of
its stretch is only near its own optimum; intervals contain that because resampling takes sizes away.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.bootstrap import percentile_interval, resample_counts
from analysis.curves import FINALS, Curve
from analysis.errors import RefusedError
from analysis.hull import Ranking, rank_runs, touched
from analysis.powerlaw import Law, PowerLaw, fit_power_law

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MIN_POINTS = 5
MIN_SIZES = 3
MIN_RANGE = 10.0
"""Stretches, sizes and factor in C that a law needs."""

MIN_DRAWN = 3
"""Stretches that a resample needs."""

STEADY = 0.5
"""Share of resamples that must have a law."""

SAME_SIZE = 1e-3
"""Relative; sizes that differ by less are one."""

SAME_FLOPS = 0.02
"""Natural log; compute that differs by less is the same, as between the runs of a budget."""

WORK = 150_000_000
"""Resamples x runs at most: with more runs there are fewer resamples, and a note."""

HELD_LR = ("constant", "const")
"""Schedules under which the loss on the way is that of a run which ends there."""

USED, NO_SMALLER, NO_LARGER, BEGAN, ENDED = range(5)

WHY = {
    NO_SMALLER: "no smaller size was still in training where it becomes the best",
    NO_LARGER: "no larger size was in training where it is the best",
    BEGAN: "its curve begins on the envelope",
    ENDED: "it ended while it was the best, and every smaller size had ended",
}


@dataclass(frozen=True)
class EnvelopePoint:
    """The run that is best at one C."""

    flops: float
    n_opt: float
    d_opt: float
    loss: float
    """Nats per token on the envelope."""
    run_id: str


@dataclass(frozen=True)
class LeftOut:
    """A stretch of the hull that is not an optimum."""

    flops: float
    n_params: float
    run_id: str
    why: str


@dataclass(frozen=True)
class EnvelopeFit:
    """Exponents a and b along the envelope, and the points behind them."""

    n_law: Law
    d_law: Law
    points: tuple[EnvelopePoint, ...]
    left_out: tuple[LeftOut, ...]
    source: str
    """What the curves are: validation loss, training loss, checkpoint rows or final losses."""
    n_runs: int
    n_resamples: int
    n_failed: int
    """Resamples that left fewer than 3 stretches."""
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Design:
    """The runs by ascending size."""

    curves: list[Curve]
    ranking: Ranking
    size: Ints
    """Shape (runs,). Which size a run has, from 0."""
    log_n: Floats
    """Shape (sizes,)."""
    log_cost: Floats
    """Shape (runs,). Log FLOPs per token."""
    begin: Floats
    """Shape (runs,). Log FLOPs where the curve begins, and where it ends."""
    end: Floats


@dataclass(frozen=True)
class _Stretches:
    """Where the hulls of many subsets follow one size, in order; all of shape (stretches,)."""

    subset: Ints
    run: Ints
    log_c: Floats
    log_n: Floats
    log_d: Floats
    verdict: Ints


def fit_envelope(curves: list[Curve], *, resamples: int, seed: int) -> EnvelopeFit:
    """Fit N_opt = k C**a and D_opt = k' C**b along the envelope.

    Args:
        curves: Training curves of runs of several sizes, all of one kind, or single points.
        resamples: Draws behind the intervals; whole runs are drawn.
        seed: Seeds them.

    Raises:
        RefusedError: The hull has too few optima; the message names the runs to add.

    Source:
        Hoffmann et al. 2022 (arXiv:2203.15556), section 3.1, take the best run at each of 1500
        values of C. That the hull's stretches are read at their middles, and which are left out,
        is ours: tests/analysis/test_envelope.py has the exponents recovered.
    """
    design = _arrange(curves)
    everything = np.ones((1, len(curves)), dtype=np.bool_)
    found = _stretches(design, everything)
    used = found.verdict == USED
    points = tuple(_point(design, found, k) for k in np.flatnonzero(used))
    left_out = tuple(_left_out(design, found, k) for k in np.flatnonzero(~used))
    _refuse_few(points, left_out, curves)
    flops = np.array([p.flops for p in points])
    n_fit = fit_power_law(flops, np.array([p.n_opt for p in points]))
    d_fit = fit_power_law(flops, np.array([p.d_opt for p in points]))
    count = min(resamples, max(1, WORK // len(curves)))
    drawn = _resample(design, count, seed, n_fit.log_pivot)
    failed = int(np.isnan(drawn[0]).sum())
    if failed > (1 - STEADY) * count:
        raise RefusedError(
            f"{len(points)} sizes make the envelope, and {failed / count:.0%} of resamples of its "
            f"runs leave fewer than {MIN_DRAWN}; {_more_sizes(curves)}"
        )
    return EnvelopeFit(
        n_law=_law(n_fit, drawn[0], drawn[1]),
        d_law=_law(d_fit, drawn[2], drawn[3]),
        points=points,
        left_out=left_out,
        source=_source(curves),
        n_runs=len(curves),
        n_resamples=count,
        n_failed=failed,
        notes=_notes(curves, left_out, count, resamples, failed),
    )


def _arrange(curves: list[Curve]) -> _Design:
    curves = sorted(curves, key=lambda curve: curve.n_params)
    log_c = [np.log(curve.flops) for curve in curves]
    ranking = rank_runs(log_c, [np.log(curve.loss) for curve in curves]) if curves else None
    if ranking is None:
        raise RefusedError(
            f"the lowest loss of {len(curves)} runs is at their lowest compute, so no envelope "
            "falls; add runs of several sizes at more compute"
        )
    log_n = np.log([curve.n_params for curve in curves])
    new = np.diff(log_n, prepend=-np.inf) > SAME_SIZE
    return _Design(
        curves=curves,
        ranking=ranking,
        size=np.cumsum(new) - 1,
        log_n=log_n[new],
        log_cost=np.log([curve.flops[-1] / curve.tokens[-1] for curve in curves]),
        begin=np.array([x[0] for x in log_c]),
        end=np.array([x[-1] for x in log_c]),
    )


def _stretches(design: _Design, present: NDArray[np.bool_]) -> _Stretches:
    """Find and judge the stretches of every subset's hull."""
    run, x = touched(design.ranking, present)
    size = design.size[run]
    new = np.ones(size.shape, dtype=np.bool_)
    new[:, 1:] = size[:, 1:] != size[:, :-1]
    subset, first = np.nonzero(new)
    last = np.append(first[1:], 0) - 1
    last[np.append(np.diff(subset) != 0, True)] = size.shape[1] - 1
    low, high, at_size = x[subset, first], x[subset, last], size[subset, first]
    verdict, ended = _judge(design, present, subset, at_size, low, high)
    log_c = np.where(ended, high, 0.5 * (low + high))
    middle = run[subset, (first + last) // 2]
    return _Stretches(
        subset=subset,
        run=middle,
        log_c=log_c,
        log_n=design.log_n[at_size],
        log_d=log_c - design.log_cost[middle],
        verdict=verdict,
    )


def _judge(
    design: _Design,
    present: NDArray[np.bool_],
    subset: Ints,
    size: Ints,
    low: Floats,
    high: Floats,
) -> tuple[Ints, NDArray[np.bool_]]:
    """Return verdicts, and whether the size's last run ends with the stretch."""
    starts = np.flatnonzero(np.diff(design.size, prepend=-1))
    begin = np.minimum.reduceat(np.where(present, design.begin, np.inf), starts, axis=1)
    end = np.maximum.reduceat(np.where(present, design.end, -np.inf), starts, axis=1)
    edge = np.full((len(present), 1), np.inf)
    smaller_end = np.hstack([-edge, np.maximum.accumulate(end, axis=1)])[subset, size]
    larger_end = np.hstack([np.maximum.accumulate(end[:, ::-1], axis=1)[:, ::-1], -edge])
    larger_begin = np.hstack([np.minimum.accumulate(begin[:, ::-1], axis=1)[:, ::-1], edge])
    ended = high >= end[subset, size] - SAME_FLOPS
    began = (low <= begin[subset, size] + SAME_FLOPS) & ~ended
    tests = [
        (NO_SMALLER, smaller_end < low - SAME_FLOPS),
        (
            NO_LARGER,
            (larger_begin[subset, size + 1] > high + SAME_FLOPS)
            | (larger_end[subset, size + 1] < high - SAME_FLOPS),
        ),
        (ENDED, ended & (smaller_end < high - SAME_FLOPS)),
        (BEGAN, began),
    ]
    verdict = np.select([wrong for _, wrong in tests], [code for code, _ in tests], USED)
    return verdict.astype(np.int64), ended


def _resample(design: _Design, count: int, seed: int, pivot: float) -> Floats:
    """Return exponents and heights at the pivot of N and of D, shape (4, resamples)."""
    drawn = []
    chunk = max(1, 1_000_000 // design.ranking.run.shape[0])
    for weights in resample_counts(len(design.curves), count, seed):
        for start in range(0, len(weights), chunk):
            present = weights[start : start + chunk] > 0
            found = _stretches(design, present)
            used = found.verdict == USED
            row, x = found.subset[used], found.log_c[used] - pivot
            n_rows = len(present)
            drawn.append(
                np.vstack(
                    [
                        *_lines(row, x, found.log_n[used], n_rows),
                        *_lines(row, x, found.log_d[used], n_rows),
                    ]
                )
            )
    return np.hstack(drawn)


def _lines(row: Ints, x: Floats, y: Floats, n_rows: int) -> tuple[Floats, Floats]:
    """Fit y = height + slope x by row; NaN where a row has fewer than MIN_DRAWN points."""
    count = np.bincount(row, minlength=n_rows)
    enough = count >= MIN_DRAWN
    safe = np.maximum(count, 1)
    mean_x, mean_y = (np.bincount(row, v, n_rows) / safe for v in (x, y))
    dx = x - mean_x[row]
    spread = np.bincount(row, dx * dx, n_rows)
    slope = np.bincount(row, dx * y, n_rows) / np.where(enough, spread, 1.0)
    return np.where(enough, slope, np.nan), np.where(enough, mean_y - slope * mean_x, np.nan)


def _law(fit: PowerLaw, exponents: Floats, heights: Floats) -> Law:
    return Law(fit, percentile_interval(exponents), exponents, heights)


def _point(design: _Design, found: _Stretches, k: int) -> EnvelopePoint:
    curve = design.curves[found.run[k]]
    log_loss = np.interp(found.log_c[k], np.log(curve.flops), np.log(curve.loss))
    return EnvelopePoint(
        flops=float(np.exp(found.log_c[k])),
        n_opt=float(np.exp(found.log_n[k])),
        d_opt=float(np.exp(found.log_d[k])),
        loss=float(np.exp(log_loss)),
        run_id=curve.run_id,
    )


def _left_out(design: _Design, found: _Stretches, k: int) -> LeftOut:
    return LeftOut(
        flops=float(np.exp(found.log_c[k])),
        n_params=float(np.exp(found.log_n[k])),
        run_id=design.curves[found.run[k]].run_id,
        why=WHY[int(found.verdict[k])],
    )


def _refuse_few(
    points: tuple[EnvelopePoint, ...], left_out: tuple[LeftOut, ...], curves: list[Curve]
) -> None:
    why = "; ".join(f"N = {p.n_params:.3g} is not used: {p.why}" for p in left_out[:4])
    advice = f"{_more_sizes(curves)}{'; ' + why if why else ''}"
    if len(points) < MIN_POINTS:
        raise RefusedError(
            f"{len(points)} optima on the envelope of {len(curves)} runs, at least {MIN_POINTS} "
            f"are needed; {advice}"
        )
    sizes = len({p.n_opt for p in points})
    if sizes < MIN_SIZES:
        raise RefusedError(
            f"{sizes} sizes on the envelope, at least {MIN_SIZES} are needed; {advice}"
        )
    factor = points[-1].flops / points[0].flops
    if factor < MIN_RANGE:
        raise RefusedError(
            f"optima on the envelope span a factor {factor:.3g} in C, at least {MIN_RANGE:g} is "
            f"needed; {advice}"
        )


def _more_sizes(curves: list[Curve]) -> str:
    sizes = [curve.n_params for curve in curves]
    return (
        f"add sizes between and beyond {min(sizes):.3g} and {max(sizes):.3g} parameters, in steps "
        "of at most a factor 2, each trained well past the C at which the next larger overtakes it"
    )


def _source(curves: list[Curve]) -> str:
    kinds = {curve.source for curve in curves}
    return (kinds - {FINALS} or kinds).pop()


def _notes(
    curves: list[Curve], left_out: tuple[LeftOut, ...], count: int, asked: int, failed: int
) -> tuple[str, ...]:
    notes = []
    schedules = sorted({curve.schedule or "unknown" for curve in curves if len(curve.loss) > 1})
    if any(name not in HELD_LR for name in schedules):
        notes.append(
            f"Losses on the way were measured before the learning rate had decayed (schedule "
            f"{', '.join(schedules)}): they are above what a run that ended there would reach, so "
            "sizes are compared at unequal parts of their schedules and the exponent is biased. "
            "This is one of the errors behind Kaplan et al.'s 0.73; trust the other approaches."
        )
    if _source(curves) == FINALS:
        notes.append("Every run is a single point: this is the hull of final losses.")
    if left_out:
        notes.append(
            f"{len(left_out)} stretches of the envelope are not optima and are not used: "
            + "; ".join(sorted({p.why for p in left_out}))
            + "."
        )
    if count < asked:
        notes.append(f"{count} resamples instead of {asked}: there are {len(curves)} runs.")
    if failed:
        notes.append(f"{failed} of {count} resamples left fewer than {MIN_DRAWN} optima.")
    return tuple(notes)
