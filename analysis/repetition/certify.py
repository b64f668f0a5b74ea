"""The lowest point of the repetition objective, and how it moves when the runs are resampled."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.bootstrap import Interval, percentile_interval, resample_counts
from analysis.errors import RefusedError
from analysis.repetition import effective
from analysis.repetition.effective import R_BOX, R_D, R_N
from analysis.repetition.log_surface import log_surface
from analysis.repetition.profile import Profile, profile_r
from analysis.repetition.solver import Task, descend, expand, leaving, objective

Floats = NDArray[np.float64]

COLUMNS = {"R_D": R_D, "R_N": R_N}

MAX_ROUNDS = 4
"""Times the fit is redone from where a profile went lower."""

HELD_R, HELD_STARTS = np.geomspace(*R_BOX, 73), 40
"""Grid of either R on a surface that is held, and how many of its cells are starts."""

EDGE = 0.1
"""Nats of log R from an end of the box within which an R is at its limit."""


@dataclass(frozen=True)
class Certified:
    """The lowest point that starts and profiles found."""

    q: Floats
    objective: float
    gradient: float
    """Largest cosine between the runs' scores and a parameter's tangent: 0 at an optimum."""
    n_starts: int
    starts_reached: int
    """Starts that ended at this objective."""
    profiles: dict[str, Profile]
    """R_D and R_N."""


def certify(starts: Floats, task: Task) -> Certified:
    """Descend from every start, then along both profiles: where one goes lower, all is redone.

    Raises:
        RefusedError: No start converged.
    """
    # On a held surface the starts are already in the basins of the cost asked for.
    first = ends = descend(starts, task, through=()) if task.held else descend(starts, task)
    for _ in range(MAX_ROUNDS):
        if not ends.converged.any():
            raise RefusedError(
                f"none of {len(starts)} starts of the repetition fit converged; look for runs "
                "whose loss is far from their neighbours'"
            )
        value = np.where(ends.converged, ends.value, np.inf)
        best, lowest = ends.q[np.argmin(value)], float(value.min())
        profiles = {name: profile_r(k, (best, lowest), task) for name, k in COLUMNS.items()}
        if min(profile.objective.min() for profile in profiles.values()) >= lowest * (1 - 1e-9):
            break
        lows = [profile.q[profile.objective.argmin()] for profile in profiles.values()]
        ends = descend(np.stack([best, *lows]), task, through=())
    return Certified(
        q=best,
        objective=lowest,
        gradient=_cosine(best, task),
        n_starts=len(starts),
        starts_reached=int((first.value <= lowest * (1 + 1e-8) + 1e-20).sum()),
        profiles=profiles,
    )


def _cosine(q: Floats, task: Task) -> float:
    """Return the largest cosine between the runs' scores and a free parameter's tangent."""
    points = task.points
    local = expand(q[None], points, np.ones((1, len(points.x))), task.delta)
    residual = log_surface(q[None], points).prediction[0] - points.log_loss
    scores = np.linalg.norm(np.clip(residual, -task.delta, task.delta))
    gradient = np.where(leaving(q[None], local.gradient), 0.0, local.gradient)[0]
    gradient[list(task.held)] = 0.0
    tangents = np.sqrt(np.diagonal(local.metric[0]))
    return float((np.abs(gradient) / np.maximum(scores * tangents, 1e-300)).max())


def held_starts(surface: Mapping[str, float], task: Task, centers: tuple[float, float]) -> Floats:
    """Return the lowest cells of a grid over (R_D, R_N) on the surface given, shape (S, 7)."""
    first = effective.to_q({**surface, "R_D": 1.0, "R_N": 1.0}, centers)
    cells = np.repeat(first[None], len(HELD_R) ** 2, axis=0)
    cells[:, R_D] = np.repeat(np.log(HELD_R), len(HELD_R))
    cells[:, R_N] = np.tile(np.log(HELD_R), len(HELD_R))
    return np.asarray(cells[np.argsort(objective(cells, task))[:HELD_STARTS]])


def resample(
    q: Floats, task: Task, families: NDArray[np.int64], resamples: int, seed: int
) -> tuple[dict[str, Interval], int]:
    """Refit resamples of whole families.

    Args:
        q: The fit of all runs.
        task: What was fitted.
        families: Shape (runs,). From 0 without gaps.
        resamples: Refits.
        seed: Seeds the draws.

    Returns:
        The 95 % interval of R_D and of R_N, an end that is at its limit 0 or infinity, and how many
        refits did not converge.
    """
    n, parameters = int(families.max()) + 1, 7 - len(task.held)
    if n <= parameters:
        return dict.fromkeys(COLUMNS, (0.0, np.inf)), 0
    kept, failed = [], 0
    for weights in resample_counts(len(families), resamples, seed, families):
        # Least squares first: it lets go of the residuals at which the whole sample's fit rests.
        ends = descend(np.repeat(q[None], len(weights), axis=0), task, weights)
        kept.append(ends.q[ends.converged])
        failed += int((~ends.converged).sum())
    draws = np.concatenate(kept)
    if len(draws) == 0:
        return dict.fromkeys(COLUMNS, (0.0, np.inf)), failed
    return {
        name: _open_ended(percentile_interval(draws[:, k], n=n, parameters=parameters))
        for name, k in COLUMNS.items()
    }, failed


def _open_ended(log_r: Interval) -> Interval:
    low, high = log_r
    return (
        0.0 if low <= np.log(R_BOX[0]) + EDGE else float(np.exp(low)),
        float(np.inf) if high >= np.log(R_BOX[1]) - EDGE else float(np.exp(high)),
    )
