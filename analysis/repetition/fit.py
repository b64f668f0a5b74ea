"""Repeated data: how many passes over the same tokens are worth as much as fresh ones.

Fits R_D (repeats after which a repeat has lost 1 - 1/e of its worth) and R_N (the same for
parameters beyond what the unique tokens ask for), together with the surface, and says when the runs
do not identify them: an interval without an end, or wider than a factor, or an R_D that follows an
R_N which is not known. The formulas are in effective.py.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.bootstrap import Interval
from analysis.errors import RefusedError
from analysis.parametric.fit import fit_surface
from analysis.repetition import effective
from analysis.repetition.certify import COLUMNS, certify, held_starts, resample
from analysis.repetition.effective import R_BOX, R_D, SURFACE
from analysis.repetition.profile import Profile
from analysis.repetition.result import RepetitionFit, say_r
from analysis.repetition.runs import REPEATED, epochs_seen, family_codes, usable_runs
from analysis.repetition.solver import Task, expand

__all__ = ["RepetitionFit", "fit_repetition", "repetition_objective"]

Floats = NDArray[np.float64]

WIDE = 5.0
"""Upper over lower end of an interval above which R is not called identified. Ours: between R_D = 5
and 25, ten epochs are worth anything from .52 to .86 of as many fresh tokens."""

FOLLOWS = 2.0
"""Factor by which R_D may differ between values of R_N that the runs allow."""

MIN_FAMILIES = 10
"""Families below which resampling them says little."""

START_R_D, START_R_N = (2.0, 16.0, 128.0, R_BOX[1]), (1.0, 30.0, R_BOX[1])
"""Starts when the surface is free."""

WORTH_AT = (2, 4, 10, 40)
"""Epochs whose worth is reported."""


def repetition_objective(
    n_params: Floats,
    tokens: Floats,
    unique_tokens: Floats,
    nats: Floats,
    *,
    values: Mapping[str, float],
    delta: float = 1e-3,
) -> float:
    """Return the sum of Huber terms of log residuals at given E, A, B, alpha, beta, R_D, R_N."""
    points, centers = effective.make_points(n_params, tokens, unique_tokens, nats)
    once = np.ones((1, len(nats)))
    return float(expand(effective.to_q(values, centers)[None], points, once, delta).value[0])


def fit_repetition(
    frame: pd.DataFrame,
    *,
    delta: float = 1e-3,
    resamples: int = 200,
    seed: int = 0,
    surface: Mapping[str, float] | None = None,
) -> RepetitionFit:
    """Fit R_D and R_N, together with the surface unless one is given.

    Args:
        frame: Usable runs with n_params, tokens, unique_tokens and loss (nats per token).
        delta: Nats of log loss at which Huber terms turn from squares to absolute values; 1 makes
            them least squares of log losses.
        resamples: Bootstrap refits, of families of runs.
        seed: Seeds the resampling.
        surface: E, A, B, alpha and beta to hold, as the paper does; None fits them too.

    Returns:
        The certified fit, with what it does not identify.

    Raises:
        RefusedError: No unique_tokens, nothing repeated, or too few runs; no surface can be drawn
            through the runs, or no start converged.

    Source:
        Muennighoff et al. 2023 (arXiv:2305.16264), section 3.1 and appendix A. They take the
        surface from single-epoch runs and fit R_D and R_N to it; here they are fitted together,
        because the surface's own uncertainty is part of R_D's. Profile and bootstrap: ours.
    """
    runs, notes = usable_runs(frame, seed)
    points, centers = effective.make_points(*_columns(runs))
    task = Task(points, delta, SURFACE if surface else ())
    starts = held_starts(surface, task, centers) if surface else _free_starts(runs, centers, delta)
    best = certify(starts, task)
    values = _to_limits(effective.to_values(best.q, centers))
    families = family_codes(runs)
    boot, n_failed = resample(best.q, task, families, resamples, seed)
    intervals = {c: _hull(best.profiles[c].interval, boot[c]) for c in COLUMNS}
    n_families = int(families.max()) + 1
    reasons = {c: _why_not(best.profiles[c].interval, boot[c], n_families) for c in COLUMNS}
    if not effective.has_excess(best.q[None], points).any():
        reasons["R_N"] = ("no run has more parameters than its unique tokens ask for",)
    elif reasons["R_N"]:
        reasons["R_D"] += _follows(best.profiles["R_N"], intervals["R_N"])
    epochs = epochs_seen(runs)
    return RepetitionFit(
        values=values,
        objective=best.objective,
        delta=delta,
        intervals=intervals,
        bootstrap=boot,
        profiles=best.profiles,
        reasons=reasons,
        worth={k: _worths(k, values["R_D"], intervals["R_D"]) for k in WORTH_AT},
        gradient=best.gradient,
        n_starts=best.n_starts,
        starts_reached=best.starts_reached,
        n_runs=len(runs),
        n_repeated=int((epochs > REPEATED).sum()),
        n_families=n_families,
        n_failed=n_failed,
        max_epochs=float(epochs.max()),
        notes=notes,
    )


def _columns(runs: pd.DataFrame) -> tuple[Floats, Floats, Floats, Floats]:
    n, d, u, nats = (
        runs[name].to_numpy(float) for name in ("n_params", "tokens", "unique_tokens", "loss")
    )
    return n, d, u, nats


def _free_starts(runs: pd.DataFrame, centers: tuple[float, float], delta: float) -> Floats:
    """Return the ordinary surface through D' at several R_D, each with several R_N."""
    n, d, u, nats = _columns(runs)
    starts, refused = [], None
    for r_d in START_R_D:
        try:
            fit = fit_surface(n, effective.effective_tokens(d, u, r_d), nats, delta=delta)
        except RefusedError as error:
            refused = error
            continue
        starts += [
            effective.to_q({**fit.values, "R_D": r_d, "R_N": r_n}, centers) for r_n in START_R_N
        ]
    if not starts:
        raise refused or RefusedError("no surface")
    return np.stack(starts)


