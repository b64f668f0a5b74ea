"""The runs to make next: first what the study lacks, then what narrows the interval of a most."""

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from analysis.design.c_optimal import Candidates, Information, choose, inform
from analysis.design.candidates import MIN_TIMED, By, TimeLaw, fit_time, propose
from analysis.design.ladder import Ladder, read_ladder
from analysis.design.needs import Need, budget_needs, seed_needs, spread_needs, valley_needs
from analysis.errors import InputError, RefusedError
from analysis.fits import Surveyed, fit_by_surface
from analysis.isoflop.fit import IsoflopFit
from analysis.parametric.forms import FORMULAS
from analysis.parametric.frontier import CostLaw, surfaces_of
from analysis.parametric.result import ParametricFit
from analysis.refusal import Refusal, attempt

Floats = NDArray[np.float64]

SHARE = 0.25
"""Of what the runs have cost: the total of a proposal that is given none (ours)."""

SEED_SHARE = 0.5
"""Of a proposal's runs, the most that repeat others to measure noise where a surface says which
others narrow a (ours)."""

NARROWS = "narrows a"


@dataclass(frozen=True)
class Limits:
    """How much may be proposed."""

    runs: int
    total: float | None
    """FLOPs or seconds for all of it. None: what the study lacks is not limited, and the design
    gets SHARE of what was spent."""
    by: By


@dataclass(frozen=True)
class Step:
    """One proposed run."""

    n_params: float
    tokens: float
    flops: float
    seconds: float | None
    """On the device of the runs that were timed; None where too few were."""
    width: int | None
    """Of the rung; None where the ladder is not known."""
    seed: int | None
    """A seed that was not used, for the repeat of a run."""
    why: str
    half_width: float | None
    """Of the 95 % interval of a by the surface, once this run is in; None without a surface."""


@dataclass(frozen=True)
class Proposal:
    """What to run next."""

    steps: tuple[Step, ...]
    left_out: int
    """Further runs that the study lacks, beyond the limits."""
    surface: ParametricFit | Refusal
    half_width: float | None
    """Of the interval of a by the surface, now."""
    linearised: float | None
    """The same from the surface's curvature and the scatter of its residuals."""
    time: TimeLaw | None
    ladder: Ladder | None


@dataclass(frozen=True)
class _Study:
    """The runs as arrays, and what follows from them directly."""

    n: Floats
    d: Floats
    c: Floats
    cost: CostLaw
    time: TimeLaw | None
    """None where runs are priced in FLOPs."""
    ladder: Ladder | None

    def price(self, n: Floats, d: Floats) -> Floats:
        """Return the cost of runs, FLOPs or seconds."""
        return self.cost.flops(n, d) if self.time is None else self.time.seconds(n, d)


def make_proposal(surveyed: Surveyed, limits: Limits) -> Proposal:
    """Propose runs.

    Args:
        surveyed: The runs and their valleys.
        limits: How much may be proposed.

    Raises:
        InputError: Seconds are asked for and too few runs have them.
        RefusedError: Nothing that would help is within the limits.
    """
    timing = _timing(surveyed, limits.by)
    study = _study(surveyed, timing if limits.by is By.seconds else None)
    fit = attempt(partial(fit_by_surface, surveyed))
    lacking = _needs(surveyed, fit, study)
    taken = chosen = _within(lacking, study, limits)
    design = None
    if isinstance(fit, ParametricFit):
        best = surveyed.cells.best
        design = inform(surfaces_of(fit), fit.form, study.n[best], study.d[best], study.cost)
        some = _fewer_seeds(taken, int(SEED_SHARE * limits.runs))
        chosen = [*some, *_design(design, some, study, limits)] or taken
    if not chosen:
        total = "the limits" if limits.total is None else f"{limits.by.name}={limits.total:g}"
        raise RefusedError(
            f"no run that would help fits within {total} and add={limits.runs}; allow more"
        )
    half = _half(fit) if isinstance(fit, ParametricFit) else None
    return Proposal(
        steps=_steps(chosen, surveyed, study, timing, design, half),
        left_out=len(lacking) - sum(need.why != NARROWS for need in chosen),
        surface=fit,
        half_width=half,
        linearised=_linearised(fit, design) if isinstance(fit, ParametricFit) and design else None,
        time=timing,
        ladder=study.ladder,
    )


def _timing(surveyed: Surveyed, by: By) -> TimeLaw | None:
    frame = surveyed.runs
    timed = frame["seconds"].to_numpy(float) if "seconds" in frame else np.full(len(frame), np.nan)
    law = fit_time(frame["n_params"].to_numpy(float), frame["tokens"].to_numpy(float), timed)
    if law is None and by is By.seconds:
        count = int((np.isfinite(timed) & (timed > 0)).sum())
        raise InputError(
            f"by=seconds needs the column 'seconds' in at least {MIN_TIMED} rows, {count} have it; "
            "use by=flops"
        )
    return law


