"""a over every defensible choice, beside the interval that sampling alone gives it.

A sampling interval takes every choice as given. Here a is fitted under all of them, refusals and
all; what is reported is the range, how much of it lies outside the sampling interval, and which
choice moves a most.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.bootstrap import Interval
from analysis.config import Method
from analysis.envelope.fit import fit_envelope
from analysis.errors import RefusedError
from analysis.intake.curves import Curve
from analysis.scrutiny.universes import (
    COSTS,
    FORMS,
    OUTLIERS,
    WINDOWS,
    Choices,
    Runs,
    Subset,
    collect_runs,
)

Floats = NDArray[np.float64]

MAX_UNIVERSES = 400
"""Universes of one table; beyond, choices are varied one at a time."""

MAX_ROWS = 1000
"""Rows of one set of runs beyond which choices are varied one at a time on it: 90 fits of so many
take about 10 s."""

NESTED = {"cost": ("form", "chinchilla"), "form": ("cost", next(iter(COSTS)))}
"""Choices that are varied only where another one is at its default: compared there alone."""

ENVELOPE_DRAWS = 100
"""Resamples of the envelope, whose interval is not used here."""


@dataclass(frozen=True)
class Universe:
    """One way through all choices."""

    choices: Choices
    a: float
    """N_opt ~ C**a; nan when refused."""
    refused: str
    """Why there is no exponent; '' when there is."""


@dataclass(frozen=True)
class Effect:
    """What one choice does to a, whatever the others are."""

    choice: str
    explained: float
    """Share of the variance of a over all universes: sum of squares between its levels' means."""
    span: float
    """Largest minus smallest of its levels' means."""
    levels: dict[str, float]
    """Mean a of each level, over the universes that have the choice."""


@dataclass(frozen=True)
class Multiverse:
    """Every universe, and what they say together."""

    universes: tuple[Universe, ...]
    n_fitted: int
    low: float
    high: float
    quartiles: tuple[float, float, float]
    """25 %, median and 75 %."""
    interval: Interval | None
    """The sampling interval that was handed in."""
    outside: float
    """Share of the fitted universes outside it; nan without one."""
    effects: tuple[Effect, ...]
    """Largest share of the variance first."""
    sentence: str
    notes: tuple[str, ...]


def explore(
    frame: pd.DataFrame,
    *,
    interval: Interval | None = None,
    curves: Mapping[str, list[Curve]] | None = None,
    max_universes: int = MAX_UNIVERSES,
) -> Multiverse:
    """Fit a under every combination of choices.

    Args:
        frame: Usable runs as the table has them, in no convention yet.
        interval: 95 % sampling interval of the headline's a.
        curves: By convention, what the envelope is read from; conventions not there have none.
        max_universes: Where all combinations are more, choices are varied one at a time.

    Raises:
        RefusedError: No universe could be fitted; the message is the first one's reason.

    Source:
        The idea: Steegen et al. 2016, "Increasing transparency through a multiverse analysis". The
        choices are ours, each made by some published study of these exponents.
    """
    variants = collect_runs(frame)
    total = len(variants) * len(list(_plan(crossed=True)))
    many = total > max_universes
    notes = []
    if many:
        notes.append(
            f"All combinations would be {total} fits of {len(frame)} runs: choices are varied one "
            "at a time."
        )
    elif (large := sum(len(runs.frame) > MAX_ROWS for runs in variants)) > 0:
        notes.append(
            f"On {large} of {len(variants)} sets of runs, which have more than {MAX_ROWS}, choices "
            "are varied one at a time."
        )
    plans = [list(_plan(crossed=not many and len(runs.frame) <= MAX_ROWS)) for runs in variants]
    universes = [u for runs, plan in zip(variants, plans, strict=True) for u in _fit(runs, plan)]
    for convention, found in (curves or {}).items():
        universes.append(_by_envelope(convention, found))
    a = np.array([u.a for u in universes])
    fitted = a[np.isfinite(a)]
    if len(fitted) == 0:
        raise RefusedError(f"no choice of method gives an exponent; {universes[0].refused}")
    effects = find_effects([u for u in universes if not u.refused])
    outside = float("nan")
    if interval is not None:
        outside = float(((fitted < interval[0]) | (fitted > interval[1])).mean())
    quartiles = tuple(map(float, np.percentile(fitted, [25, 50, 75])))
    return Multiverse(
        universes=tuple(universes),
        n_fitted=len(fitted),
        low=float(fitted.min()),
        high=float(fitted.max()),
        quartiles=(quartiles[0], quartiles[1], quartiles[2]),
        interval=interval,
        outside=outside,
        effects=effects,
        sentence=_sentence(fitted, interval, outside, effects),
        notes=tuple(notes),
    )