def _to_limits(values: dict[str, float]) -> dict[str, float]:
    """Let an R at an end of its box be the limit that the end stands for."""
    low, high = 1.01 * R_BOX[0], 0.99 * R_BOX[1]
    limits = {c: 0.0 if values[c] <= low else np.inf for c in COLUMNS if not low < values[c] < high}
    return {**values, **limits}


def _hull(one: Interval, other: Interval) -> Interval:
    return min(one[0], other[0]), max(one[1], other[1])


def _why_not(profile: Interval, boot: Interval, n_families: int) -> tuple[str, ...]:
    """Return why R is not identified, in words; nothing where it is."""
    why = []
    low, high = _hull(profile, boot)
    for what, interval in (("profile likelihood", profile), ("bootstrap", boot)):
        sides = [
            word
            for word, open_ in (("below", interval[0] <= 0), ("above", np.isinf(interval[1])))
            if open_
        ]
        if sides:
            why.append(f"its {what} has no end {' or '.join(sides)}")
    if not why and high > WIDE * low:
        why.append(f"its interval spans a factor of {high / low:.0f}, more than {WIDE:g}")
    if n_families < MIN_FAMILIES:
        why.append(f"{n_families} families of runs are fewer than {MIN_FAMILIES}")
    return tuple(why)


def _follows(of_r_n: Profile, allowed: Interval) -> tuple[str, ...]:
    """Say so when R_D depends on an R_N that is not known."""
    r_d = np.exp(of_r_n.q[(of_r_n.r >= allowed[0]) & (of_r_n.r <= allowed[1]), R_D])
    if len(r_d) == 0 or r_d.max() <= FOLLOWS * r_d.min():
        return ()
    return (
        "R_N is not known either, and over the values it may have the best R_D goes from "
        f"{say_r(float(r_d.min()))} to {say_r(float(r_d.max()))}",
    )


def _worths(epochs: int, r: float, interval: Interval) -> tuple[float, float, float]:
    """Return the worth of `epochs` at R and at the ends of its interval."""
    value, low, high = (_worth(epochs, at) for at in (r, *interval))
    return value, low, high


def _worth(epochs: int, r_d: float) -> float:
    """Return D' / D after whole epochs; the limits are one epoch's worth and all of them."""
    inside = float(np.clip(r_d, *R_BOX))
    if r_d <= 0.0:
        return 1.0 / epochs
    return float(
        effective.effective_tokens(np.array([float(epochs)]), np.array([1.0]), inside)[0] / epochs
    )
