"""Approach 2: the valley of each budget, and the power laws through the bracketed ones.

Intervals come from refitting everything to resampled data. Within a budget, Gaussian noise is put
on the fitted curve; its scale is what residuals show in a typical budget, itself drawn from its
uncertainty, or the seeds' own scatter where that was measured and is larger. Between budgets,
valleys that scatter about the law more than that noise explains get the excess as a further draw.
Limits: the window and the method are taken as given, and with few budgets the excess is itself
poorly known, which a Student t on (budgets - 2) stands for.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import chdtri  # scipy.stats takes a second to import

from analysis import valley as curves
from analysis.bootstrap import Interval, percentile_interval
from analysis.budgets import Cells, group_budgets
from analysis.config import Method
from analysis.errors import RefusedError
from analysis.powerlaw import Law, PowerLaw, fit_power_law, law_of_draws
from analysis.valley import MIN_SIZES, Window

Floats = NDArray[np.float64]

MIN_VALLEYS = 3
"""Two points always lie on a power law."""

SHOWN = 4
"""Valleys that a refusal names."""

STEADY = 0.9
"""Share of resamples in which a bracketed valley must still have a minimum."""


@dataclass(frozen=True)
class Valley:
    """One budget."""

    flops: float
    n_opt: float
    """The minimum, or the best size tried where there is none."""
    d_opt: float
    """Tokens at n_opt, between those of the neighbouring sizes (C / 6N where C is 6ND)."""
    loss: float
    """Nats per token at n_opt."""
    bracketed: bool
    why: str
    """Why it is not bracketed."""
    n_params: Floats
    tokens: Floats
    losses: Floats
    window: Window | None
    n_opt_ci: Interval | None


@dataclass(frozen=True)
class IsoflopFit:
    """Exponents a and b and the valleys behind them."""

    method: Method
    n_law: Law
    d_law: Law
    valleys: tuple[Valley, ...]
    noise: float
    """Sd of a log loss that the intervals assume."""
    noise_source: str
    excess: float
    """Natural-log scatter of valleys about the law beyond that noise."""
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Budget:
    """A budget's cells, ascending in size."""

    flops: float
    n_params: Floats
    tokens: Floats
    losses: Floats


@dataclass(frozen=True)
class Survey:
    """Every budget's valley, usable or not."""

    valleys: tuple[Valley, ...]
    draws: Floats
    """Shape (resamples, budgets). Log n_opt; NaN where a draw has no minimum."""
    noise: "Noise"
    method: Method


def find_valleys(cells: Cells, method: Method, resamples: int, seed: int) -> Survey:
    """Find the valley of every budget.

    Args:
        cells: Best loss by (N, D).
        method: The valleys' curve; a cubic becomes a parabola where a budget has 4 sizes.
        resamples: Draws behind the intervals.
        seed: Seeds them.

    Raises:
        RefusedError: The runs do not share budgets.
    """
    budgets = _collect(cells.frame)
    windows = [
        curves.open_window(np.log(b.n_params), np.log(b.losses), method)
        if len(b.n_params) >= MIN_SIZES
        else None
        for b in budgets
    ]
    noise = _measure_noise([w for w in windows if w is not None], cells)
    rng = np.random.default_rng(seed)
    scale = noise.sd * np.sqrt(noise.freedom / rng.chisquare(noise.freedom, resamples))
    valleys, draws = [], []
    for budget, window in zip(budgets, windows, strict=True):
        drawn = np.full(resamples, np.nan)
        if window is not None:
            base = window.inside_y if method is Method.akima else curves.smooth(window)[0]
            normal = rng.standard_normal((resamples, len(base)))
            drawn = curves.find_minima(window, base + scale[:, None] * normal)[0]
        valleys.append(_judge(budget, window, noise.sd, drawn))
        draws.append(drawn)
    return Survey(tuple(valleys), np.stack(draws, axis=1), noise, method)


def fit_isoflop(survey: Survey, cells: Cells, seed: int) -> IsoflopFit:
    """Fit N_opt = k C**a and D_opt = k' C**b through the bracketed valleys.

    Args:
        survey: The valleys.
        cells: What they were found in.
        seed: Seeds the draws of scatter between valleys.

    Raises:
        RefusedError: Fewer than 3 bracketed valleys; the message names the sizes to add.
    """
    valleys = survey.valleys
    good = np.array([v.bracketed for v in valleys])
    if good.sum() < MIN_VALLEYS:
        raise RefusedError(_too_few(valleys))
    used = [v for v in valleys if v.bracketed]
    flops = np.array([v.flops for v in used])
    n_fit = fit_power_law(flops, np.array([v.n_opt for v in used]))
    d_fit = fit_power_law(flops, np.array([v.d_opt for v in used]))
    log_n = survey.draws[:, good]
    excess, extra = _excess(n_fit, log_n, np.random.default_rng(seed + 1))
    log_n = log_n + extra
    log_d = np.stack([_log_tokens(v, log_n[:, k]) for k, v in enumerate(used)], axis=1)
    return IsoflopFit(
        method=survey.method,
        n_law=law_of_draws(n_fit, flops, log_n),
        d_law=law_of_draws(d_fit, flops, log_d),
        valleys=valleys,
        noise=survey.noise.sd,
        noise_source=survey.noise.source,
        excess=excess,
        notes=_notes(valleys, cells, survey.method),
    )


