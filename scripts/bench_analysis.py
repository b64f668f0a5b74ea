"""Benchmark of the surface fit, side by side with SciPy's L-BFGS-B on the same objective.

    python scripts/bench_analysis.py [--json FILE] [--quick]

The reference is what is usually done: the sum of Huber terms with its exact gradient, minimised by
L-BFGS-B from each of 4500 starts, and from one start per bootstrap resample; at SciPy's default
tolerances, and at ones tight enough to finish. With --quick it runs on a seeded share of them and
the time is scaled up. Without the published table the runs are
synthetic, of like size and noise; the output says which.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from benchmark_figures import Figure, write_figures
from numpy.typing import NDArray
from scipy.optimize import minimize

from analysis.bootstrap import resample_counts
from analysis.config import Form, Loss
from analysis.parametric.fit import certify, fit_parametric, fit_surface
from analysis.parametric.refits import refit_resamples

Floats = NDArray[np.float64]
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
"""log A, log B, log E, alpha, beta: Hoffmann et al. 2022, section D.2."""


TOLERANCES: dict[str, dict[str, float]] = {
    "default tolerances": {},
    "tight tolerances": {"maxiter": 1000, "ftol": 1e-15, "gtol": 1e-10},
}
"""Of the reference. At the default ones a sum of Huber terms of order 1e-3 stops early."""


def read_runs() -> tuple[pd.DataFrame, str]:
    """Return the 240 published runs, or synthetic ones, and which they are."""
    beside = REPO.parent / "shared" / "published"
    path = Path(os.environ.get("WINDTUNNEL_PUBLISHED", beside)) / "chinchilla_epoch.csv"
    if path.exists():
        runs = pd.read_csv(path).sort_values("loss").iloc[:240]
        return runs, f"240 published Chinchilla runs ({path.name})"
    return synthetic_runs(240, 0.007), "240 synthetic runs: no published table here"


def synthetic_runs(count: int, noise: float) -> pd.DataFrame:
    """Draw runs of a surface like Chinchilla's, with Student-t noise in log loss."""
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
    """Return the sum of Huber terms and its gradient; theta is log A, log B, log E, alpha, beta."""
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
    """Minimise from one start."""
    arguments = (*logs, counts)
    done = minimize(
        reference_objective, start, arguments, jac=True, method="L-BFGS-B", options=options
    )
    return float(done.fun)


def timed(work: Callable[[], object], repeats: int = 1) -> tuple[float, object]:
    """Return the least seconds of a few tries, and the last result."""
    best, result = float("inf"), None
    for _ in range(repeats):
        begin = time.perf_counter()
        result = work()
        best = min(best, time.perf_counter() - begin)
    return best, result


def bench_fit(runs: pd.DataFrame, n_starts: int) -> list[Figure]:
    """Time the certified fit against the grid of starts."""
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
        taken, ends = timed(
            lambda options=options: [
                reference_fit(np.array(GRID[k]), logs, counts, options) for k in chosen
            ]
        )
        assert isinstance(ends, list)
        reference = taken * len(GRID) / n_starts
        rows += [
            Figure(f"L-BFGS-B, 4500 starts ({n_starts} run), {name}", reference, "s", 0.0, "min"),
            Figure(
                f"fit faster than 4500 starts, {name}", reference / seconds, "ratio", 200, "min"
            ),
            Figure(
                f"objective over the grid's best, {name}",
                ours.objective / min(ends),
                "ratio",
                1 + 1e-9,
                "max",
            ),
        ]
    return rows


def bench_bootstrap(runs: pd.DataFrame, resamples: int, n_reference: int) -> list[Figure]:
    """Time 4000 refits with their fit and profiles against one start per resample."""
    n_params, tokens, nats = (runs[name].to_numpy(float) for name in ("n_params", "tokens", "loss"))
    logs = np.log(n_params), np.log(tokens), np.log(nats)
    rows = []
    for loss in Loss:
        work = lambda loss=loss: fit_parametric(  # noqa: E731
            n_params, tokens, nats=nats, loss=loss, resamples=resamples
        )
        seconds, _ = timed(work)
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
    # the same work: refits alone, without the first fit and its profiles
    _, reference = certify(n_params, tokens, nats, Form.chinchilla, Loss.huber, DELTA)
    ours, _ = timed(
        lambda: refit_resamples(
            reference, resample_counts(len(nats), resamples, 0), lambda done: None
        ),
        3,
    )
    rows.append(Figure(f"{resamples} refits alone, huber", ours, "s", 10 * resamples / 4000, "max"))
    for name, options in TOLERANCES.items():
        taken, _ = timed(
            lambda options=options: [
                reference_fit(start, logs, counts, options) for counts in draws
            ]
        )
        theirs = taken * resamples / n_reference
        what = f"L-BFGS-B, a start per resample ({n_reference} run), {name}"
        rows += [
            Figure(what, theirs, "s", 0.0, "min"),
            Figure(f"refits faster than a start each, {name}", theirs / ours, "ratio", 25, "min"),
        ]
    return rows


def peak_gigabytes(what: str, size: int) -> float:
    """Return the peak memory of a fresh process that fits many rows or draws many resamples."""
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
    """Return this process's peak resident memory in GB (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def bench_memory(size: int) -> list[Figure]:
    """Measure the peak memory of many rows and of many resamples."""
    return [
        Figure(f"peak memory, {size} {what}", peak_gigabytes(what, size), "GB", 4.0, "max")
        for what in ("rows", "resamples")
    ]


def bench_first_line(runs: pd.DataFrame) -> list[Figure]:
    """Time the command from its start to its first line of results."""
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


def keep_to_one_thread() -> None:
    """Start again with one thread a process: NumPy reads these when it is imported."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    if any(os.environ.get(name) != "1" for name in threads):
        arguments = [sys.executable, *sys.argv]
        os.execve(sys.executable, arguments, {**os.environ, **threads})  # noqa: S606


def main() -> None:
    """Run, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
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
    rows = []
    for work in (
        lambda: bench_fit(runs, starts),
        lambda: bench_bootstrap(runs, resamples, references),
        lambda: bench_first_line(runs),
        lambda: bench_memory(size),
    ):
        for row in work():
            rows.append(row)
            sign = ">=" if row.sense == "min" else "<="
            verdict = "meets" if row.meets else "FALLS SHORT"
            print(  # noqa: T201
                f"{row.name:66s} {row.value:12.6g} {row.unit:7s} {sign} {row.goal:g}  {verdict}",
                flush=True,
            )
    if options.json:
        write_figures(options.json, rows)


if __name__ == "__main__":
    keep_to_one_thread()
    main()
