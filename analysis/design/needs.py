"""What a study lacks before its design is worth tuning: sizes, budgets, seeds, spread.

These come first because without them an approach has no answer at all, or no check.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.design.candidates import is_there
from analysis.design.ladder import Ladder
from analysis.errors import RefusedError
from analysis.isoflop.budgets import Cells, group_budgets
from analysis.isoflop.fit import MIN_VALLEYS, Valley
from analysis.isoflop.valley import LONE_GAP, MIN_SIZES
from analysis.parametric.frontier import CostLaw
from analysis.parametric.identifiable import check_design
from analysis.prediction.quantity import number

Floats = NDArray[np.float64]

BUDGET_SIZES = 5
"""Sizes of a new budget: one more than a valley needs."""

NEXT_BUDGET = 3.0
"""Factor to the next budget where the study does not show one."""

SEED_FREEDOM = 3
"""Repeated runs from which seeds' scatter is used as a measure of noise."""

OFF_LINE = 4.0
"""Factor in tokens by which runs leave the line that all others are on."""

HALF = 0.5
"""Exponent by which a valley's minimum is carried to a new budget where none was fitted."""


@dataclass(frozen=True)
class Need:
    """A run that the study lacks."""

    n_params: float
    tokens: float
    flops: float
    why: str
    new_seed: bool = False
    """Whether it repeats a run with another seed."""


def valley_needs(valleys: tuple[Valley, ...], cost: CostLaw, ladder: Ladder | None) -> list[Need]:
    """Return the sizes that would bracket the valleys that are not, cheapest budget first."""
    needs = []
    for valley in sorted(valleys, key=lambda item: item.flops):
        if valley.bracketed or len(valley.n_params) < 2:
            continue
        what, sizes = _missing_sizes(valley, ladder)
        needs += [
            _at_budget(size, valley.flops, cost, f"valley {number(valley.flops)}: {what}")
            for size in sizes
        ]
    return needs


def _missing_sizes(valley: Valley, ladder: Ladder | None) -> tuple[str, list[float]]:
    """Return in words and numbers which sizes a valley lacks."""
    x = np.log(valley.n_params)
    lowest = int(np.argmin(valley.losses))
    step = _step(x)
    below = int((valley.n_params < valley.n_opt).sum())
    above = len(x) - below
    if lowest == 0 or (below < 2 and above >= 2):
        count = 2 if lowest == 0 else 1
        return "smaller sizes", _beyond(float(x[0]), -step, count, ladder)
    if lowest == len(x) - 1 or (above < 2 and below >= 2):
        count = 2 if lowest == len(x) - 1 else 1
        return "larger sizes", _beyond(float(x[-1]), step, count, ladder)
    if len(x) < MIN_SIZES:
        ends = [*_beyond(float(x[0]), -step, 1, ladder), *_beyond(float(x[-1]), step, 1, ladder)]
        return f"{MIN_SIZES} sizes at least", ends
    middles = [float(np.exp(0.5 * (x[k] + x[k + 1]))) for k in (lowest - 1, lowest)]
    return "sizes in between", _new_sizes(middles, valley.n_params, ladder)


def _step(x: Floats) -> float:
    """Return a budget's own log step between sizes, within what brackets a minimum."""
    step = float(np.median(np.diff(x))) if len(x) > 1 else LONE_GAP
    return float(np.clip(step, 0.25, LONE_GAP))


def _beyond(end: float, step: float, count: int, ladder: Ladder | None) -> list[float]:
    """Return the next sizes beyond an end."""
    wanted = [float(np.exp(end + step * k)) for k in range(1, count + 1)]
    return _new_sizes(wanted, np.exp([end]), ladder)


def _new_sizes(wanted: list[float], there: Floats, ladder: Ladder | None) -> list[float]:
    """Move sizes to rungs, and leave out those there are."""
    if ladder is not None:
        wanted = [ladder.nearest(size).n_params for size in wanted]
    fresh = [n for n in dict.fromkeys(wanted) if np.abs(np.log(n / there)).min() > 0.01]
    return sorted(fresh)


