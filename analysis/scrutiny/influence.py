"""What a and E become when one run, one budget or one size is left out: exact refits.

An answer that one run carries is that run's answer. The table is sorted by how far a moves, and a
member is flagged by a rule that sound data meet seldom.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.bootstrap import ELEMENTS_PER_BATCH
from analysis.config import Form, Loss
from analysis.errors import RefusedError
from analysis.isoflop.budgets import group_budgets
from analysis.parametric.fit import certify, fit_surface
from analysis.parametric.frontier import SIX_ND, CostLaw
from analysis.parametric.refits import Reference
from analysis.parametric.result import SurfaceFit
from analysis.parametric.reweighted import Reweighted, refit_reweighted

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

FLAG = 4.0
"""Changes of a beyond FLAG / sqrt(n) standard errors are flagged. Belsley, Kuh & Welsch 1980 use 2
(their DFBETAS), which flags one run in twenty of sound data; 4 is for a run to look at."""

NO_MOVE = 5e-4
"""Change of a that no table of exponents would show, so it is not flagged."""

MAX_EXACT = 1500
"""Runs refitted without each; of more, those with the largest first-order influence."""

MOST_ROWS = 5_000_000
"""Rows times refits; beyond, fewer runs are left out, but never under FEWEST."""

FEWEST = 50
"""Runs that are left out in turn however large the table."""

SAME_SIZE = 0.01
"""Natural log: sizes closer than this are one rung."""


@dataclass(frozen=True)
class Influence:
    """One run, budget or size, and the fit without it."""

    name: str
    """run_id, or the budget's C, or the size's N."""
    rows: int
    """Rows left out."""
    a: float
    """Without it; nan where the rest is no answer."""
    delta_a: float
    """Without it minus with it."""
    floor: float
    """E without it, nats."""
    delta_floor: float
    flagged: bool


@dataclass(frozen=True)
class InfluenceTable:
    """Who carries the answer; each tuple sorted by the size of delta_a."""

    a: float
    """Of all runs."""
    floor: float
    """E of all runs, nats."""
    runs: tuple[Influence, ...]
    budgets: tuple[Influence, ...]
    """Empty where C varies continuously."""
    sizes: tuple[Influence, ...]
    standard_error: float
    """Of a, that the flags go by: as given, or the jackknife's."""
    rule: str
    """When a run is flagged, in words."""
    sentence: str
    notes: tuple[str, ...]


