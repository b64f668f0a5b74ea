"""Coverage of the 95 % intervals of the exponent a, on simulated studies with a known loss surface.

Each replicate draws a study's grid (sizes shifted at random relative to the true valleys) and its
noise, runs every approach on it as `python -m analysis` would, and checks whether the interval of a
contains the true a = beta / (alpha + beta). Refusals are counted separately.

    python scripts/coverage_study.py --json coverage.json --figure docs/results/coverage
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis import style
from analysis.config import Loss, Method
from analysis.envelope.fit import fit_envelope
from analysis.errors import RefusedError
from analysis.intake.curves import CHECKPOINTS, FINALS, Curve
from analysis.intake.table import clusters
from analysis.isoflop.budgets import make_cells
from analysis.isoflop.fit import find_valleys, fit_isoflop
from analysis.parametric.fit import fit_parametric

Floats = NDArray[np.float64]
Answer = tuple[float, float, float]
"""Estimate of a, then the lower and the upper end of its interval."""

GOAL = (92.0, 98.0)
"""Target range of the coverage, in per cent."""

NOISES = (0.003, 0.01, 0.03)
"""Standard deviations of the noise in log loss."""


@dataclass(frozen=True)
class Surface:
    """L = E + A / N**alpha + B / D**beta."""

    E: float
    A: float
    B: float
    alpha: float
    beta: float

    @property
    def a(self) -> float:
        """Exponent of N_opt ~ C**a."""
        return self.beta / (self.alpha + self.beta)

    def loss(self, n: Floats, d: Floats) -> Floats:
        """Nats per token."""
        return np.asarray(self.E + self.A / n**self.alpha + self.B / d**self.beta)

    def best_size(self, flops: float) -> float:
        """N_opt at C = 6ND."""
        scale = (self.alpha * self.A / (self.beta * self.B)) ** (1 / (self.alpha + self.beta))
        return float(scale * (flops / 6.0) ** self.a)


SMALL = Surface(1.88, 666.0, 84400.0, 0.896, 0.950)
"""Rounded from the quickstart study's fit: byte-level models of 4k to 100k parameters."""

LARGE = Surface(1.8, 480.0, 2100.0, 0.35, 0.37)
"""Close to Chinchilla's."""


@dataclass(frozen=True)
class Design:
    """A study's grid and the distribution of its noise."""

    name: str
    surface: Surface
    budgets: tuple[float, ...]
    sizes: int
    step: float
    """Ratio of neighbouring sizes."""
    seeds: int = 1
    heavy: bool = False
    """Noise from Student's t with 3 degrees of freedom, scaled to the same standard deviation."""
    shared: float | None = None
    """Correlation of the noise between checkpoints of one run; None: every point is its own run."""


def _budgets(low: float, high: float, count: int) -> tuple[float, ...]:
    return tuple(map(float, np.geomspace(low, high, count)))


DESIGNS = (
    Design("4 budgets x 5 sizes", SMALL, _budgets(6e10, 4.8e11, 4), 5, 1.7),
    Design("5 x 7", SMALL, _budgets(6e10, 6e11, 5), 7, 1.6),
    Design("7 x 8, 2 decades", LARGE, _budgets(1e18, 1e20, 7), 8, 1.6),
    Design("5 x 7, 3 seeds", SMALL, _budgets(6e10, 6e11, 5), 7, 1.6, seeds=3),
    Design("5 x 7, heavy tails", SMALL, _budgets(6e10, 6e11, 5), 7, 1.6, heavy=True),
    Design("5 x 7, checkpoints", SMALL, _budgets(6e10, 6e11, 5), 7, 1.6, shared=0.8),
)


