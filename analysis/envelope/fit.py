"""Approach 1: the envelope of training curves, and the power laws along it.

Which stretches of the envelope are optima is decided in stretches.py. Sizes are discrete, so the
stretch of a size is centred only near the size's own optimum; the intervals contain that because
resampling takes whole sizes away.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.bootstrap import percentile_interval
from analysis.envelope.stretches import (
    MIN_DRAWN,
    USED,
    WHY,
    Design,
    Stretches,
    arrange,
    find_stretches,
    resample_laws,
)
from analysis.errors import RefusedError
from analysis.intake.curves import FINALS, Curve
from analysis.powerlaw import Law, fit_power_law

Floats = NDArray[np.float64]

MIN_POINTS = 5
"""Optima that a law needs."""

MIN_SIZES = 3
"""Different sizes among them."""

MIN_RANGE = 10.0
"""Factor in C that they must span."""

STEADY = 0.25
"""Share of resamples that must have a law."""

WORK = 100_000_000
"""Resamples x runs at most: with more runs there are fewer resamples, and a note."""

HELD_LR = ("constant", "const")
"""Schedules under which the loss on the way is that of a run which ends there."""

SHOWN = 4
"""Stretches that a refusal names."""


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
    """A stretch of the envelope that is not an optimum."""

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
    """By ascending C."""
    left_out: tuple[LeftOut, ...]
    source: str
    """What the curves are: validation loss, training loss, checkpoint rows or final losses."""
    n_runs: int
    n_resamples: int
    n_failed: int
    """Resamples that left too few optima for a law."""
    biased: bool
    """Whether losses on the way of decaying learning rates were read (notes say so)."""
    notes: tuple[str, ...]


def fit_envelope(curves: list[Curve], *, resamples: int, seed: int) -> EnvelopeFit:
    """Fit N_opt = k C**a and D_opt = k' C**b along the envelope.

    Args:
        curves: Training curves of runs of several sizes, all of one kind, or single points.
        resamples: Draws behind the intervals; whole runs are drawn.
        seed: Seeds them.

    Raises:
        RefusedError: The envelope has too few optima; the message names the runs to add.

    Source:
        Hoffmann et al. 2022 (arXiv:2203.15556), section 3.1, take the best run at each of 1500
        values of C. That the stretches of a convex hull are read at their middles is ours: on
        curves of 60 points without noise, in steps of a factor 1.3 to 2 in size, it recovers a
        within .0012 (tests/analysis/envelope/test_envelope.py).
    """
    design = arrange(curves)
    found = find_stretches(design, np.ones((1, len(curves)), dtype=np.bool_))
    used = found.verdict == USED
    points = tuple(_point(design, found, k) for k in np.flatnonzero(used).tolist())
    left_out = tuple(_left_out(design, found, k) for k in np.flatnonzero(~used).tolist())
    _refuse_few(points, left_out, curves)
    flops = np.array([p.flops for p in points])
    n_fit = fit_power_law(flops, np.array([p.n_opt for p in points]))
    d_fit = fit_power_law(flops, np.array([p.d_opt for p in points]))
    count = min(resamples, max(1, WORK // len(curves)))
    n_draws, n_heights, d_draws, d_heights = resample_laws(design, count, seed, n_fit.log_pivot)
    failed = int(np.isnan(n_draws).sum())
    if failed > (1 - STEADY) * count:
        raise RefusedError(
            f"{failed / count:.0%} of resamples of the {len(curves)} runs leave fewer than "
            f"{MIN_DRAWN} of the envelope's {len(points)} optima; {_more_sizes(curves)}"
        )
    return EnvelopeFit(
        n_law=Law(n_fit, percentile_interval(n_draws), n_draws, n_heights),
        d_law=Law(d_fit, percentile_interval(d_draws), d_draws, d_heights),
        points=points,
        left_out=left_out,
        source=_source(curves),
        n_runs=len(curves),
        n_resamples=count,
        n_failed=failed,
        biased=bool(_decaying(curves)),
        notes=(*_notes_on_curves(curves), *_notes_on_fit(len(curves), left_out, resamples, count)),
    )


def _point(design: Design, found: Stretches, k: int) -> EnvelopePoint:
    curve = design.curves[found.run[k]]
    log_loss = np.interp(found.log_c[k], np.log(curve.flops), np.log(curve.loss))
    return EnvelopePoint(
        flops=float(np.exp(found.log_c[k])),
        n_opt=float(np.exp(found.log_n[k])),
        d_opt=float(np.exp(found.log_d[k])),
        loss=float(np.exp(log_loss)),
        run_id=curve.run_id,
    )


def _left_out(design: Design, found: Stretches, k: int) -> LeftOut:
    return LeftOut(
        flops=float(np.exp(found.log_c[k])),
        n_params=float(np.exp(found.log_n[k])),
        run_id=design.curves[found.run[k]].run_id,
        why=WHY[int(found.verdict[k])],
    )


def _refuse_few(
    points: tuple[EnvelopePoint, ...], left_out: tuple[LeftOut, ...], curves: list[Curve]
) -> None:
    """Refuse an envelope that no law should be put through."""
    sizes = len({p.n_opt for p in points})
    span = points[-1].flops / points[0].flops if points else 1.0
    if len(points) < MIN_POINTS:
        what = (
            f"{len(points)} optima on the envelope of {len(curves)} runs, at least {MIN_POINTS} are"
        )
    elif sizes < MIN_SIZES:
        what = f"{sizes} sizes among the envelope's optima, at least {MIN_SIZES} are"
    elif span < MIN_RANGE:
        what = f"the envelope's optima span a factor {span:.3g} in C, at least {MIN_RANGE:g} is"
    else:
        return
    listed = "".join(f"; N = {p.n_params:.3g} is not used: {p.why}" for p in left_out[:SHOWN])
    raise RefusedError(f"{what} needed; {_more_sizes(curves)}{listed}")


def _more_sizes(curves: list[Curve]) -> str:
    sizes = [curve.n_params for curve in curves]
    if _source(curves) == FINALS:
        return (
            f"every run is a single point: give losses on the way as well (rows of the same run_id "
            f"at other tokens), or add budgets, each with sizes on both sides of its best, between "
            f"{min(sizes):.3g} and {max(sizes):.3g} parameters"
        )
    return (
        f"add sizes between and beyond {min(sizes):.3g} and {max(sizes):.3g} parameters, in steps "
        "of at most a factor 2, each trained well past the C at which the next larger overtakes it"
    )


def _source(curves: list[Curve]) -> str:
    kinds = {curve.source for curve in curves}
    return min(kinds - {FINALS} or kinds)


def _decaying(curves: list[Curve]) -> list[str]:
    """Return the schedules under which a loss on the way is not that of a run which ends there."""
    schedules = {curve.schedule or "unknown" for curve in curves if len(curve.loss) > 1}
    return sorted(schedules - set(HELD_LR))


def _notes_on_curves(curves: list[Curve]) -> list[str]:
    if _source(curves) == FINALS:
        return ["Every run is a single point: this is the envelope of final losses."]
    if not (decaying := _decaying(curves)):
        return []
    return [
        "The envelope reads losses on the way of runs whose learning rate decays to the run's end "
        f"(schedule {', '.join(decaying)}). They are higher than those of a run that ends there, "
        "the more so the longer the run, so the exponent is biased. This is one of the errors in "
        "Kaplan et al.'s exponent: where the approaches differ, trust the others, or train with "
        "schedule=constant."
    ]


def _notes_on_fit(n_runs: int, left_out: tuple[LeftOut, ...], asked: int, count: int) -> list[str]:
    notes = []
    if left_out:
        kinds = sorted({p.why for p in left_out})
        notes.append(
            f"{len(left_out)} sizes on the envelope are not optima and are not used: "
            f"{'; '.join(kinds)}."
        )
    if count < asked:
        notes.append(f"{count} resamples of the envelope instead of {asked}: of {n_runs} runs.")
    return notes