def _study(surveyed: Surveyed, time: TimeLaw | None) -> _Study:
    runs = surveyed.runs
    n, d, c = (runs[name].to_numpy(float) for name in ("n_params", "tokens", "flops"))
    ladder = read_ladder(runs, surveyed.table.folder)
    return _Study(n, d, c, surveyed.cost, time, ladder)


def _needs(surveyed: Surveyed, fit: ParametricFit | Refusal, study: _Study) -> list[Need]:
    """Return what the study lacks, the most important first."""
    exponent = fit.values["a"] if isinstance(fit, ParametricFit) else None
    if isinstance(surveyed.isoflop, IsoflopFit) and exponent is None:
        exponent = surveyed.isoflop.n_law.fit.exponent
    needs = [
        *valley_needs(surveyed.valleys, study.cost, study.ladder),
        *budget_needs(surveyed.valleys, exponent, study.cost, study.ladder),
    ]
    if isinstance(fit, Refusal):
        n_free = FORMULAS[surveyed.options.parametric.form].n_free
        needs += spread_needs(study.n, study.d, study.cost, study.ladder, n_free)
    needs += seed_needs(surveyed.cells)
    # One run may serve two needs; a repeat is another run each time.
    fresh = {(need.n_params, need.tokens): need for need in needs[::-1] if not need.new_seed}
    return [*list(fresh.values())[::-1], *(need for need in needs if need.new_seed)]


def _within(needs: list[Need], study: _Study, limits: Limits) -> list[Need]:
    """Return the first needs that fit the limits."""
    taken: list[Need] = []
    left = np.inf if limits.total is None else limits.total
    for need in needs:
        price = _price(study, [need])
        if len(taken) < limits.runs and price <= left:
            taken.append(need)
            left -= price
    return taken


def _fewer_seeds(taken: list[Need], most: int) -> list[Need]:
    """Return the needs with at most so many repeats among them."""
    repeats = [need for need in taken if need.new_seed]
    return [*(need for need in taken if not need.new_seed), *repeats[:most]]


def _price(study: _Study, needs: list[Need]) -> float:
    n, d = _places(needs)
    return float(study.price(n, d).sum())


def _places(needs: list[Need]) -> tuple[Floats, Floats]:
    return np.array([need.n_params for need in needs]), np.array([need.tokens for need in needs])


def _design(design: Information, taken: list[Need], study: _Study, limits: Limits) -> list[Need]:
    """Return the runs that narrow the interval of a most, beside those that are taken."""
    n, d = _places(taken)
    after = design.add(n, d) if taken else design
    pool = propose(
        np.append(study.n, n), np.append(study.d, d), study.c, study.cost, study.ladder, study.time
    )
    spent = float(study.price(study.n, study.d).sum())
    budget = SHARE * spent if limits.total is None else limits.total - _price(study, taken)
    if budget <= 0 or len(taken) >= limits.runs:
        return []
    plan = choose(after, pool, budget=budget, at_most=limits.runs - len(taken))
    return [_need(pool, k, study) for k in plan.chosen]


def _need(pool: Candidates, k: int, study: _Study) -> Need:
    n, d = pool.n_params[k], pool.tokens[k]
    return Need(float(n), float(d), float(study.cost.flops(n, d)), NARROWS)


def _half(fit: ParametricFit) -> float:
    low, high = fit.intervals["a"]
    return 0.5 * (high - low)


def _linearised(fit: ParametricFit, design: Information) -> float:
    """Return 1.96 sd of a from curvature, with the residuals' median for a robust scale."""
    size = fit.residuals - np.median(fit.residuals)
    freedom = len(size) / max(1, len(size) - len(design.free))
    scale = 1.4826 * float(np.median(np.abs(size))) * np.sqrt(freedom)
    return float(1.96 * scale * np.sqrt(design.variance))


def _steps(
    needs: list[Need],
    surveyed: Surveyed,
    study: _Study,
    timing: TimeLaw | None,
    design: Information | None,
    half: float | None,
) -> tuple[Step, ...]:
    """Add time, rung, seed and the interval that each run would leave."""
    last = _last_seed(surveyed)
    repeats: dict[tuple[float, float], int] = {}
    now = design.variance if design else 1.0
    steps = []
    for need in needs:
        n, d = np.array([need.n_params]), np.array([need.tokens])
        design = design.add(n, d) if design else None
        place = (need.n_params, need.tokens)
        repeats[place] = repeats.get(place, 0) + int(need.new_seed)
        steps.append(
            Step(
                n_params=need.n_params,
                tokens=need.tokens,
                flops=need.flops,
                seconds=float(timing.seconds(n, d)[0]) if timing else None,
                width=study.ladder.nearest(need.n_params).width if study.ladder else None,
                seed=last + repeats[place] if need.new_seed else None,
                why=need.why,
                half_width=half * float(np.sqrt(design.variance / now))
                if design and half is not None
                else None,
            )
        )
    return tuple(steps)


def _last_seed(surveyed: Surveyed) -> int:
    frame = surveyed.runs
    if "seed" not in frame or frame["seed"].isna().all():
        return 0
    return int(frame["seed"].max())
