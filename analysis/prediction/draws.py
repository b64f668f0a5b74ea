"""What fits.json holds so that a prediction can have an interval: thinned draws, what was run.

`draws` has, by approach, `names` and `rows` of the bootstrap's answers; `measured` has the ranges
of the runs and how C follows from N and D. Both are written here and read in fits_file.py.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.parametric.frontier import SIX_ND, CostLaw, tail_of
from analysis.powerlaw import Law

if TYPE_CHECKING:
    from analysis.parametric.result import ParametricFit

Floats = NDArray[np.float64]

MAX_ROWS = 1000
"""Draws kept: the ends of a 95 % interval then carry a Monte Carlo error of 7 % of its sd."""

DIGITS = 7
"""Significant digits kept."""

LAW_NAMES = ("a", "log_n", "b", "log_d")
"""Exponents of N_opt and D_opt, and their natural logs at `log_flops`."""

EXACT = 0.02
"""C counts as 6 N D when every run's C is within this of it."""


def draws_for_json(
    parametric: "ParametricFit | None",
    isoflop: tuple[Law, Law] | None,
    envelope: tuple[Law, Law] | None,
) -> dict[str, Any]:
    """Return the value of the key `draws`.

    Args:
        parametric: The surface with its draws; None when refused.
        isoflop: Its laws of N and of D (n_law, d_law); None when refused.
        envelope: The same of the envelope.

    Returns:
        By approach {"names": [...], "rows": [[...]], "tail": share beyond each end of a_ci}; laws
        also have "log_flops", at which their heights are. Refused approaches are left out.
    """
    out: dict[str, Any] = {}
    if parametric is not None:
        names = parametric.names
        a = parametric.draws[:, names.index("a")]
        keep = [k for k, name in enumerate(names) if name != "a"]
        out["parametric"] = {
            "names": [names[k] for k in keep],
            "tail": tail_of(a, parametric.intervals["a"]),
            "rows": thin(parametric.draws[:, keep]),
        }
    for name, laws in (("isoflop", isoflop), ("envelope", envelope)):
        if laws is None:
            continue
        n_law, d_law = laws
        shift = n_law.fit.log_pivot - d_law.fit.log_pivot
        heights = d_law.heights + shift * d_law.exponents
        columns = (n_law.exponents, n_law.heights, d_law.exponents, heights)
        out[name] = {
            "names": list(LAW_NAMES),
            "log_flops": n_law.fit.log_pivot,
            "tail": tail_of(n_law.exponents[np.isfinite(n_law.exponents)], n_law.interval),
            "rows": thin(np.stack(columns, axis=1)),
        }
    return out


def thin(rows: Floats) -> list[list[float]]:
    """Return at most MAX_ROWS finite rows, evenly spaced, rounded to DIGITS."""
    rows = rows[np.isfinite(rows).all(axis=1)]
    if len(rows) > MAX_ROWS:
        rows = rows[np.linspace(0, len(rows) - 1, MAX_ROWS).round().astype(int)]
    return [[float(f"{value:.{DIGITS}g}") for value in row] for row in rows]


def measured_for_json(runs: pd.DataFrame, cost: CostLaw | None = None) -> dict[str, Any]:
    """Return the value of the key `measured`: ranges of the runs, and C as a law of N and D.

    Args:
        runs: The runs that were fitted, n_params and flops in the convention asked for.
        cost: How C follows from N and D in it; None fits it to the runs.
    """
    if cost is None:
        cost = fit_cost_law(
            *(runs[name].to_numpy(float) for name in ("n_params", "tokens", "flops"))
        )
    ranges = {
        name: [float(runs[name].min()), float(runs[name].max())]
        for name in ("flops", "n_params", "tokens", "loss")
    }
    return {**ranges, "flops_law": {"coefficient": cost.coefficient, "power": cost.power}}


def fit_cost_law(n_params: Floats, tokens: Floats, flops: Floats) -> CostLaw:
    """Fit C = c N**m D by least squares on logs; exactly 6 N D where the runs say so.

    Source:
        Ours. Attention's share of the FLOPs falls with size, so exact C grows slower than 6 N D;
        within a study's range a power of N follows it.
    """
    log_ratio = np.log(flops / tokens)
    log_n = np.log(n_params)
    if np.abs(log_ratio - log_n - np.log(6.0)).max() < EXACT:
        return SIX_ND
    centered = log_n - log_n.mean()
    spread = float(centered @ centered)
    power = float(centered @ log_ratio) / spread if spread > 1e-6 else 1.0
    return CostLaw(float(np.exp(log_ratio.mean() - power * log_n.mean())), power)
