"""Approach 2: the valley of each budget, and the power laws through the bracketed ones.

Intervals come from refitting everything to resampled data. Within a budget, noise of the measured
scale (noise.py) is put on the fitted curve, shared between checkpoints of one run. Between
budgets, valleys that scatter about the law more than that noise explains get the excess as a
further draw. Valleys are weighted by their standard deviations, but none is believed to be placed
better than its grid of sizes allows.
Limits: the window and the method are taken as given, and with few budgets the excess is itself
poorly known, which a Student t on (budgets - 2) stands for.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtri  # scipy.stats takes a second to import

from analysis.bootstrap import Interval, percentile_interval
from analysis.config import Method
from analysis.errors import RefusedError
from analysis.isoflop import valley as curves
from analysis.isoflop.budgets import Budget, Cells, split_budgets
from analysis.isoflop.noise import Noise, Part, SeedNoise, measure_noise, measure_seeds
from analysis.isoflop.valley import MIN_SIZES, Minimum, Window
from analysis.powerlaw import Law, fit_power_law, law_of_draws, weights_of

Floats = NDArray[np.float64]

MIN_VALLEYS = 3
"""Two points always lie on a power law."""

SHOWN = 4
"""Valleys that a refusal names."""

STEADY = {Method.cubic: 0.9, Method.parabola: 0.9, Method.akima: 0.5}
"""Share of resamples in which a bracketed valley must still have a minimum. Half is what Porian et
al. 2024 ask of Akima's curve, for which it is the one test of a bracket whose lowest loss is not at
an end."""

GRID_SHARE = 1.0 / 3.0
"""Least sd of a valley as a share of its sizes' spacing (Porian et al. 2024); a place anywhere
between two sizes has .29."""

EXCESS_LEVEL = 0.1
"""Chance at which noise alone would scatter the valleys about their law as much."""


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
    log_n_sd: float = float("nan")
    """Sd of log n_opt that weights it in the law; nan where it is not bracketed."""


@dataclass(frozen=True)
class IsoflopFit:
    """Exponents a and b and the valleys behind them."""

    method: Method
    n_law: Law
    d_law: Law
    valleys: tuple[Valley, ...]
    noise: float
    """Sd of a log loss (the mean of its seeds) that the intervals assume, in a typical budget."""
    noise_source: str
    excess: float
    """Natural-log scatter of valleys about the law beyond that noise."""
    shared: float
    """Correlation of noise between checkpoints of one run; 0 where runs have one row each."""
    seeds: SeedNoise | None
    """The seeds' own scatter; None without replicas."""
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Survey:
    """Every budget's valley, usable or not."""

    valleys: tuple[Valley, ...]
    draws: Floats
    """Shape (resamples, budgets). Log n_opt; NaN where a draw has no minimum."""
    noise: Noise
    sd: float
    """Of a log loss in a typical budget."""
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
    budgets = split_budgets(cells.frame)
    windows = [
        curves.open_window(np.log(b.n_params), np.log(b.losses), method)
        if len(b.n_params) >= MIN_SIZES
        else None
        for b in budgets
    ]
    seeds = measure_seeds(cells.frame)
    parts = [
        _part(budget, window, seeds)
        for budget, window in zip(budgets, windows, strict=True)
        if window is not None
    ]
    noise = measure_noise(parts, seeds)
    scales = [noise.of(k) * float(np.sqrt(part.variance.mean())) for k, part in enumerate(parts)]
    drawn, sds = noise.draw(parts, resamples, seed), iter(scales)
    valleys, draws = [], []
    for budget, window in zip(budgets, windows, strict=True):
        if window is None:
            minimum, sd = None, 0.0
        else:
            minimum, sd = curves.resample_minimum(window, next(drawn)), next(sds)
        valleys.append(_judge(budget, window, minimum, sd))
        draws.append(np.full(resamples, np.nan) if minimum is None else minimum.draws)
    typical = float(np.median(scales))
    return Survey(tuple(valleys), np.stack(draws, axis=1), noise, typical, method)


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
    flops, n_opt, sd = (np.array([getattr(v, k) for v in used]) for k in _LAW_FIELDS)
    n_fit = fit_power_law(flops, n_opt, sd=sd)
    d_fit = fit_power_law(flops, np.array([v.d_opt for v in used]), sd=sd)
    log_n = survey.draws[:, good]
    rng = np.random.default_rng(seed + 1)
    excess, extra = _excess(np.log(flops), np.log(n_opt), log_n, sd, rng)
    log_n = log_n + extra
    log_d = np.stack([_log_tokens(v, log_n[:, k]) for k, v in enumerate(used)], axis=1)
    return IsoflopFit(
        method=survey.method,
        n_law=law_of_draws(n_fit, flops, log_n, sd),
        d_law=law_of_draws(d_fit, flops, log_d, sd),
        valleys=valleys,
        noise=survey.sd,
        noise_source=survey.noise.source,
        excess=excess,
        shared=survey.noise.shared,
        seeds=survey.noise.seeds,
        notes=_notes(valleys, cells, survey.method),
    )


