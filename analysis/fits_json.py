"""fits.json: what the fits came to, for other programs (DESIGN, section 7).

Keys are only ever added. An approach that cannot be fitted has `refused` and no numbers.
"""

from typing import Any

from analysis.config import Loss
from analysis.envelope.fit import EnvelopeFit
from analysis.fits import Analysis
from analysis.isoflop.fit import IsoflopFit
from analysis.isoflop.noise import SeedNoise
from analysis.parametric.result import ParametricFit
from analysis.powerlaw import Law
from analysis.prediction.draws import draws_for_json, measured_for_json
from analysis.refusal import Refusal, fitted
from analysis.scrutiny.parts_json import scrutiny_json
from analysis.verdict import Verdict
from train.storage.records import SCHEMA_VERSION


def to_json(analysis: Analysis) -> dict[str, Any]:
    """Return fits.json's content."""
    table = analysis.table
    by_valleys, by_curves = fitted(analysis.isoflop), fitted(analysis.envelope)
    return {
        "schema": SCHEMA_VERSION,
        "inputs": {
            "rows": table.n_rows,
            "used": len(table.frame),
            "excluded": [
                {"run_id": item.run_id, "reason": item.reason, "detail": item.detail}
                for item in table.excluded
            ],
            "sha256": table.sha256,
        },
        "conventions": {
            "n_params": analysis.options.convention.name,
            "flops": analysis.flops_counting,
        },
        "isoflop": _isoflop_json(analysis.isoflop),
        "parametric": _parametric_json(analysis.parametric, analysis.cost.power),
        "envelope": _envelope_json(analysis.envelope),
        "verdict": _verdict_json(analysis.verdict),
        **scrutiny_json(analysis),
        "measured": measured_for_json(analysis.best, analysis.cost),
        "draws": draws_for_json(
            fitted(analysis.parametric),
            (by_valleys.n_law, by_valleys.d_law) if by_valleys else None,
            (by_curves.n_law, by_curves.d_law) if by_curves else None,
        ),
    }


def _laws_json(n_law: Law, d_law: Law) -> dict[str, Any]:
    return {
        "a": n_law.fit.exponent,
        "a_ci": list(n_law.interval),
        "b": d_law.fit.exponent,
        "b_ci": list(d_law.interval),
        "k_n": n_law.fit.coefficient,
        "k_d": d_law.fit.coefficient,
    }


def _isoflop_json(fit: IsoflopFit | Refusal) -> dict[str, Any]:
    if isinstance(fit, Refusal):
        return {"refused": fit.why}
    return {
        **_laws_json(fit.n_law, fit.d_law),
        "method": fit.method.name,
        "noise": fit.noise,
        "noise_source": fit.noise_source,
        "noise_shared_within_runs": fit.shared,
        "excess": fit.excess,
        "seeds": _seeds_json(fit.seeds),
        "valleys": [
            {
                "flops": v.flops,
                "n_opt": v.n_opt,
                "d_opt": v.d_opt,
                "loss": v.loss,
                "bracketed": v.bracketed,
                "sizes": len(v.n_params),
                **({"why": v.why} if v.why else {}),
            }
            for v in fit.valleys
        ],
    }


def _seeds_json(seeds: SeedNoise | None) -> dict[str, Any] | None:
    """Return how replicas scatter: sd of log loss, and its slope on the log of what `by` says."""
    if seeds is None:
        return None
    names = ("sd", "freedom", "by", "slope", "pivot")
    return {name: getattr(seeds, name) for name in names}


def _parametric_json(fit: ParametricFit | Refusal, cost_power: float) -> dict[str, Any]:
    """Return the surface; D_opt grows as C**(1 - m a) where C = c N**m D."""
    if isinstance(fit, Refusal):
        return {"refused": fit.why}
    a, (a_low, a_high) = fit.values["a"], fit.intervals["a"]
    return {
        **fit.values,
        **{f"{name}_ci": list(fit.intervals[name]) for name in fit.names},
        "b": 1.0 - cost_power * a,
        "b_ci": [1.0 - cost_power * a_high, 1.0 - cost_power * a_low],
        "form": fit.form.name,
        "loss": fit.loss.name,
        **({"delta": fit.delta} if fit.loss is Loss.huber else {}),
        "objective": fit.objective,
        "converged": fit.converged,
        "gradient": fit.gradient,
        "condition": fit.condition,
        "starts": fit.n_starts,
        "starts_moved": fit.starts_moved,
        "starts_reached": fit.starts_reached,
        "basins": fit.n_basins,
        "runs": fit.n_runs,
        "clusters": fit.n_clusters,
        "resampling": fit.resampling,
        "resamples": len(fit.draws),
        "resamples_failed": fit.n_failed,
        "profile_ci": {name: [item.low, item.high] for name, item in fit.profiles.items()},
        "not_identified": list(fit.not_identified),
    }


def _envelope_json(fit: EnvelopeFit | Refusal) -> dict[str, Any]:
    if isinstance(fit, Refusal):
        return {"refused": fit.why}
    return {
        **_laws_json(fit.n_law, fit.d_law),
        "source": fit.source,
        "biased": fit.biased,
        "runs": fit.n_runs,
        "points": [vars(point) for point in fit.points],
    }


def _verdict_json(verdict: Verdict) -> dict[str, Any]:
    return {
        "agree": verdict.agree,
        "comparisons": [
            {
                "approaches": list(item.approaches),
                "difference": item.difference,
                "sigmas": item.sigmas,
                "agree": item.agree,
            }
            for item in verdict.comparisons
        ],
        "trust": verdict.trust,
        "notes": list(verdict.notes),
    }
