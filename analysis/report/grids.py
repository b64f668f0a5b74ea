"""Tables of the page, each from one result."""

import math
from collections.abc import Sequence

from analysis.isoflop.fit import Valley
from analysis.parametric.form_comparison import FormComparison
from analysis.parametric.result import ParametricFit
from analysis.report.blocks import Grid, ends, span, yes
from analysis.scrutiny.by_convention import CountedExponent

NO_E = 1e-6
"""Nats below which an irreducible loss is none."""


def valleys(found: tuple[Valley, ...]) -> Grid:
    """Return one row a budget."""
    head = ("C", "sizes", "N_opt", "95 %", "D_opt", "D/N", "loss", "bracketed")
    rows = [
        (
            f"{v.flops:.3g}",
            str(len(v.n_params)),
            f"{v.n_opt:.4g}",
            span(v.n_opt_ci) if v.n_opt_ci else "",
            f"{v.d_opt:.4g}",
            f"{v.d_opt / v.n_opt:.3g}",
            f"{v.loss:.4f}",
            yes(v.bracketed, v.why),
        )
        for v in found
    ]
    return Grid("Valleys", head, rows, frozenset({7}))


def conventions(rows: Sequence[CountedExponent]) -> Grid:
    """Return the exponent under every counting."""
    head = ("counting", "approach", "a", "95 %", "")
    cells = [
        (row.convention, row.approach, "", "", f"no: {row.refused}")
        if row.refused
        else (row.convention, row.approach, f"{row.a:.3f}", ends(row.interval), "")
        for row in rows
    ]
    note = "The same runs, with parameters and FLOPs counted in each way that the table allows."
    title = "Exponents by counting convention"
    return Grid(title, head, cells, frozenset({0, 1, 4}), note, folded=True)


def parameters(fit: ParametricFit) -> Grid:
    """Return the surface's parameters with their intervals."""
    head = ("parameter", "value", "95 % by bootstrap", "95 % by profile", "identified")
    rows = []
    for name, value in fit.values.items():
        profile, interval = fit.profiles[name], fit.intervals[name]
        low = "open" if profile.low is None else f"{profile.low:.4g}"
        high = "open" if profile.high is None else f"{profile.high:.4g}"
        why = "the runs do not bound it"
        rows.append(
            (
                name,
                f"{_none(name, value):.6g}",
                span((_none(name, interval[0]), _none(name, interval[1]))),
                f"[{low}, {high}]",
                yes(profile.identified, why),
            )
        )
    return Grid("Parameters", head, rows, frozenset({0, 4}))


def _none(name: str, value: float) -> float:
    """Return 0 for an E that the fit has pushed to its bound."""
    return 0.0 if name == "E" and value < NO_E else value


def certificate(fit: ParametricFit) -> Grid:
    """Return what shows that the fit is the optimum."""
    total = fit.n_failed + len(fit.draws)
    rows = [
        ("rows, and what was resampled", f"{fit.n_runs}, {fit.n_clusters}"),
        ("cost of a residual", fit.loss.name),
        ("objective", f"{fit.objective:.10g}"),
        ("converged", yes(fit.converged)),
        ("projected gradient (0 at an optimum, at most 1)", f"{fit.gradient:.2g}"),
        ("condition number", f"{fit.condition:.3g}"),
        ("starts that moved and reached it", f"{fit.starts_moved} of {fit.n_starts}"),
        ("starts that ended at it", f"{fit.starts_reached} of {fit.n_starts}"),
        ("optima found within a factor 2 of it", str(fit.n_basins)),
        ("scatter of log loss about it (sd)", f"{100 * fit.residual_sd:.2g} %"),
        ("bootstrap refits that failed", f"{fit.n_failed} of {total}"),
    ]
    note = "What shows that the fit is the optimum of its objective."
    return Grid("Certificate of the fit", ("what", "value"), rows, note=note, folded=True)


def forms(found: FormComparison) -> Grid:
    """Return every form with its errors, the best one marked."""
    head = ("form", "L =", "free", "a", "objective", "fitted", "held out", "ahead", "least error")
    rows: list[tuple[str, ...]] = []
    for row in found.rows:
        if row.refused:
            blank = ("",) * 5
            rows.append(
                (row.form.name, row.equation, str(row.parameters), *blank, f"no: {row.refused}")
            )
            continue
        errors = (row.rms, row.held_out_rms, row.ahead_rms)
        told = ("" if math.isnan(error) else f"{100 * error:.3g} %" for error in errors)
        numbers = (str(row.parameters), f"{row.a:.4f}", f"{row.objective:.6g}", *told)
        best = "yes" if row.form is found.best else ""
        rows.append((row.form.name, row.equation, *numbers, best))
    note = (
        f"Root mean square errors of log loss: of the runs fitted, of each of {found.folds} folds "
        f"predicted by the others, and of the {found.n_ahead} runs from C = {found.ahead_from:.3g} "
        "predicted by the smaller ones."
    )
    return Grid("Forms of the surface", head, rows, frozenset({0, 1, 8}), note, formulas=1)
