"""The defensible ways to get a from one table, and a by each of them: points, no intervals.

A universe is one choice at every fork. Fits of one set of runs share a certified surface: other
costs and forms start from it and finish by the same Newton steps.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.config import Convention, Form, Loss, Method
from analysis.errors import InputError, RefusedError
from analysis.intake.conventions import in_convention
from analysis.isoflop.budgets import Cells, group_budgets, make_cells
from analysis.isoflop.fit import find_valleys, fit_isoflop
from analysis.isoflop.reslice import reslice
from analysis.isoflop.valley import MIN_SIZES
from analysis.parametric.fit import certify
from analysis.parametric.frontier import SIX_ND, CostLaw
from analysis.parametric.identifiable import check_design
from analysis.parametric.refits import Reference, refit
from analysis.parametric.reweighted import Reweighted, refit_reweighted
from analysis.parametric.surface import Points
from analysis.prediction.draws import fit_cost_law

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Choices = dict[str, str]

COSTS = {
    "huber 1e-3": (Loss.huber, 1e-3),
    "huber 1e-4": (Loss.huber, 1e-4),
    "huber 1e-2": (Loss.huber, 1e-2),
    "lad": (Loss.lad, 1e-3),
    "mse": (Loss.mse, 1e-3),
}
"""Cost and delta; the first is the surface's default, by which starts are found."""

FORMS = {"chinchilla": Form.chinchilla, "skaling": Form.skaling, "kaplan_e": Form.kaplan_e}

WINDOWS = ("all", "without the lowest third", "without the highest third")
OUTLIERS = ("none", "largest 2 % of losses", "residuals over 4 sd")

LARGEST_SHARE = 0.02
"""Share of runs dropped for their loss: 5 of 245, as Besiroglu et al. 2024 do."""

FAR_SD = 4.0
"""Robust standard deviations at which a residual is dropped."""

MISFIT = 1.5
"""A form whose cost exceeds this many times the best form's describes other runs than these: on
Hoffmann et al.'s points Kaplan's joint form has 2.1 times their own form's."""

SHARED = 0.5
"""Share of (N, D) points that must lie in budgets of enough sizes for there to be valleys."""

VALLEY_DRAWS = 200
"""Draws of a valley, for whether it is bracketed; no interval is made of them."""


@dataclass(frozen=True)
class Runs:
    """The runs of one convention, measured loss and selection, before any window."""

    choices: Choices
    frame: pd.DataFrame
    """Columns n_params, tokens, flops, loss and what cells need."""
    planned: Floats
    """C that the runs were planned with, which budgets share."""

    @cached_property
    def columns(self) -> tuple[Floats, Floats, Floats, Floats]:
        """N, D, C and L."""
        n, d, c, loss = (
            self.frame[name].to_numpy(float) for name in ("n_params", "tokens", "flops", "loss")
        )
        return n, d, c, loss

    @cached_property
    def cost(self) -> CostLaw:
        """How C follows from N and D in the convention: what the surface's a is read at."""
        if self.choices.get("convention") != Convention.attention.name:
            return SIX_ND
        return fit_cost_law(*self.columns[:3])

    @cached_property
    def residuals(self) -> Floats:
        """Log residuals about the certified surface of all these runs, by the default cost."""
        n, d, _, loss = self.columns
        return certify(n, d, loss, Form.chinchilla, *COSTS["huber 1e-3"])[0].residuals

    def used(self, window: str, outliers: str) -> Mask:
        """Return the runs that a window and a rule for outliers leave."""
        _, _, c, loss = self.columns
        kept = np.ones(len(c), dtype=bool)
        if window == WINDOWS[1]:
            kept = c >= np.quantile(c, 1 / 3, method="higher")
        elif window == WINDOWS[2]:
            kept = c <= np.quantile(c, 2 / 3, method="lower")
        if outliers == OUTLIERS[1]:
            count = max(1, round(LARGEST_SHARE * int(kept.sum())))
            kept = kept & (loss < np.sort(loss[kept])[-count])
        elif outliers == OUTLIERS[2]:
            residual = np.abs(self.residuals)
            kept = kept & (residual <= FAR_SD * 1.4826 * float(np.median(residual[kept])))
        return kept


def collect_runs(frame: pd.DataFrame) -> list[Runs]:
    """Return the table under every convention, measured loss and selection that differ.

    Args:
        frame: Usable runs as the table has them, in no convention yet.
    """
    found: list[Runs] = []
    for convention in Convention:
        try:
            counted, _ = in_convention(frame, convention)
        except InputError:
            continue
        for measured, runs in _measured(counted):
            best = make_cells(runs).best
            for name, kept in (("best of each cell", best), ("every run", ~best | best)):
                if not kept.any():  # every best learning rate is at an end of its grid
                    continue
                choices = {"convention": convention.name, "measured": measured, "runs": name}
                chosen = Runs(
                    choices, runs[kept].reset_index(drop=True), frame["flops"].to_numpy(float)[kept]
                )
                if not any(_same(chosen, other) for other in found):
                    found.append(chosen)
    return found


