"""fits.json: what the fits came to, for other programs (DESIGN, section 7).

Keys are only ever added. An approach that cannot be fitted has `refused` and no numbers.
"""

from typing import Any

from analysis import parametric
from analysis.config import Loss
from analysis.fits import NO_ENVELOPE, Analysis, Refusal
from analysis.isoflop import IsoflopFit
from analysis.parametric import ParametricFit
from train.records import SCHEMA_VERSION


def to_json(analysis: Analysis) -> dict[str, Any]:
    """Return fits.json's content."""
    table = analysis.table
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
        "parametric": _parametric_json(analysis.parametric),
        "envelope": {"refused": NO_ENVELOPE},
        "verdict": {
            "agree": analysis.verdict.agree,
            "trust": analysis.verdict.trust,
            "notes": list(analysis.verdict.notes),
        },
    }


def _isoflop_json(fit: IsoflopFit | Refusal) -> dict[str, Any]:
    if isinstance(fit, Refusal):
        return {"refused": fit.why}
    return {
        "a": fit.n_law.fit.exponent,
        "a_ci": list(fit.n_law.interval),
        "b": fit.d_law.fit.exponent,
        "b_ci": list(fit.d_law.interval),
        "k_n": fit.n_law.fit.coefficient,
        "k_d": fit.d_law.fit.coefficient,
        "method": fit.method.name,
        "noise": fit.noise,
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


def _parametric_json(fit: ParametricFit | Refusal) -> dict[str, Any]:
    if isinstance(fit, Refusal):
        return {"refused": fit.why}
    b_low, b_high = (1.0 - end for end in reversed(fit.intervals["a"]))
    return {
        **{name: fit.values[name] for name in parametric.NAMES},
        **{f"{name}_ci": list(fit.intervals[name]) for name in parametric.NAMES},
        "b": fit.b,
        "b_ci": [b_low, b_high],
        "loss": fit.loss.name,
        **({"delta": fit.delta} if fit.loss is Loss.huber else {}),
        "objective": fit.objective,
        "converged": True,
        "starts": fit.n_starts,
        "starts_moved": fit.starts_moved,
        "basins": fit.n_basins,
        "runs": fit.n_runs,
        "resamples": len(fit.draws),
        "resamples_failed": fit.n_failed,
    }