def simulate(design: Design, noise: float, rng: np.random.Generator) -> pd.DataFrame:
    """Draw the runs table of one study."""
    surface, log_step = design.surface, np.log(design.step)
    half = 0.5 * (design.sizes - 1) * log_step
    rows = []
    if design.shared is None:
        for flops in design.budgets:
            shift = rng.uniform(-0.5, 0.5) * log_step
            x = np.linspace(-half, half, design.sizes) + shift
            rows += [(np.exp(v) * surface.best_size(flops), flops) for v in x]
    else:
        ends = (surface.best_size(design.budgets[0]), surface.best_size(design.budgets[-1]))
        grid = np.arange(np.log(ends[0]) - half, np.log(ends[1]) + half + 1e-9, log_step)
        grid = grid + rng.uniform(-0.5, 0.5) * log_step
        for flops in design.budgets:
            near = np.abs(grid - np.log(surface.best_size(flops))) < half + 0.5 * log_step
            rows += [(np.exp(v), flops) for v in grid[near]]
    n, flops = np.repeat(np.array(rows), design.seeds, axis=0).T
    tokens = flops / (6.0 * n)
    luck = rng.standard_t(3, len(n)) / np.sqrt(3.0) if design.heavy else rng.standard_normal(len(n))
    names = np.arange(len(n))
    if design.shared is not None:
        names = np.unique(n.round(6), return_inverse=True)[1]
        of_run = rng.standard_normal(names.max() + 1)[names]
        luck = np.sqrt(design.shared) * of_run + np.sqrt(1.0 - design.shared) * luck
    return pd.DataFrame(
        {
            "n_params": n,
            "tokens": tokens,
            "flops": flops,
            "loss": surface.loss(n, tokens) * np.exp(noise * luck),
            "seed": np.arange(len(n)) % design.seeds,
            "run_id": [f"run {k}" for k in names],
        }
    )


def by_valleys(method: Method) -> Callable[[pd.DataFrame, int, int], Answer]:
    """Approach 2, IsoFLOP valleys, with one method."""

    def fit(table: pd.DataFrame, resamples: int, seed: int) -> Answer:
        cells = make_cells(table)
        found = fit_isoflop(find_valleys(cells, method, resamples, seed), cells, seed)
        return (found.n_law.fit.exponent, *found.n_law.interval)

    return fit


def by_surface(loss: Loss) -> Callable[[pd.DataFrame, int, int], Answer]:
    """Approach 3, the parametric fit, with one loss."""

    def fit(table: pd.DataFrame, resamples: int, seed: int) -> Answer:
        columns = (table[name].to_numpy(float) for name in ("n_params", "tokens"))
        found = fit_parametric(
            *columns,
            nats=table["loss"].to_numpy(float),
            loss=loss,
            resamples=resamples,
            seed=seed,
            clusters=clusters(table),
        )
        return (found.values["a"], *found.intervals["a"])

    return fit


def by_envelope(table: pd.DataFrame, resamples: int, seed: int) -> Answer:
    """Approach 1, the envelope, of the runs' curves, or of final losses where rows are single."""
    curves = []
    for name, rows in table.groupby("run_id", sort=False):
        rows = rows.sort_values("tokens")
        flops, loss, tokens = (rows[k].to_numpy(float) for k in ("flops", "loss", "tokens"))
        source = CHECKPOINTS if len(rows) > 1 else FINALS
        size = float(rows["n_params"].iloc[0])
        curves.append(
            Curve(str(name), size, flops, loss, float(flops[-1]), float(loss[-1]), tokens, source)
        )
    found = fit_envelope(curves, resamples=resamples, seed=seed)
    return (found.n_law.fit.exponent, *found.n_law.interval)


APPROACHES: dict[str, Callable[[pd.DataFrame, int, int], Answer]] = {
    "valleys, cubic": by_valleys(Method.cubic),
    "valleys, parabola": by_valleys(Method.parabola),
    "valleys, Akima": by_valleys(Method.akima),
    "surface, Huber": by_surface(Loss.huber),
    "surface, LAD": by_surface(Loss.lad),
    "surface, MSE": by_surface(Loss.mse),
    "envelope": by_envelope,
}

_LOOKS = {
    "valleys, cubic": (style.OURS, "o"),
    "valleys, parabola": (style.OURS, "s"),
    "valleys, Akima": (style.OURS, "^"),
    "surface, Huber": (style.SURFACE, "o"),
    "surface, LAD": (style.SURFACE, "s"),
    "surface, MSE": (style.SURFACE, "^"),
    "envelope": (style.ENVELOPE, "X"),
}
"""Colour of each approach, marker of each variant."""


@dataclass(frozen=True)
class Row:
    """Result of one approach for one design and noise."""

    design: str
    noise: float
    approach: str
    replicates: int
    refused: int
    coverage: float
    """Per cent of intervals that contain the true a; nan when all replicates were refused."""
    error: float
    """Monte Carlo standard error of the coverage, in per cent."""
    bias: float
    """Mean estimate of a minus the true a."""
    sd: float
    """Standard deviation of the estimates over replicates."""
    half_width: float
    """Median half-width of the intervals."""


