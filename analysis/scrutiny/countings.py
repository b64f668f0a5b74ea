"""One fitted surface's frontier with and without embeddings: how far counting alone moves a."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.config import Convention
from analysis.errors import RefusedError
from analysis.intake.conventions import CONVENTIONS
from analysis.parametric.result import SurfaceFit
from analysis.scrutiny.pearce import (
    PEARCE,
    CountedCurve,
    Counting,
    Embedding,
    fit_embedding,
    frontier_by_counting,
    powers_of,
)


@dataclass(frozen=True)
class CountedCurves:
    """One surface's frontier without and with embeddings."""

    curves: tuple[CountedCurve, CountedCurve]
    """Non-embedding, then the larger counting."""
    embedding: Embedding
    published: bool
    """Whether the relation is Pearce & Song's, for want of the table's own columns."""


def countings_of(fit: SurfaceFit, frame: pd.DataFrame, convention: Convention) -> CountedCurves:
    """Return the frontier in two countings, by the table's own columns or a published relation.

    Where the table does not say what its N counts, it is taken to be everything, as in Hoffmann et
    al. 2022, and embeddings to be as in the models that Pearce & Song fitted.

    Raises:
        RefusedError: The countings do not differ, or none of them is a relation of this kind.
    """
    try:
        curves, embedding = curves_by_counting(fit, frame, convention)
        return CountedCurves(curves, embedding, published=False)
    except RefusedError:
        counted = {"n_params_non_embedding", "n_params_total"} & set(frame.columns)
        if convention is not Convention.standard or counted:
            raise
    sizes = frame["n_params"]
    ends = tuple(float(_without_embedding(PEARCE, n)) for n in (sizes.min(), sizes.max()))
    non_embedding, total = (
        frontier_by_counting(
            powers_of(fit),
            PEARCE,
            surface_counts=Counting.total,
            counting=counting,
            sizes=(ends[0], ends[1]),
        )
        for counting in Counting
    )
    return CountedCurves((non_embedding, total), PEARCE, published=True)


def _without_embedding(embedding: Embedding, total: float) -> float:
    """Return the N_E of a total, by bisection: N_T grows with N_E."""
    low, high = 1e-9 * total, total
    for _ in range(200):
        middle = float(np.sqrt(low * high))
        if float(embedding.total(np.array(middle))) < total:
            low = middle
        else:
            high = middle
    return high


def curves_by_counting(
    fit: SurfaceFit, frame: pd.DataFrame, convention: Convention
) -> tuple[tuple[CountedCurve, CountedCurve], Embedding]:
    """Return a(C) of a fitted surface in non-embedding parameters and in the larger counting.

    Args:
        fit: The surface of runs counted in `convention`.
        frame: Those runs, with the columns of the countings.
        convention: What the surface's N counts. The larger counting is its own column, or all
            parameters where it is Kaplan's.

    Returns:
        Non-embedding and the larger counting over the runs' range of sizes, and their relation.

    Raises:
        RefusedError: The table has no columns of two countings, or they do not differ.
    """
    own = CONVENTIONS[convention][0]
    larger = "n_params_total" if convention is Convention.kaplan else own
    counted = {
        name: frame[column].to_numpy(float) if column in frame else np.full(len(frame), np.nan)
        for name, column in (("E", "n_params_non_embedding"), ("T", larger))
    }
    if not all(np.isfinite(values).all() for values in counted.values()):
        raise RefusedError(
            "the exponent in two countings needs the columns n_params_non_embedding and "
            f"{larger} for every run; add them to the table"
        )
    embedding = fit_embedding(counted["E"], counted["T"])
    is_small = convention is Convention.kaplan
    ends = float(counted["E"].min()), float(counted["E"].max())
    non_embedding, total = (
        frontier_by_counting(
            powers_of(fit),
            embedding,
            surface_counts=Counting.non_embedding if is_small else Counting.total,
            counting=counting,
            sizes=ends,
        )
        for counting in Counting
    )
    return (non_embedding, total), embedding