def _measured(runs: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    yield "loss", runs
    if "loss_train" in runs:
        training = runs["loss_train"].to_numpy(float)
        if (np.isfinite(training) & (training > 0)).all():
            yield "loss_train", runs.assign(loss=training)


def _same(one: Runs, other: Runs) -> bool:
    """Return whether two sets of runs are the same numbers."""
    return len(one.frame) == len(other.frame) and all(
        np.allclose(a, b, rtol=1e-9, atol=0.0)
        for a, b in zip(one.columns, other.columns, strict=True)
    )


@dataclass
class Subset:
    """Some of the runs, with the fits that its universes share."""

    runs: Runs
    used: Mask
    """Shape (runs,)."""
    parent: "Subset | None" = None
    """Where refits start: the same window before a rule for outliers; for a window all runs, and
    only for forms other than Chinchilla's, which is certified in every window."""
    is_window: bool = False
    """Whether no rule for outliers has been applied."""
    _surfaces: dict[str, Reference] = field(default_factory=dict)
    _costs: dict[str, float] = field(default_factory=dict)
    """Objective of each form that was asked for, by the default cost."""
    _cells: list[Cells] = field(default_factory=list)

    def surface(self, form: str, cost: str) -> float:
        """Return a by the surface, or refuse."""
        reference = self._reference(form)
        self._check_misfit(form)
        loss, delta = COSTS[cost]
        starts = reference.optima
        if loss is Loss.lad:  # sharp costs crawl along ridges that squares cross
            squares = self._refit(replace(reference, loss=Loss.mse)).theta
            starts = np.concatenate([starts[:1], squares[np.isfinite(squares).all(axis=1)]])
        a = float(self._refit(replace(reference, optima=starts, loss=loss, delta=delta)).a[0])
        if not np.isfinite(a):
            raise RefusedError(f"the {form} surface by {cost} did not converge; add runs")
        return self.runs.cost.exponent_from(a)

    def _check_misfit(self, form: str) -> None:
        """Refuse a form that fits these runs much worse than another does."""
        if form not in self._costs:
            self._costs[form] = self._cost_of(self._reference(form))
        best = min(self._costs, key=self._costs.__getitem__)
        times = self._costs[form] / max(self._costs[best], 1e-12)
        if times > MISFIT:
            raise RefusedError(
                f"the {form} surface costs {times:.1f} times as much as the {best} one, above "
                f"{MISFIT:g}: it does not describe these runs"
            )

    def _cost_of(self, reference: Reference) -> float:
        ends = refit(reference, np.ones((1, int(self.used.sum()))))
        return float(ends.value[0])

    def _refit(self, reference: Reference) -> Reweighted:
        return refit_reweighted(reference, 0.0, np.ones((1, int(self.used.sum()))))

    def _reference(self, form: str) -> Reference:
        if form not in self._surfaces:
            n, d, _, loss = (column[self.used] for column in self.runs.columns)
            if self.parent is None or (self.is_window and form == "chinchilla"):
                found = certify(n, d, loss, FORMS[form], *COSTS["huber 1e-3"])[1]
            else:
                whole = self.parent._reference(form)
                check_design(n, d, whole.formula.n_free)
                rows = self.used[self.parent.used]
                x, y, log_loss = whole.points.x, whole.points.y, whole.points.log_loss
                found = replace(whole, points=Points(x[rows], y[rows], log_loss[rows]))
            self._surfaces[form] = found
        return self._surfaces[form]

    def valleys(self, method: str) -> float:
        """Return a by valleys, or refuse."""
        if not self._cells:
            self._cells.append(
                _budget_cells(self.runs.frame[self.used], self.runs.planned[self.used])
            )
        cells = self._cells[0]
        found = find_valleys(cells, Method[method], VALLEY_DRAWS, 0)
        return fit_isoflop(found, cells, 0).n_law.fit.exponent


def _budget_cells(runs: pd.DataFrame, planned: Floats) -> Cells:
    """Return cells that share C in their own counting, re-cut where only the planned C is shared.

    Runs of continuous C are refused at once: budget by budget it takes a second to find out.
    """
    cells = make_cells(runs)
    shared = _shared(cells.frame["flops"].to_numpy(float))
    if shared >= SHARED * len(cells.frame):
        return cells
    # the same cells in the same order, since C plays no part in which runs form one
    by_plan = make_cells(runs.assign(flops=planned)).frame["flops"].to_numpy(float)
    if _shared(by_plan) >= SHARED * len(by_plan):
        return make_cells(reslice(cells.frame, by_plan))
    raise RefusedError(
        f"only {shared} of {len(cells.frame)} (N, D) points share their C with {MIN_SIZES - 1} "
        "others, so there are no valleys; add runs of several sizes at equal C"
    )


def _shared(flops: Floats) -> int:
    """Count points in budgets of enough sizes."""
    labels = group_budgets(flops)
    sizes = np.bincount(labels[labels >= 0], minlength=1)
    return int(sizes[sizes >= MIN_SIZES].sum())
