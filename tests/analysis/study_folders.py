"""Builds study folders and tables from a known surface, as training would have written them."""

import hashlib
import json

import numpy as np
import pandas as pd

TRUTH = {"E": 1.8, "A": 480.0, "B": 2100.0, "alpha": 0.35, "beta": 0.37}


def surface(n_params, tokens):
    return (
        TRUTH["E"] + TRUTH["A"] / n_params ** TRUTH["alpha"] + TRUTH["B"] / tokens ** TRUTH["beta"]
    )


def optimal_n(flops):
    alpha, beta = TRUTH["alpha"], TRUTH["beta"]
    scale = (alpha * TRUTH["A"] / (beta * TRUTH["B"])) ** (1 / (alpha + beta))
    return scale * (flops / 6) ** (beta / (alpha + beta))


def isoflop_table(budgets=(1e18, 3e18, 1e19, 3e19, 1e20), sizes=7, step=1.6, noise=0.0, seed=0):
    """One row a run: sizes in steps of a factor around the true valley of every budget."""
    rng = np.random.default_rng(seed)
    rows = []
    for flops in budgets:
        powers = np.arange(sizes) - (sizes - 1) / 2
        for n in optimal_n(np.array(flops)) * step**powers:
            d = flops / (6 * n)
            loss = surface(n, d) * np.exp(noise * rng.standard_normal())
            rows.append({"n_params": n, "tokens": d, "flops": flops, "loss": loss})
    return pd.DataFrame(rows)


def write_study(runs, name="tunnel", table=None, **columns):
    """Write runs/<name> with one folder a row, and return the run ids."""
    table = isoflop_table(noise=0.001) if table is None else table
    entries, ids = [], []
    for k, record in enumerate(table.to_dict("records")):
        run_id = f"n{record['n_params']:.0f}-s0-{k:08x}"
        ids.append(run_id)
        row = {
            **record,
            "run_id": run_id,
            "study": name,
            "rung": f"d{k}",
            "lr": 1e-3,
            "batch_tokens": 2048,
            "schedule": "cosine",
            "seed": 0,
            "state": "completed",
            "flops_6nd": 6 * record["n_params"] * record["tokens"],
            **columns,
        }
        write_run(runs / name / run_id, row)
        entries.append({"run_id": run_id, "plan": {"tokens": record["tokens"]}})
    manifest = {"schema": 1, "study": name, "sha256": "0" * 64, "runs": entries}
    (runs / name / "manifest.json").write_text(json.dumps(manifest))
    return ids


def write_run(folder, row, data="d" * 64):
    """Write one completed run folder."""
    folder.mkdir(parents=True)
    share = np.geomspace(0.01, 1, 30)
    metrics = [
        {"step": k, "tokens": row["tokens"] * s, "flops": row["flops"] * s, "loss": _at(row, s)}
        for k, s in enumerate(share)
    ]
    evals = [
        {
            "step": 29,
            "tokens": row["tokens"],
            "flops": row["flops"],
            "split": "validation",
            "loss": row["loss"],
            "n_tokens": 262144,
            "data_sha256": "e" * 64,
        }
    ]
    files = {}
    for name, rows in (("metrics.jsonl", metrics), ("evals.jsonl", evals)):
        text = "".join(json.dumps(r) + "\n" for r in rows)
        (folder / name).write_text(text)
        files[name] = hashlib.sha256(text.encode()).hexdigest()
    write_json(folder / "status.json", {"state": "completed", "reason": "", "step": 29})
    result = {
        "schema": 1,
        "run_id": row["run_id"],
        "state": "completed",
        "data_sha256": data,
        "row": row,
        "files": files,
    }
    write_json(folder / "result.json", result)


def _at(row, share):
    """A training loss that falls to the row's."""
    return float(row["loss"] * (1 + 0.6 * (share**-0.3 - 1)))


def write_json(path, value):
    path.write_text(json.dumps(value))


def edit_json(path, **changes):
    value = json.loads(path.read_text())
    value.update(changes)
    write_json(path, value)