def measure(
    design: Design, noise: float, approach: str, replicates: int, resamples: int, seed: int
) -> Row:
    """Estimate the coverage of one approach."""
    answers = []
    for k in range(replicates):
        table = simulate(design, noise, np.random.default_rng([seed, k]))
        try:
            answers.append(APPROACHES[approach](table, resamples, k))
        except RefusedError:
            continue
    nan = float("nan")
    refused = replicates - len(answers)
    if not answers:
        return Row(design.name, noise, approach, replicates, refused, nan, nan, nan, nan, nan)
    a, low, high = np.array(answers).T
    truth = design.surface.a
    share = float(((low < truth) & (truth < high)).mean())
    return Row(
        design.name,
        noise,
        approach,
        replicates,
        refused,
        100.0 * share,
        100.0 * float(np.sqrt(max(share * (1 - share), 0.25 / len(a)) / len(a))),
        float(a.mean() - truth),
        float(a.std()),
        float(0.5 * np.median(high - low)),
    )


def draw(rows: Sequence[Row], folder: Path) -> None:
    """Draw coverage by design and approach, one panel per noise, with the target range."""
    noises = sorted({row.noise for row in rows})
    designs = list(dict.fromkeys(row.design for row in rows))
    approaches = list(dict.fromkeys(row.approach for row in rows))
    looks = [_LOOKS[approach] for approach in approaches]
    width, height = 4.2 * len(noises) + 1.5, 0.95 * len(designs) + 1.6
    with style.house_style():
        figure = style.new_figure(width, height)
        axes = figure.subplots(1, len(noises), squeeze=False)[0]
        for ax, noise in zip(axes, noises, strict=True):
            ax.axvspan(*GOAL, color=style.CHINCHILLA, alpha=0.12, lw=0)
            ax.axvline(95.0, color=style.FAINT, lw=0.8)
            for j, approach in enumerate(approaches):
                mine = [r for r in rows if r.noise == noise and r.approach == approach]
                mine = [r for r in mine if r.replicates - r.refused >= 20]
                y = [
                    designs.index(r.design) + 0.1 * (j - 0.5 * (len(approaches) - 1)) for r in mine
                ]
                color, marker = looks[j]
                ax.errorbar(
                    [r.coverage for r in mine],
                    y,
                    xerr=[1.96 * r.error for r in mine],
                    fmt=marker,
                    color=color,
                    ms=4.5,
                    lw=1.0,
                    label=approach,
                )
            ax.set(
                title=f"noise {100 * noise:g} % of the loss", xlabel="intervals with the truth, %"
            )
            ax.set(xlim=(69, 101), ylim=(len(designs) - 0.5, -0.5))
            ax.set_yticks(range(len(designs)), designs if ax is axes[0] else [""] * len(designs))
            ax.grid(axis="y", visible=False)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
        style.save(figure, folder, "coverage", "")


def table_of(rows: Sequence[Row]) -> str:
    """Format the rows as a Markdown table."""
    lines = [
        "| design | noise | approach | coverage, % | bias | sd | half-width | refused |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        seen = "" if np.isnan(r.coverage) else f"{r.coverage:.1f} +- {r.error:.1f}"
        rest = "" if np.isnan(r.bias) else f"{r.bias:+.4f} | {r.sd:.4f} | {r.half_width:.4f}"
        rest = rest or " | | "
        lines.append(
            f"| {r.design} | {r.noise:g} | {r.approach} | {seen} | {rest} "
            f"| {r.refused} of {r.replicates} |"
        )
    return "\n".join(lines)


def main(words: Sequence[str]) -> None:
    """Measure every combination, print the rows, and write the files asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--replicates", type=int, default=300)
    parser.add_argument("--resamples", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--noise", type=float, nargs="+", default=list(NOISES))
    parser.add_argument("--approach", nargs="+", default=list(APPROACHES), choices=list(APPROACHES))
    parser.add_argument("--quick", action="store_true", help="20 replicates, 200 resamples")
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument("--figure", type=Path, help="folder for coverage.png and .svg")
    asked = parser.parse_args(words)
    replicates, resamples = (20, 200) if asked.quick else (asked.replicates, asked.resamples)
    rows: list[Row] = []
    start = time.perf_counter()
    for noise in asked.noise:
        for design in DESIGNS:
            for approach in asked.approach:
                rows.append(measure(design, noise, approach, replicates, resamples, asked.seed))
                print(table_of(rows[-1:]).splitlines()[-1], flush=True)  # noqa: T201
            if asked.json:
                asked.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    if asked.figure:
        draw(rows, asked.figure)
    inside = [r for r in rows if GOAL[0] <= r.coverage <= GOAL[1]]
    minutes = (time.perf_counter() - start) / 60
    print(f"{len(inside)} of {len(rows)} within {GOAL} %, {minutes:.1f} min")  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1:])