def _collect(cells: pd.DataFrame) -> list[_Budget]:
    """Group cells by C, leaving out sizes whose best learning rate is on the edge of its grid."""
    labels = group_budgets(cells["flops"].to_numpy())
    budgets = []
    for k in range(labels.max() + 1):
        rows = cells[(labels == k) & (cells["lr_edge"] == "").to_numpy()]
        if len(rows) == 0:
            continue
        rows = rows.groupby("n_params", as_index=False).mean(numeric_only=True)
        budgets.append(
            _Budget(
                float(rows["flops"].median()),
                *(rows[name].to_numpy(float) for name in ("n_params", "tokens", "loss")),
            )
        )
    shared = sum(len(b.n_params) for b in budgets if len(b.n_params) >= MIN_SIZES)
    if shared < 0.5 * len(cells):
        raise RefusedError(
            f"only {shared} of {len(cells)} (N, D) points share their C (within 2 %) with at least "
            f"{MIN_SIZES - 1} other sizes; valleys need budgets: add runs of several sizes at "
            "equal C, for example with budget.flops"
        )
    return budgets


@dataclass(frozen=True)
class Noise:
    """How losses scatter about the curves."""

    sd: float
    freedom: int
    source: str


def _measure_noise(windows: list[Window], cells: Cells) -> Noise:
    """Return a typical budget's residual scatter, or the seeds' where that is larger.

    The median over budgets keeps one badly fitted valley from blurring the others; each budget's
    mean square is first divided by the median of its own chi-square.
    """
    parts = [curves.smooth(window)[1:] for window in windows]
    freedom = sum(free for _, free in parts)
    typical = [squares / float(chdtri(free, 0.5)) for squares, free in parts]
    sd = float(np.sqrt(np.median(typical)))
    if cells.seed_freedom >= 3:
        of_mean = cells.seed_sd / float(np.sqrt(cells.frame["seeds"].mean()))
        if of_mean > sd:
            return Noise(of_mean, cells.seed_freedom, "replicas over seeds")
    return Noise(sd, freedom, "residuals about the curves")


def _judge(budget: _Budget, window: Window | None, noise: float, drawn: Floats) -> Valley:
    lowest = int(np.argmin(budget.losses))
    log_n, log_loss = float(np.log(budget.n_params[lowest])), float(np.log(budget.losses[lowest]))
    interval = None
    if window is None:
        why = f"{len(budget.n_params)} sizes; at least {MIN_SIZES} are needed, add sizes"
    else:
        at, floor = (float(v[0]) for v in curves.find_minima(window, window.inside_y[None]))
        why = curves.why_open(window.x, window.y, at, floor, noise)
        steady = float(np.isfinite(drawn).mean())
        if not why and steady < STEADY:
            why = f"noise leaves no minimum in {1 - steady:.0%} of resamples; add sizes or seeds"
        if np.isfinite(at):
            log_n, log_loss = at, floor
        interval = None if why else percentile_interval(np.exp(drawn))
    tokens = np.exp(np.interp(log_n, np.log(budget.n_params), np.log(budget.tokens)))
    return Valley(
        budget.flops,
        float(np.exp(log_n)),
        float(tokens),
        float(np.exp(log_loss)),
        not why,
        why,
        budget.n_params,
        budget.tokens,
        budget.losses,
        window,
        interval,
    )


def _excess(law: PowerLaw, log_n: Floats, rng: np.random.Generator) -> tuple[float, Floats]:
    """Return the scatter about the law that noise does not explain, and draws of it."""
    resamples, count = log_n.shape
    explained = float(np.nanvar(log_n, axis=0).mean())
    excess = float(np.sqrt(max(0.0, law.residual_sd**2 - explained)))
    student = np.sqrt((count - 2) / rng.chisquare(count - 2, resamples))
    return excess, excess * student[:, None] * rng.standard_normal((resamples, count))


def _log_tokens(valley: Valley, log_n: Floats) -> Floats:
    """Return log tokens at log N: along C's own line between the sizes, and its slope beyond."""
    x, y = np.log(valley.n_params), np.log(valley.tokens)
    inside = np.interp(log_n, x, y)
    return inside - (log_n - np.clip(log_n, x[0], x[-1]))


def _too_few(valleys: tuple[Valley, ...]) -> str:
    count = sum(v.bracketed for v in valleys)
    listed = [f"at C = {v.flops:.3g}: {v.why}" for v in valleys if not v.bracketed]
    listed = [*listed[:SHOWN], *([f"and {len(listed) - SHOWN} more"] if listed[SHOWN:] else [])]
    if len(valleys) < MIN_VALLEYS:
        listed.append("add budgets")
    return f"{count} bracketed valleys, at least {MIN_VALLEYS} are needed; {'; '.join(listed)}"


def _notes(valleys: tuple[Valley, ...], cells: Cells, method: Method) -> tuple[str, ...]:
    notes = [f"Valley at C = {v.flops:.3g} is not used: {v.why}." for v in valleys if v.why]
    for row in cells.frame[cells.frame["lr_edge"] != ""].itertuples():
        notes.append(
            f"N = {row.n_params:.3g} at C = {row.flops:.3g} is not used: its best learning rate is "
            f"the {row.lr_edge} tried."
        )
    fallen = [v for v in valleys if v.bracketed and v.window is not None and v.window.degree < 3]
    if method is Method.cubic and fallen:
        notes.append(
            f"{len(fallen)} valleys have 4 sizes: a parabola stands in for the cubic there."
        )
    return tuple(notes)