def _plan(crossed: bool) -> Iterator[Choices]:
    """Yield the choices to make on one set of runs; the first of each list is the default."""
    ways = [
        *({"approach": "surface", "form": "chinchilla", "cost": cost} for cost in COSTS),
        *({"approach": "surface", "form": f, "cost": next(iter(COSTS))} for f in list(FORMS)[1:]),
        *({"approach": "valleys", "curve": method.name} for method in Method),
    ]
    for window, outliers, (place, way) in product(WINDOWS, OUTLIERS, enumerate(ways)):
        moved = (window != WINDOWS[0]) + (outliers != OUTLIERS[0])
        is_first_way = place == 0 or way.get("curve") == "cubic"
        if crossed or moved + (not is_first_way) <= 1:
            yield {"window": window, "outliers": outliers, **way}


def _fit(runs: Runs, plan: list[Choices]) -> Iterator[Universe]:
    """Fit one set of runs every way, sharing what the ways share."""
    subsets: dict[tuple[str, str], Subset] = {}
    for way in plan:
        try:
            a, why = _one(runs, subsets, way), ""
        except RefusedError as error:
            a, why = float("nan"), str(error)
        yield Universe({**runs.choices, **way}, a, why)


def _one(runs: Runs, subsets: dict[tuple[str, str], Subset], way: Choices) -> float:
    subset = _subset(runs, subsets, way["window"], way["outliers"])
    if way["approach"] == "valleys":
        return subset.valleys(way["curve"])
    return subset.surface(way["form"], way["cost"])


def _subset(
    runs: Runs, subsets: dict[tuple[str, str], Subset], window: str, outliers: str
) -> Subset:
    key = window, outliers
    if key not in subsets:
        is_window = outliers == OUTLIERS[0]
        above = (WINDOWS[0] if is_window else window), OUTLIERS[0]
        parent = None if key == above else _subset(runs, subsets, *above)
        subsets[key] = Subset(runs, runs.used(window, outliers), parent, is_window)
    return subsets[key]


def _by_envelope(convention: str, curves: list[Curve]) -> Universe:
    choices = {"convention": convention, "approach": "envelope"}
    try:
        fit = fit_envelope(curves, resamples=ENVELOPE_DRAWS, seed=0)
    except RefusedError as error:
        return Universe(choices, float("nan"), str(error))
    return Universe(choices, fit.n_law.fit.exponent, "")


def find_effects(universes: list[Universe]) -> tuple[Effect, ...]:
    """Return the simple main effect of every choice that was varied, largest first.

    Args:
        universes: Fitted ones only.
    """
    a = np.array([u.a for u in universes])
    total = float(((a - a.mean()) ** 2).sum())
    effects = []
    for choice in dict.fromkeys(name for u in universes for name in u.choices):
        other, default = NESTED.get(choice, ("", ""))
        has = [
            k
            for k, u in enumerate(universes)
            if choice in u.choices and u.choices.get(other, default) == default
        ]
        if not has:
            continue
        names = np.array([universes[k].choices[choice] for k in has])
        levels = {str(name): float(a[has][names == name].mean()) for name in dict.fromkeys(names)}
        if len(levels) < 2:
            continue
        middle = float(a[has].mean())
        between = sum((levels[str(name)] - middle) ** 2 for name in names)
        span = max(levels.values()) - min(levels.values())
        effects.append(Effect(choice, between / total if total > 0 else 0.0, span, levels))
    return tuple(sorted(effects, key=lambda effect: -effect.explained))


def _sentence(
    fitted: Floats, interval: Interval | None, outside: float, effects: tuple[Effect, ...]
) -> str:
    low, middle_low, middle_high, high = np.percentile(fitted, [0, 25, 75, 100])
    told = (
        f"Over {len(fitted)} defensible analyses a runs from {low:.3f} to {high:.3f} (middle half "
        f"{middle_low:.3f} to {middle_high:.3f})"
    )
    if interval is not None:
        told += f"; {outside:.0%} lie outside the sampling interval [{interval[0]:.3f}, "
        told += f"{interval[1]:.3f}]"
    if not effects:
        return f"{told}."
    first = effects[0]
    least, most = (pick(first.levels, key=first.levels.__getitem__) for pick in (min, max))
    return (
        f"{told}. Most is moved by the choice of {first.choice} ({first.explained:.0%} of the "
        f"variance): on average {first.levels[least]:.3f} with '{least}' and "
        f"{first.levels[most]:.3f} with '{most}'."
    )