_LAW_FIELDS = ("flops", "n_opt", "log_n_sd")


def _part(budget: Budget, window: Window, seeds: SeedNoise | None) -> Part:
    inside = slice(window.low, window.high + 1)
    relative = np.ones(window.high - window.low + 1)
    if seeds is not None and seeds.by:
        relative = seeds.at(budget.n_params[inside], budget.losses[inside]) / seeds.sd
    annihilator = window.annihilator
    return Part(
        annihilator @ window.inside_y,
        annihilator,
        relative**2 / budget.seeds[inside],
        budget.clusters[inside],
    )


def _judge(budget: Budget, window: Window | None, minimum: Minimum | None, noise: float) -> Valley:
    lowest = int(np.argmin(budget.losses))
    log_n, log_loss = float(np.log(budget.n_params[lowest])), float(np.log(budget.losses[lowest]))
    interval, sd = None, float("nan")
    if window is None or minimum is None:
        why = f"{len(budget.n_params)} sizes; at least {MIN_SIZES} are needed, add sizes"
    else:
        why = curves.why_open(window, minimum.log_n, minimum.log_loss, noise)
        if not why and minimum.steady < STEADY[window.method]:
            lost = f"{1 - minimum.steady:.0%}"
            why = f"noise leaves no minimum in {lost} of resamples; add sizes or seeds"
        if np.isfinite(minimum.log_n):
            log_n, log_loss = minimum.log_n, minimum.log_loss
        if not why:
            interval = percentile_interval(np.exp(minimum.draws))
            sd = max(float(np.nanstd(minimum.draws)) / minimum.steady, GRID_SHARE * window.spacing)
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
        sd,
    )


def _excess(
    log_x: Floats, log_n: Floats, draws: Floats, sd: Floats, rng: np.random.Generator
) -> tuple[float, Floats]:
    """Return the scatter about the law that noise does not explain, and draws of it.

    Where noise alone would scatter the valleys as much with a chance of a tenth, there is none:
    adding whatever is left over would count the same noise twice.
    """
    resamples, count = draws.shape
    weights = weights_of(sd, log_n)
    root = np.sqrt(weights)
    design = root[:, None] * np.stack([np.ones(count), log_x - log_x.mean()], axis=1)
    leave = np.eye(count) - design @ np.linalg.pinv(design)
    whole = np.isfinite(draws).all(axis=1)
    by_noise = (((draws[whole] - log_n) * root @ leave) ** 2).sum(axis=1)
    found = float(((log_n * root @ leave) ** 2).sum())
    if not whole.any() or (by_noise >= found).mean() >= EXCESS_LEVEL:
        return 0.0, np.zeros((resamples, count))
    explained = float(np.median(by_noise)) * (count - 2) / float(chdtri(count - 2.0, 0.5))
    # Scatter of variance 1 in every valley would be found as this much.
    unit = float(np.diag(leave) @ weights)
    excess = float(np.sqrt(max(0.0, found - explained) / unit))
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
        top = max(v.flops for v in valleys)
        listed.append(f"add budgets, {4 * top:.3g} for example, with {MIN_SIZES + 1} sizes or more")
    return f"{count} bracketed valleys, at least {MIN_VALLEYS} are needed; {'; '.join(listed)}"


def _notes(valleys: tuple[Valley, ...], cells: Cells, method: Method) -> tuple[str, ...]:
    unused = [f"C = {v.flops:.3g}: {v.why}" for v in valleys if v.why]
    edges = [
        f"N = {row.n_params:.3g} at C = {row.flops:.3g}: its best learning rate is the "
        f"{row.lr_edge} tried"
        for row in cells.frame[cells.frame["lr_edge"] != ""].itertuples()
    ]
    notes = [
        *_listed("valley is not used", "valleys are not used", unused),
        *_listed("size is not used", "sizes are not used", edges),
    ]
    fallen = [v for v in valleys if v.bracketed and v.window is not None and v.window.degree < 3]
    if method is Method.cubic and fallen:
        notes.append(
            f"{len(fallen)} valleys have 4 sizes: a parabola stands in for the cubic there."
        )
    return tuple(notes)


def _listed(one: str, many: str, items: list[str]) -> list[str]:
    """Return one note for all items, the first few by name."""
    if not items:
        return []
    head = f"1 {one}" if len(items) == 1 else f"{len(items)} {many}"
    rest = f"; and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return [f"{head}: {'; '.join(items[:SHOWN])}{rest}."]
