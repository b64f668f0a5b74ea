"""Benchmark of the parametric fit against SciPy's L-BFGS-B on the same objective.

    python scripts/bench_analysis.py [--json FILE] [--quick]

The reference is the usual method: a sum of Huber losses with its exact gradient, minimised with
L-BFGS-B from each of 4500 starting points, and from one starting point per bootstrap resample; at
SciPy's default tolerances and at tolerances tight enough to converge. --quick runs a seeded sample
of the starts and scales the time up. Without the published table the runs are synthetic, of similar
number and noise; the first line of the output says which.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import minimize

from analysis.bootstrap import resample_counts
from analysis.config import Form, Loss
from analysis.parametric.fit import certify, fit_parametric, fit_surface
from analysis.parametric.refits import refit_resamples
from bench.figures import Figure, write_figures
from bench.one_thread import restart_with_one_thread

Floats = NDArray[np.float64]
Result = TypeVar("Result")
REPO = Path(__file__).resolve().parents[1]

DELTA = 1e-3
GRID = tuple(
    product(
        (0.0, 5.0, 10.0, 15.0, 20.0, 25.0),
        (0.0, 5.0, 10.0, 15.0, 20.0, 25.0),
        (-1.0, -0.5, 0.0, 0.5, 1.0),
        (0.0, 0.5, 1.0, 1.5, 2.0),
        (0.0, 0.5, 1.0, 1.5, 2.0),
    )
)
"""Starting points (log A, log B, log E, alpha, beta) of Hoffmann et al. 2022, section D.2."""

TOLERANCES: dict[str, dict[str, float]] = {
    "default tolerances": {},
    "tight tolerances": {"maxiter": 1000, "ftol": 1e-15, "gtol": 1e-10},
}
"""L-BFGS-B options of the reference. At the defaults an objective of order 1e-3 stops early."""


def read_runs() -> tuple[pd.DataFrame, str]:
    """Return the 240 published runs, or as many synthetic ones, and their description."""
    beside = REPO.parent / "shared" / "published"
    path = Path(os.environ.get("WINDTUNNEL_PUBLISHED", beside)) / "chinchilla_epoch.csv"
    if path.exists():
        runs = pd.read_csv(path).sort_values("loss").iloc[:240]
        return runs, f"240 published Chinchilla runs ({path.name})"
    return synthetic_runs(240, 0.007), "240 synthetic runs: no published table here"


def synthetic_runs(count: int, noise: float) -> pd.DataFrame:
    """Draw runs from a loss surface like Chinchilla's, with Student-t noise in the log loss."""
    rng = np.random.default_rng(0)
    n_params, flops = 10 ** rng.uniform(7.6, 10.2, count), 10 ** rng.uniform(18.8, 21.5, count)
    tokens = flops / (6 * n_params)
    loss = 1.82 + 478 / n_params**0.347 + 2143 / tokens**0.367
    loss *= np.exp(noise * rng.standard_t(3, count) / np.sqrt(3))
    columns = {"n_params": n_params, "tokens": tokens, "flops": flops, "loss": loss}
    return pd.DataFrame(columns)


def reference_objective(
    theta: Floats, log_n: Floats, log_d: Floats, log_loss: Floats, counts: Floats
) -> tuple[float, Floats]:
    """Sum of Huber losses and its gradient in theta = (log A, log B, log E, alpha, beta)."""
    a, b, e, alpha, beta = theta
    terms = np.stack([a - alpha * log_n, b - beta * log_d, np.full_like(log_n, e)])
    top = terms.max(axis=0)
    shares = np.exp(terms - top)
    total = shares.sum(axis=0)
    residual = top + np.log(total) - log_loss
    slope = np.clip(residual, -DELTA, DELTA)
    pull = counts * slope * shares / total
    gradient = np.array(
        [pull[0].sum(), pull[1].sum(), pull[2].sum(), -(pull[0] @ log_n), -(pull[1] @ log_d)]
    )
    return float(counts @ (slope * (residual - 0.5 * slope))), gradient


def reference_fit(
    start: Floats, logs: tuple[Floats, Floats, Floats], counts: Floats, options: dict[str, float]
) -> float:
    """Minimise from one starting point and return the objective reached."""
    done = minimize(  # type: ignore[call-overload]
        reference_objective, start, (*logs, counts), jac=True, method="L-BFGS-B", options=options
    )
    return float(done.fun)


def timed(work: Callable[[], Result], repeats: int = 1) -> tuple[float, Result]:
    """Return the shortest time of `repeats` calls, in seconds, and the last result."""
    best = float("inf")
    for _ in range(repeats):
        begin = time.perf_counter()
        result = work()
        best = min(best, time.perf_counter() - begin)
    return best, result


def bench_fit(runs: pd.DataFrame, n_starts: int) -> list[Figure]:
    """Time our fit, which certifies its minimum, against the grid of starting points."""
    n_params, tokens, nats = (runs[name].to_numpy(float) for name in ("n_params", "tokens", "loss"))
    logs = np.log(n_params), np.log(tokens), np.log(nats)
    seconds, _ = timed(lambda: fit_surface(n_params, tokens, nats), 5)
    ours = fit_surface(n_params, tokens, nats)
    chosen = np.random.default_rng(0).choice(len(GRID), n_starts, replace=False)
    counts = np.ones(len(nats))
    rows = [
        Figure("certified fit", seconds, "s", 0.5, "max"),
        Figure("projected gradient", ours.gradient, "cosine", 1e-9, "max"),
    ]
    for name, options in TOLERANCES.items():

        def fit_from_grid(options: dict[str, float] = options) -> list[float]:
            return [reference_fit(np.array(GRID[k]), logs, counts, options) for k in chosen]

        taken, objectives = timed(fit_from_grid)
        reference = taken * len(GRID) / n_starts
        rows += [
            Figure(f"L-BFGS-B, 4500 starts ({n_starts} run), {name}", reference, "s"),
            Figure(f"fit faster than 4500 starts, {name}", reference / seconds, "ratio", 200),
            Figure(
                f"objective over the grid's best, {name}",
                ours.objective / min(objectives),
                "ratio",
                1 + 1e-9,
                "max",
            ),
        ]
    return rows


