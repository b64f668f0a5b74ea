"""A run's overhead: the time to its first step, and of logging, evaluation and checkpoints."""

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from bench.figures import Figure
from bench.measurement import Effort, Measurement
from bench.our_step import shard
from bench.sizes import TINY, Size
from bench.train_command import REPO, Cost, children_cpu, environment, train

SIZES = (Size(64, 2, 2, 128, 1024), Size(256, 6, 4, 256, 2048))
"""A shallow model and a deep one."""

FIRST_STEP_SECONDS = 5.0
"""Upper goal with a warm cache of compiled code."""

UPKEEP_SHARE = 0.03
"""Upper goal for logging, evaluation and checkpoints together, as a share of the steps' time."""

UPKEEP = ("logging", "evaluation", "checkpoint")

UPKEEP_BATCH_TOKENS = 1_024

EVAL_TOKENS = 131_072


def plan_start(effort: Effort) -> list[Measurement]:
    """Plan the first step at each size, then the upkeep of one run."""
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
    """Time the first step in two processes, the first with an empty cache of compiled code."""
    # prepare the data before anything is timed
    shard(size.gpt2(), effort.data)
    cache = effort.folder / f"cache-d{size.d_model}"
    figures = []
    for state in ("cold", "warm"):
        own, whole = start_process(size, effort, cache)
        has_goal = state == "warm" and not effort.is_tiny
        name = f"{size.name}: first step, {state} cache"
        figures += [
            upper_goal(name, own, "s", FIRST_STEP_SECONDS if has_goal else None),
            Figure(f"{name}, with Python's start and import torch", whole.wall, "s"),
            Figure(f"{name}, CPU time of all that", whole.cpu, "s"),
        ]
    return figures


def upper_goal(name: str, value: float, unit: str, goal: float | None) -> Figure:
    """A figure that must be at most `goal`; None is no goal."""
    return Figure(name, value, unit) if goal is None else Figure(name, value, unit, goal, "max")


def start_process(size: Size, effort: Effort, cache: Path) -> tuple[float, Cost]:
    """Take one step in a new process; return its seconds after imports, and the whole cost."""
    code = "import sys; from bench.measure_start import first_step; first_step(*sys.argv[1:])"
    sizes = (size.d_model, size.n_layers, size.n_heads, size.seq_len, size.batch_tokens)
    words = [*sizes, int(effort.may_compile), effort.data]
    before, began = children_cpu(), time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)],
        cwd=REPO,
        env=environment(cache) | {"PYTHONPATH": f"{REPO}:{REPO / 'scripts'}"},
        capture_output=True,
        text=True,
        check=True,
    )
    whole = Cost(wall=time.perf_counter() - began, cpu=children_cpu() - before)
    return float(done.stdout.split()[-1]), whole


def first_step(*words: str) -> None:
    """Build our step, take it once and print the seconds; the code of the new process."""
    # imports torch before the clock starts
    from bench.our_step import build_step

    *numbers, may_compile, data = words
    size = Size(*map(int, numbers))
    began = time.perf_counter()
    build_step(size.gpt2(), Path(data), is_compiled=may_compile == "1")(1)
    print(time.perf_counter() - began)  # noqa: T201


def measure_upkeep(steps: int, effort: Effort) -> list[Figure]:
    """Train one run with the command and read from result.json where its time went.

    Logging and checkpoints keep their defaults. The cost of evaluation depends on its tokens and on
    the run's length: both are the quickstart study's.
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
    total = f"{name}: all three, of the steps' time"
    return [
        Figure(f"{name}: steps", spent["train"], "s"),
        *(Figure(f"{name}: {what}, of the steps' time", s, "ratio") for what, s in shares.items()),
        upper_goal(total, sum(shares.values()), "ratio", None if effort.is_tiny else UPKEEP_SHARE),
    ]