def find_influence(
    n_params: Floats,
    tokens: Floats,
    flops: Floats,
    nats: Floats,
    run_ids: list[str],
    *,
    clusters: Ints | None = None,
    form: Form = Form.chinchilla,
    loss: Loss = Loss.huber,
    delta: float = 1e-3,
    cost: CostLaw = SIX_ND,
    standard_error: float | None = None,
) -> InfluenceTable:
    """Refit without each run, each budget and each size.

    Args:
        n_params: Shape (runs,). Parameters per run.
        tokens: Shape (runs,). Training tokens per run.
        flops: Shape (runs,). C, for what is one budget.
        nats: Shape (runs,). Final loss, nats per token.
        run_ids: Names of the rows.
        clusters: Shape (runs,). Which run a row belongs to; None takes each row as a run.
        form: The surface's formula.
        loss: Cost of a residual.
        delta: For huber, nats of log loss.
        cost: Of a run, that a is read at.
        standard_error: Of a, for the flag; None takes the jackknife's.

    Raises:
        RefusedError: The runs do not identify the surface.
    """
    fit, reference = certify(n_params, tokens, nats, form, loss, delta)
    codes = np.arange(len(nats)) if clusters is None else clusters
    n = int(codes.max()) + 1
    pull = np.asarray(np.bincount(codes, _first_order(fit, reference), n), dtype=np.float64)
    most = min(MAX_EXACT, max(FEWEST, MOST_ROWS // len(nats)))
    chosen: Ints = np.sort(np.argsort(-np.abs(pull), kind="stable")[:most])
    whole = _whole(fit, cost)
    study = _Study(n_params, tokens, nats, fit, reference, cost)
    runs = study.leave_out(codes, chosen)
    scale = standard_error or _jackknife(runs.a - whole.a[0], pull, chosen)
    limit = max(FLAG * scale / float(np.sqrt(n)), NO_MOVE)
    names = [run_ids[int(np.argmax(codes == code))] for code in chosen]
    table = _table(names, codes, chosen, runs, whole, limit)
    left = n - len(chosen)
    return InfluenceTable(
        a=float(whole.a[0]),
        floor=float(whole.floor[0]),
        runs=table,
        budgets=_groups(study, _budget_codes(flops), flops, "C", whole),
        sizes=_groups(study, _size_codes(n_params), n_params, "N", whole),
        standard_error=scale,
        rule=f"a moves by more than {limit:.2g}"
        + (f", {FLAG:g} / sqrt({n}) standard errors" if limit > NO_MOVE else ""),
        sentence=_sentence(table, float(whole.a[0]), scale),
        notes=(f"{left} runs of least first-order influence were not left out in turn.",)
        if left
        else (),
    )


def _first_order(fit: SurfaceFit, reference: Reference) -> Floats:
    """Return how far a moves without each row to first order, by the curvature of squares."""
    formula, points, theta = reference.formula, reference.points, reference.optima[0]
    step = 1e-5
    shifts = step * np.eye(len(theta))
    both = formula.log_prediction(
        np.concatenate([theta + shifts, theta - shifts]), points.x, points.y
    )
    tangent = (both[: len(theta)] - both[len(theta) :]) / (2 * step)
    full = formula.full(np.concatenate([theta + shifts, theta - shifts]))
    a = full[:, 4] / (full[:, 3] + full[:, 4])
    by_theta = (a[: len(theta)] - a[len(theta) :]) / (2 * step)
    residual = fit.residuals
    if fit.loss is Loss.huber:
        residual = np.clip(residual, -fit.delta, fit.delta)
    elif fit.loss is Loss.lad:
        residual = np.sign(residual)
    gain = by_theta @ np.linalg.pinv(tangent @ tangent.T)
    return np.asarray((gain @ tangent) * residual)


def _jackknife(moved: Floats, pull: Floats, chosen: Ints) -> float:
    """Return the standard error of a, first-order influence standing in where no refit is."""
    have = np.isfinite(moved)
    exact, rough = moved[have], pull[chosen][have]
    # Huber's and absolute costs have less curvature than squares: scale to the exact ones.
    whole = pull * float(exact @ rough) / max(float(rough @ rough), 1e-300)
    whole[chosen[have]] = exact
    return float(np.sqrt((len(pull) - 1) * np.var(whole)))


@dataclass(frozen=True)
class _Study:
    """The runs and their certified fit."""

    n_params: Floats
    tokens: Floats
    nats: Floats
    fit: SurfaceFit
    reference: Reference
    cost: CostLaw

    def leave_out(self, codes: Ints, chosen: Ints) -> Reweighted:
        """Refit without each of the chosen codes, in batches of bounded memory."""
        size = max(1, ELEMENTS_PER_BATCH // len(codes))
        parts = []
        for at in range(0, len(chosen), size):
            counts = (codes[None] != chosen[at : at + size, None]).astype(np.float64)
            parts.append(refit_reweighted(self.reference, self.fit.centers[2], counts))
        a, floor, theta = (
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("a", "floor", "theta")
        )
        a = self.cost.exponent_from(a)
        for k in np.flatnonzero(np.isnan(a)):
            rest = self._search(codes != chosen[k])
            a[k], floor[k] = (float("nan"),) * 2 if rest is None else (rest.a[0], rest.floor[0])
        return Reweighted(a, floor, theta)

    def _search(self, keep: NDArray[np.bool_]) -> Reweighted | None:
        """Fit what is left over all basins, for a refit that stopped short of its optimum."""
        runs = self.n_params[keep], self.tokens[keep], self.nats[keep]
        form, loss, delta = self.fit.form, self.fit.loss, self.fit.delta
        try:
            return _whole(fit_surface(*runs, form=form, loss=loss, delta=delta), self.cost)
        except RefusedError:
            return None


def _whole(fit: SurfaceFit, cost: CostLaw) -> Reweighted:
    a, floor = cost.exponent_from(fit.values["a"]), fit.values.get("E", 0.0)
    return Reweighted(np.array([a]), np.array([floor]), fit.theta[None])


def _table(
    names: list[str],
    codes: Ints,
    chosen: Ints,
    without: Reweighted,
    whole: Reweighted,
    limit: float,
) -> tuple[Influence, ...]:
    """Sort by how far a moves; what leaves no answer comes first."""
    counts = np.bincount(codes[codes >= 0], minlength=int(chosen.max()) + 1)
    moved = without.a - whole.a[0]
    size = np.where(np.isnan(moved), np.inf, np.abs(moved))
    return tuple(
        Influence(
            name=names[k],
            rows=int(counts[chosen[k]]),
            a=float(without.a[k]),
            delta_a=float(moved[k]),
            floor=float(without.floor[k]),
            delta_floor=float(without.floor[k] - whole.floor[0]),
            flagged=bool(size[k] > limit),
        )
        for k in np.argsort(-size, kind="stable")
    )


def _groups(
    study: _Study, codes: Ints, values: Floats, symbol: str, whole: Reweighted
) -> tuple[Influence, ...]:
    """Leave out each group; flagged where it moves a FLAG robust sd of what groups do."""
    chosen = np.unique(codes[codes >= 0])
    if len(chosen) < 2:
        return ()
    names = [f"{symbol} = {float(np.median(values[codes == code])):.3g}" for code in chosen]
    without = study.leave_out(codes, chosen)
    moved = np.abs(without.a - whole.a[0])
    known = moved[np.isfinite(moved)]
    spread = 1.4826 * float(np.median(known)) if len(known) else 0.0
    return _table(names, codes, chosen, without, whole, max(FLAG * spread, NO_MOVE))


def _budget_codes(flops: Floats) -> Ints:
    """Return budgets, or -1 throughout where fewer than half of the runs share one."""
    labels = group_budgets(flops)
    sizes = np.bincount(labels[labels >= 0], minlength=1)
    shared = np.isin(labels, np.flatnonzero(sizes > 1))
    return labels if shared.mean() > 0.5 else np.full(len(flops), -1)


def _size_codes(n_params: Floats) -> Ints:
    order = np.argsort(n_params, kind="stable")
    code = np.empty(len(order), dtype=np.int64)
    code[order] = np.cumsum(np.diff(np.log(n_params[order]), prepend=-np.inf) > SAME_SIZE) - 1
    return code


def _sentence(table: tuple[Influence, ...], a: float, scale: float) -> str:
    worst = table[0]
    flagged = sum(item.flagged for item in table)
    if np.isnan(worst.delta_a):
        return f"Without {worst.name} the other runs do not determine a at all: repeat that run."
    share = abs(worst.delta_a) / scale if scale > 0 else 0.0
    told = (
        f"The run that matters most, {worst.name}, moves a from {a:.3f} to {worst.a:.3f} when left "
        f"out ({share:.1f} standard errors)"
    )
    if not flagged:
        return f"{told}: no single run carries the answer."
    return f"{told}; runs to look at: {flagged} of {len(table)}."