def bench_bootstrap(runs: pd.DataFrame, resamples: int, n_reference: int) -> list[Figure]:
    """Time the bootstrap (fit, profiles and refits) against one L-BFGS-B start per resample."""
    n_params, tokens, nats = (runs[name].to_numpy(float) for name in ("n_params", "tokens", "loss"))
    logs = np.log(n_params), np.log(tokens), np.log(nats)
    rows = []
    for loss in Loss:
        seconds, _ = timed(
            partial(fit_parametric, n_params, tokens, nats=nats, loss=loss, resamples=resamples)
        )
        rows.append(
            Figure(
                f"{resamples} bootstrap refits, fit and profiles, {loss.name}",
                seconds,
                "s",
                10 * resamples / 4000,
                "max",
            )
        )
    v = fit_surface(n_params, tokens, nats).values
    start = np.array([np.log(v["A"]), np.log(v["B"]), np.log(v["E"]), v["alpha"], v["beta"]])
    rng = np.random.default_rng(0)
    draws = [
        np.bincount(rng.integers(0, len(nats), len(nats)), minlength=len(nats)).astype(np.float64)
        for _ in range(n_reference)
    ]
    # the reference only refits, so ours is timed without the first fit and its profiles
    _, reference = certify(n_params, tokens, nats, Form.chinchilla, Loss.huber, DELTA)
    ours, _ = timed(
        lambda: refit_resamples(
            reference, resample_counts(len(nats), resamples, 0), lambda done: None
        ),
        3,
    )
    rows.append(Figure(f"{resamples} refits alone, huber", ours, "s", 10 * resamples / 4000, "max"))
    for name, options in TOLERANCES.items():

        def refit(options: dict[str, float] = options) -> list[float]:
            return [reference_fit(start, logs, counts, options) for counts in draws]

        taken, _ = timed(refit)
        theirs = taken * resamples / n_reference
        what = f"L-BFGS-B, a start per resample ({n_reference} run), {name}"
        rows += [
            Figure(what, theirs, "s"),
            Figure(f"refits faster than a start each, {name}", theirs / ours, "ratio", 25),
        ]
    return rows


def peak_gigabytes(what: str, size: int) -> float:
    """Peak memory, in GB, of a new process that fits `size` rows or draws `size` resamples."""
    rows, resamples = (size, 100) if what == "rows" else (240, size)
    code = (
        "import sys; sys.path.insert(0, 'scripts')\n"
        "from bench_analysis import synthetic_runs, own_peak\n"
        "from analysis.parametric.fit import fit_parametric\n"
        f"runs = synthetic_runs({rows}, 0.007)\n"
        "columns = [runs[name].to_numpy() for name in ('n_params', 'tokens', 'loss')]\n"
        f"fit_parametric(*columns[:2], nats=columns[2], resamples={resamples})\n"
        "print(own_peak())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True
    )
    return float(done.stdout.split()[-1])


def own_peak() -> float:
    """Peak resident memory of this process in GB; Linux counts in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def bench_memory(size: int) -> list[Figure]:
    """Measure the peak memory with many rows and with many resamples."""
    return [
        Figure(f"peak memory, {size} {what}", peak_gigabytes(what, size), "GB", 4.0, "max")
        for what in ("rows", "resamples")
    ]


def bench_first_line(runs: pd.DataFrame) -> list[Figure]:
    """Time `python -m analysis` from its start to its first line of results."""
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "runs.csv"
        runs.to_csv(table, index=False)
        words = [sys.executable, "-m", "analysis", f"table={table}", f"out={folder}/out"]
        begin = time.perf_counter()
        with subprocess.Popen(
            words, cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as command:
            assert command.stdout is not None
            line = command.stdout.readline()
            seconds = time.perf_counter() - begin
            command.kill()
    return [Figure("first line of the command", seconds if line else float("inf"), "s", 5.0, "max")]


def main() -> None:
    """Run every benchmark, print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--quick", action="store_true", help="at most 3 minutes")
    parser.add_argument("--tiny", action="store_true", help="seconds; figures mean nothing")
    options = parser.parse_args()
    runs, source = read_runs()
    starts, resamples, references, size = 4500, 4000, 400, 100_000
    if options.quick:
        starts, references = 300, 60
    if options.tiny:
        starts, resamples, references, size = 3, 100, 2, 1000
    print(f"data: {source}")  # noqa: T201
    rows: list[Figure] = []
    works: list[Callable[[], list[Figure]]] = [
        lambda: bench_fit(runs, starts),
        lambda: bench_bootstrap(runs, resamples, references),
        lambda: bench_first_line(runs),
        lambda: bench_memory(size),
    ]
    for work in works:
        for row in work():
            rows.append(row)
            goal = f"{row.goal_text}  {row.verdict}".strip()
            print(f"{row.name:66s} {row.value:12.6g} {row.unit:7s} {goal}", flush=True)  # noqa: T201

    if options.json:
        write_figures(options.json, rows)


if __name__ == "__main__":
    restart_with_one_thread()
    main()
