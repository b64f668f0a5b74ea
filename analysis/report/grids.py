"""Tables of the page, each from one result."""

from analysis.config import Form
from analysis.isoflop import Valley
from analysis.parametric import ParametricFit
from analysis.report.blocks import Grid, span, yes

FORMULAS = {
    Form.chinchilla: "L(N, D) = E + A / N^alpha + B / D^beta, Hoffmann et al. 2022.",
    Form.kaplan: "L(N, D) = ((A / N)^(alpha / beta) + B / D)^beta, Kaplan et al. 2020.",
    Form.kaplan_e: "L(N, D) = E + ((A / N)^(alpha / beta) + B / D)^beta: Kaplan et al. 2020's "
    "joint form with an irreducible loss.",
    Form.skaling: "L(N, D) = E + A (N^-alpha + R D^-beta)^k, the Skaling form.",
}


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


def parameters(fit: ParametricFit) -> Grid:
    """Return the surface's parameters with their intervals."""
    head = ("parameter", "value", "95 % by bootstrap")
    rows = [(name, f"{value:.6g}", span(fit.intervals[name])) for name, value in fit.values.items()]
    return Grid("Parameters", head, rows)


def certificate(fit: ParametricFit) -> Grid:
    """Return what shows that the fit is the optimum."""
    total = fit.n_failed + len(fit.draws)
    rows = [
        ("runs", str(fit.n_runs)),
        ("cost of a residual", fit.loss.name),
        ("objective", f"{fit.objective:.10g}"),
        ("converged", yes(fit.converged)),
        ("projected gradient (0 at an optimum, at most 1)", f"{fit.gradient:.2g}"),
        ("condition number", f"{fit.condition:.3g}"),
        ("starts that moved and reached this optimum", f"{fit.starts_moved} of {fit.n_starts}"),
        ("optima found", str(fit.n_basins)),
        ("scatter of log loss about it (sd)", f"{100 * fit.residual_sd:.2g} %"),
        ("bootstrap refits that failed", f"{fit.n_failed} of {total}"),
    ]
    return Grid("Certificate", ("of the fit", ""), rows)
