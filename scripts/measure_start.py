"""What a run takes besides its steps: until the first of them, and for records on the way."""

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from benchmark_figures import Figure
from engine_sizes import TINY, Size
from measurement import Effort, Measurement
from our_step import shard
from train_command import REPO, Spent, children_cpu, environment, train

SIZES = (Size(64, 2, 2, 128, 1024), Size(256, 6, 4, 256, 2048))
"""A shallow model and a deep one."""

FIRST_STEP_SECONDS = 5.0
"""Most, with a warm cache of compiled code."""

UPKEEP_SHARE = 0.03
"""Of the time of steps, most for logging, evaluation and checkpoints."""

UPKEEP = ("logging", "evaluation", "checkpoint")

UPKEEP_BATCH_TOKENS = 1_024

EVAL_TOKENS = 131_072


def plan_start(effort: Effort) -> list[Measurement]:
    """First steps by size, then the upkeep of a run."""
    sizes = (TINY,) if effort.is_tiny else SIZES
    steps = 20 if effort.is_tiny else 1_000 if effort.is_quick else 6_000
    return [
        *(
            Measurement(f"first step, {size.name}", 50.0, partial(measure_first, size, effort))
            for size in sizes
        ),
        Measurement("upkeep", 20.0 + steps / 80, partial(measure_upkeep, steps, effort)),
    ]


def measure_first(size: Size, effort: Effort) -> list[Figure]:
    """Start two processes, the first with an empty cache of compiled code."""
    shard(size.gpt2(), effort.data)  # prepared before anything is timed
    cache = effort.folder / f"cache-d{size.d_model}"
    figures = []
    for state in ("cold", "warm"):
        own, whole = start_process(size, effort, cache)
        is_judged = state == "warm" and not effort.is_tiny
        goal = {"goal": FIRST_STEP_SECONDS, "sense": "max"} if is_judged else {}
        name = f"{size.name}: first step, {state} cache"
        figures += [
            Figure(name, own, "s", **goal),
            Figure(f"{name}, with Python's start and import torch", whole.wall, "s"),
            Figure(f"{name}, CPU time of all that", whole.cpu, "s"),
        ]
    return figures


def start_process(size: Size, effort: Effort, cache: Path) -> tuple[float, Spent]:
    """Take a step in a process of its own; return the seconds after its imports, and of it all."""
    code = "import sys, measure_start; measure_start.first_step(*sys.argv[1:])"
    words = [size.d_model, size.n_layers, size.n_heads, size.seq_len, size.batch_tokens]
    words += [int(effort.may_compile), effort.data]
    before, began = children_cpu(), time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)],
        cwd=REPO,
        env=environment(cache) | {"PYTHONPATH": f"{REPO}:{REPO / 'scripts'}"},
        capture_output=True,
        text=True,
        check=True,
    )
    whole = Spent(wall=time.perf_counter() - began, cpu=children_cpu() - before)
    return float(done.stdout.split()[-1]), whole


def first_step(*words: str) -> None:
    """Build our compiled step, take it once and print the seconds; runs in a process of its own."""
    from our_step import build_step  # torch is imported before the clock starts

    *numbers, may_compile, data = words
    size = Size(*map(int, numbers))
    began = time.perf_counter()
    build_step(size.gpt2(), Path(data), is_compiled=may_compile == "1")(1)
    print(time.perf_counter() - began)  # noqa: T201


def measure_upkeep(steps: int, effort: Effort) -> list[Figure]:
    """Train one run by the command, and read where its own clock says that the time went.

    Logging and checkpoints are as by default; evaluations, whose cost is a matter of how many
    tokens they take of how long a run, are those of the quickstart study.
    """
    folder = effort.folder / "upkeep"
    words = [
        "model=d64",
        "data.seq_len=128",
        "data.allow_repeat=true",
        f"optimizer.batch_tokens={UPKEEP_BATCH_TOKENS}",
        f"budget.tokens={UPKEEP_BATCH_TOKENS * steps}",
        "eval.points=1",
        f"eval.tokens={EVAL_TOKENS}",
        "study.name=upkeep",
    ]
    train(words, folder=folder, cache=folder / "compiled")
    (result,) = folder.glob("runs/upkeep/*/result.json")
    spent: Mapping[str, float] = json.loads(result.read_text())["cost"]["spent"]
    name = f"{UPKEEP_BATCH_TOKENS * steps / 1e6:.2g} M tokens, 2 evaluations of {EVAL_TOKENS}"
    shares = {what: spent[what] / spent["train"] for what in UPKEEP}
    goal = {} if effort.is_tiny else {"goal": UPKEEP_SHARE, "sense": "max"}
    return [
        Figure(f"{name}: steps", spent["train"], "s"),
        *(Figure(f"{name}: {what}, of the steps' time", s, "ratio") for what, s in shares.items()),
        Figure(f"{name}: all three, of the steps' time", sum(shares.values()), "ratio", **goal),
    ]
