"""Which formula of the surface predicts runs that it has not seen.

Every form is fitted to all runs and certified, then refitted without each fold of runs, and without
the largest budgets. A form with more parameters always fits better; only held-out error says
whether it is better.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.config import Form, Loss
from analysis.errors import RefusedError
from analysis.parametric.fit import certify
from analysis.parametric.forms import FORMULAS
from analysis.parametric.frontier import SIX_ND, CostLaw
from analysis.parametric.identifiable import check_design
from analysis.parametric.refits import Reference, refit
from analysis.parametric.result import SurfaceFit

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

FOLDS = 10
"""Folds of runs; fewer where there are fewer runs."""
AHEAD = 0.2
"""Share of runs, those of the largest compute, that are predicted from the rest."""
SAME_BUDGET = 0.9
"""Compute above this share of the smallest held-out run's is the same budget."""
DECIDED = 0.02
"""Held-out errors within this share of the least are a tie, and fewer parameters win. Ours."""


@dataclass(frozen=True)
class FormRow:
    """One form on one table. Errors are rms of log loss, NaN when refused."""

    form: Form
    equation: str
    parameters: int
    objective: float
    rms: float
    """Of the runs that were fitted."""
    held_out_rms: float
    """Of every run, predicted by the fit without its fold."""
    ahead_rms: float
    """Of the runs of largest compute, predicted by the fit to the others; NaN where the others do
    not determine a surface."""
    a: float
    refused: str = ""
    """Why there are no numbers; '' when there are."""


@dataclass(frozen=True)
class FormComparison:
    """All forms on the same folds."""

    rows: tuple[FormRow, ...]
    """In the order of config.Form."""
    folds: int
    ahead_from: float
    """FLOPs from which runs were held out for ahead_rms."""
    n_ahead: int

    @property
    def best(self) -> Form | None:
        """Least held-out error; among ties the fewest parameters. None when all are refused."""
        fitted = [row for row in self.rows if not row.refused]
        if not fitted:
            return None
        least = min(row.held_out_rms for row in fitted)
        tied = [row for row in fitted if row.held_out_rms <= (1 + DECIDED) * least]
        return min(tied, key=lambda row: (row.parameters, row.held_out_rms)).form


def compare_forms(
    n_params: Floats,
    tokens: Floats,
    nats: Floats,
    *,
    loss: Loss = Loss.huber,
    delta: float = 1e-3,
    seed: int = 0,
    clusters: Ints | None = None,
    cost: CostLaw = SIX_ND,
) -> FormComparison:
    """Fit every form and predict held-out runs with each.

    Args:
        n_params: Shape (runs,). Parameters per run.
        tokens: Shape (runs,). Training tokens per run.
        nats: Shape (runs,). Final loss, nats per token.
        loss: Cost of a residual.
        delta: For huber, nats of log loss.
        seed: Deals the runs into folds.
        clusters: Shape (runs,). Which run a row is a checkpoint of, from 0 without gaps; a run is
            in one fold with all its rows.
        cost: Of a run, that a is read at.

    Returns:
        A row for each form; one that cannot be fitted is in it with its reason.

    Raises:
        RefusedError: There are no runs.
    """
    if len(nats) == 0:
        raise RefusedError("no runs are left to compare forms on; add runs")
    codes = np.arange(len(nats)) if clusters is None else clusters
    fold = _deal(codes, seed)
    flops = 6.0 * n_params * tokens
    start = SAME_BUDGET * float(np.quantile(flops, 1.0 - AHEAD))
    ahead = flops >= start
    held_out = np.concatenate([fold == np.arange(fold.max() + 1)[:, None], ahead[None]])
    rows = []
    for form in Form:
        try:
            fit, reference = certify(n_params, tokens, nats, form, loss, delta)
            looks_ahead = _is_a_design(n_params, tokens, ahead, form)
            rows.append(_row(fit, reference, held_out, looks_ahead, cost))
        except RefusedError as error:
            rows.append(_refused(form, str(error)))
    return FormComparison(
        tuple(rows), int(fold.max()) + 1, float(flops[ahead].min()), int(ahead.sum())
    )


def _deal(codes: Ints, seed: int) -> Ints:
    """Return each row's fold; rows of one code share it."""
    count = int(codes.max()) + 1
    order = np.random.default_rng(seed).permutation(count)
    return np.asarray((order % min(FOLDS, count))[codes], dtype=np.int64)


def _is_a_design(n_params: Floats, tokens: Floats, ahead: Mask, form: Form) -> bool:
    try:
        check_design(n_params[~ahead], tokens[~ahead], FORMULAS[form].n_free)
    except RefusedError:
        return False
    return True


def _row(
    fit: SurfaceFit, reference: Reference, held_out: Mask, can_look_ahead: bool, cost: CostLaw
) -> FormRow:
    """Refit without each mask of held-out rows; the last mask is the largest budgets."""
    ends = refit(reference, (~held_out).astype(np.float64))
    lost = int((~ends.converged[:-1]).sum())
    if lost:
        raise RefusedError(
            f"{lost} of {len(held_out) - 1} fits without a fold of runs did not converge: the runs "
            "do not pin this form down; add runs, or sizes and token counts further apart"
        )
    points = reference.points
    errors = fit.formula.log_prediction(ends.theta, points.x, points.y) - points.log_loss
    return FormRow(
        form=fit.form,
        equation=fit.formula.equation,
        parameters=fit.formula.n_free,
        objective=fit.objective,
        rms=_rms(fit.residuals),
        held_out_rms=_rms(errors[:-1][held_out[:-1]]),
        ahead_rms=_rms(errors[-1][held_out[-1]])
        if can_look_ahead and ends.converged[-1]
        else float("nan"),
        a=cost.exponent_from(fit.values["a"]),
    )


def _refused(form: Form, why: str) -> FormRow:
    formula, nan = FORMULAS[form], float("nan")
    return FormRow(form, formula.equation, formula.n_free, nan, nan, nan, nan, nan, why)


def _rms(errors: Floats) -> float:
    return float(np.sqrt(np.mean(errors * errors)))
