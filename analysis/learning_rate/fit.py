"""Power laws of the best learning rate and batch: lr = k N**p D**q, batch = k D**r.

Intervals come from refitting everything to resampled data, as for valleys: noise on each group's
surface, and what the optima scatter about the law beyond it as a further draw between groups.
Limits: the window of a surface is taken as given (`windows` shows what others would say), and the
quadratic's lack of fit counts as noise.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from analysis.bootstrap import Interval
from analysis.errors import RefusedError
from analysis.learning_rate.joint_power_law import JointLaw, fit_joint_law, identified
from analysis.learning_rate.optima import OptimaSurvey, TunedGroup
from analysis.learning_rate.response_surface import WINDOW_RISE, fit_surface, robust_sd

Floats = NDArray[np.float64]

MIN_GROUPS = 4
"""Optima that a law needs: with two exponents and a constant, 3 always lie on one."""

OTHER_RISES = (0.01, 0.04)
"""Windows beside WINDOW_RISE under which the laws are fitted again, to show what hangs on it."""

BATCHES_APART = 1.05
"""Largest over smallest batch of groups that are held to share it."""

LEAST_MOVE = 0.02
"""Difference of exponents between windows below which nothing is said of it."""

SHOWN = 4
"""Groups that a refusal names."""


@dataclass(frozen=True)
class LearningRateFit:
    """lr_opt = k N**p D**q and batch_opt = k D**r, and the optima behind them."""

    lr_law: JointLaw
    batch_law: JointLaw | None
    batch_refused: str
    """Why there is no batch law."""
    survey: OptimaSurvey
    used: NDArray[np.bool_]
    """Shape (groups,)."""
    penalty: float
    """Median rise of log loss at a learning rate off by a factor of 2."""
    penalty_range: Interval
    """Lowest and highest of the groups used."""
    batch_slope: float
    """Median of d log(best learning rate) / d log(batch): at a batch other than the best one, the
    best learning rate is (batch / batch_at)**batch_slope times lr_at; nan without batches."""
    windows: tuple[tuple[float, dict[str, float]], ...]
    """Relative rise of the window, and the exponents under it: n_params, tokens, batch_tokens."""
    notes: tuple[str, ...]

    def lr_at(self, n_params: float, tokens: float) -> tuple[float, Interval]:
        """Return the best learning rate of a run and its 95 % band."""
        return self.lr_law.at(n_params=n_params, tokens=tokens)

    def batch_at(self, tokens: float) -> tuple[float, Interval]:
        """Return the best batch in tokens of a run and its 95 % band.

        Raises:
            RefusedError: There is no batch law.
        """
        if self.batch_law is None:
            raise RefusedError(f"no batch law: {self.batch_refused}")
        return self.batch_law.at(tokens=tokens)


def fit_learning_rate(survey: OptimaSurvey, *, seed: int) -> LearningRateFit:
    """Fit the power laws through the optima.

    Args:
        survey: The optima.
        seed: Seeds the draws of scatter between groups.

    Raises:
        RefusedError: Fewer than 4 groups with an interior optimum, or groups that determine no
            exponent; the message says which runs to add.

    Source:
        Forms: lr = k N**p D**q and batch = k D**r, Li et al. 2025 (Step Law, arXiv:2503.04715).
    """
    groups = survey.groups
    used, notes = _choose(groups)
    if used.sum() < MIN_GROUPS:
        raise RefusedError(_too_few(groups, int(used.sum())))
    chosen = [group for group, use in zip(groups, used, strict=True) if use]
    lr_law, left_out = _fit_law(chosen, axis=0, seed=seed)
    if left_out:
        notes.append(f"The learning-rate law has no exponent of its own where {left_out}.")
    batch_law, refused = None, "batch size was not varied (3 or more sizes at each N and D)"
    if chosen[0].grid.settings.shape[1] == 2:
        try:
            batch_law, refused = _fit_law(chosen, axis=1, seed=seed + 1)[0], ""
        except RefusedError as error:
            refused = str(error)
    penalties = np.array([group.penalty for group in chosen])
    fit = LearningRateFit(
        lr_law,
        batch_law,
        refused,
        survey,
        used,
        float(np.median(penalties)),
        (float(penalties.min()), float(penalties.max())),
        float(np.median([group.batch_slope for group in chosen])),
        (),
        (*survey.notes, *notes),
    )
    windows = _other_windows(fit)
    return replace(fit, windows=windows, notes=(*fit.notes, *_moved(fit, windows)))


def _choose(groups: tuple[TunedGroup, ...]) -> tuple[NDArray[np.bool_], list[str]]:
    """Take the interior optima of one kind: at the best batch, or at a given one."""
    interior = np.array([group.interior for group in groups])
    axes = np.array([group.grid.settings.shape[1] for group in groups])
    notes = [
        f"N = {g.n_params:.3g}, D = {g.tokens:.3g} is not used: {g.why}."
        for g in groups
        if not g.interior
    ]
    counts = {kind: int((interior & (axes == kind)).sum()) for kind in (2, 1)}
    kind = max(counts, key=lambda k: counts[k])
    if min(counts.values()):
        word = "one batch" if kind == 2 else "several batches"
        notes.append(f"{counts[3 - kind]} groups that were tuned at {word} are not used.")
    used = interior & (axes == kind)
    batches = [g.batch_opt for g, use in zip(groups, used, strict=True) if use]
    if kind == 1 and used.any() and max(batches) > BATCHES_APART * min(batches):
        notes.append(
            f"Batch differs between groups ({min(batches):.3g} to {max(batches):.3g} tokens) and "
            "was not tuned: the law holds along these batches."
        )
    return used, notes


def _fit_law(chosen: list[TunedGroup], axis: int, seed: int) -> tuple[JointLaw, str]:
    variables = {
        "n_params": np.array([group.n_params for group in chosen]),
        "tokens": np.array([group.tokens for group in chosen]),
    }
    if axis == 1:
        del variables["n_params"]
    names, left_out = identified(variables)
    if not names:
        raise RefusedError(f"{left_out}; add groups of other sizes and tokens")
    variables = {name: variables[name] for name in names}
    best = np.array([group.batch_opt if axis else group.lr_opt for group in chosen])
    drawn = np.stack([group.optimum.draws[:, axis] for group in chosen], axis=1)
    if not np.isfinite(drawn).any():
        # Without noise of a loss, the scatter about the law is all there is.
        drawn = np.broadcast_to(np.log(best), drawn.shape)
    law = fit_joint_law(variables, best, drawn)
    extra = _excess(law, drawn, np.random.default_rng(seed))
    return fit_joint_law(variables, best, drawn + extra), left_out


def _excess(law: JointLaw, drawn: Floats, rng: np.random.Generator) -> Floats:
    """Return draws of the scatter about the law that noise does not explain."""
    resamples, count = drawn.shape
    freedom = count - 1 - len(law.names)
    if freedom < 1:
        return np.zeros_like(drawn)
    explained = float(np.mean([robust_sd(column) ** 2 for column in drawn.T]))
    # The scatter is known to its freedom only, so each draw of its variance has its own excess.
    variance = law.residual_sd**2 * freedom / rng.chisquare(freedom, resamples)
    excess = np.sqrt(np.maximum(0.0, variance - explained))
    return np.asarray(excess[:, None] * rng.standard_normal((resamples, count)))


def _other_windows(fit: LearningRateFit) -> tuple[tuple[float, dict[str, float]], ...]:
    """Fit the laws again under other windows, points only."""
    found = []
    for rise in (OTHER_RISES[0], WINDOW_RISE, *OTHER_RISES[1:]):
        at: list[Floats] = []
        kept: list[TunedGroup] = []
        for group, use in zip(fit.survey.groups, fit.used, strict=True):
            surface = fit_surface(group.grid.settings, group.grid.loss, rise) if use else None
            if surface is not None and not surface.why:
                kept.append(group)
                at.append(surface.optimum)
        if len(kept) < MIN_GROUPS:
            continue
        exponents: dict[str, float] = {}
        for law, axis in ((fit.lr_law, 0), (fit.batch_law, 1)):
            if law is None:
                continue
            variables = {n: np.array([getattr(g, n) for g in kept]) for n in law.names}
            best = np.exp(np.array([point[axis] for point in at]))
            again = fit_joint_law(variables, best, np.log(best)[None])
            names = ("batch_tokens",) if axis else law.names
            exponents |= dict(zip(names, map(float, again.exponents), strict=True))
        found.append((rise, exponents))
    return tuple(found)


def _moved(fit: LearningRateFit, windows: tuple[tuple[float, dict[str, float]], ...]) -> list[str]:
    """Note exponents that the window moves by over half of their interval."""
    laws = [(name, fit.lr_law, name) for name in fit.lr_law.names]
    if fit.batch_law is not None:
        laws.append(("batch_tokens", fit.batch_law, "tokens"))
    notes = []
    for key, law, name in laws:
        low, high = law.interval(name)
        values = [exponents[key] for _, exponents in windows]
        if values and max(values) - min(values) > max(0.5 * (high - low), LEAST_MOVE):
            what = "batch" if key == "batch_tokens" else "learning rate"
            notes.append(
                f"The {what}'s exponent of {name} moves from {min(values):.3f} to "
                f"{max(values):.3f} with the window of loss that surfaces are fitted to; its "
                f"interval [{low:.3f}, {high:.3f}] takes the window as given."
            )
    return notes


def _too_few(groups: tuple[TunedGroup, ...], count: int) -> str:
    listed = [
        f"at N = {g.n_params:.3g}, D = {g.tokens:.3g}: {g.why}" for g in groups if not g.interior
    ]
    listed = [*listed[:SHOWN], *([f"and {len(listed) - SHOWN} more"] if listed[SHOWN:] else [])]
    if len(groups) < MIN_GROUPS:
        listed.append("add sizes, each at 4 or more learning rates in factors of 2")
    told = "; ".join(listed)
    return f"{count} (N, D) with an interior optimum, at least {MIN_GROUPS} are needed; {told}"