def budget_needs(
    valleys: tuple[Valley, ...], exponent: float | None, cost: CostLaw, ladder: Ladder | None
) -> list[Need]:
    """Return the budgets that are missing for a law through valleys.

    Args:
        valleys: Of every budget; none where runs do not share budgets.
        exponent: Of N_opt by another approach; None takes one half.
        cost: How C counts.
        ladder: Shapes there can be.
    """
    missing = MIN_VALLEYS - len(valleys)
    if not valleys or missing <= 0:
        return []
    ordered = sorted(valleys, key=lambda item: item.flops)
    ratios = np.diff(np.log([valley.flops for valley in ordered]))
    step = float(np.exp(np.median(ratios))) if len(ratios) else NEXT_BUDGET
    step = float(np.clip(step, 2.0, NEXT_BUDGET))
    # The cheaper budget first: below, then above.
    places = [(ordered[0], 1.0 / step), (ordered[-1], step)][-missing:]
    needs = []
    for valley, factor in places:
        flops = valley.flops * factor
        middle = valley.n_opt * factor ** (HALF if exponent is None else exponent)
        size_step = _step(np.log(valley.n_params))
        powers = np.arange(BUDGET_SIZES) - BUDGET_SIZES // 2
        wanted = [float(middle * np.exp(size_step * k)) for k in powers]
        sizes = _new_sizes(wanted, np.array([1e-9]), ladder)
        why = f"a new budget: {MIN_VALLEYS} valleys at least"
        needs += [_at_budget(size, flops, cost, why) for size in sizes]
    return needs


def seed_needs(cells: Cells) -> list[Need]:
    """Return repeats with other seeds where noise was not measured: cheap runs near the optimum."""
    missing = SEED_FREEDOM - cells.seed_freedom
    if missing <= 0:
        return []
    frame = cells.frame.assign(budget=group_budgets(cells.frame["flops"].to_numpy(float)))
    shared = frame[frame["budget"] >= 0].sort_values("loss").drop_duplicates("budget")
    near = (shared if len(shared) else frame).sort_values("flops")
    rows = near[["n_params", "tokens", "flops"]].to_numpy(float)[:missing]
    needs = []
    for k in range(missing):
        n, d, c = (float(value) for value in rows[k % len(rows)])
        needs.append(Need(n, d, c, "seed noise unknown", new_seed=True))
    return needs


def spread_needs(
    n_params: Floats, tokens: Floats, cost: CostLaw, ladder: Ladder | None, n_free: int
) -> list[Need]:
    """Return runs until the design can determine a surface, cheapest first.

    Args:
        n_params: Shape (runs,). Of the runs there are.
        tokens: Shape (runs,).
        cost: How C counts.
        ladder: Shapes there can be.
        n_free: Parameters of the surface.
    """
    chosen: list[Need] = []
    for need in _off_line(n_params, tokens, cost, ladder):
        n = np.append(n_params, [item.n_params for item in chosen])
        d = np.append(tokens, [item.tokens for item in chosen])
        # A design that just passes is no good fit yet: one run for each parameter besides.
        if len(chosen) > n_free and _passes(n, d, n_free):
            break
        chosen.append(need)
    return chosen


def _passes(n_params: Floats, tokens: Floats, n_free: int) -> bool:
    try:
        check_design(n_params, tokens, n_free)
    except RefusedError:
        return False
    return True


def _off_line(n_params: Floats, tokens: Floats, cost: CostLaw, ladder: Ladder | None) -> list[Need]:
    """Return sizes across and beyond the range with several times more and fewer tokens."""
    ordered = np.argsort(n_params)
    at = ordered[np.unique(np.linspace(0, len(ordered) - 1, 4).round().astype(int))]
    log_ratio = np.log(tokens) - np.log(n_params)
    sizes = {float(n_params[k]): float(tokens[k]) for k in at}
    for factor in (0.5, 2.0):
        end = n_params[ordered[0 if factor < 1 else -1]] * factor
        new = ladder.nearest(float(end)).n_params if ladder else float(end)
        sizes.setdefault(new, new * float(np.exp(np.median(log_ratio))))
    needs = []
    for size, usual in sizes.items():
        for factor in (1.0 / OFF_LINE, 1.0, OFF_LINE):
            d = usual * factor
            if is_there(np.array([size]), np.array([d]), n_params, tokens)[0]:
                continue
            word = "more" if factor > 1 else "fewer" if factor < 1 else "usual"
            why = f"{word} tokens than the others" if factor != 1 else "another size"
            flops = float(cost.flops(np.array(size), np.array(d)))
            needs.append(Need(size, d, flops, f"spread: {why}"))
    return sorted(needs, key=lambda need: need.flops)


def _at_budget(size: float, flops: float, cost: CostLaw, why: str) -> Need:
    tokens = float(cost.tokens(np.array(flops), np.array(size)))
    return Need(size, tokens, flops, why)
