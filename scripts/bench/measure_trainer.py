"""Our training step against Hugging Face's Trainer."""

import tempfile
from functools import partial
from pathlib import Path

from bench.figures import Figure
from bench.huggingface_peer import NAME, missing_packages, time_in_turn_with_trainer
from bench.measure_step import COMPILE_SECONDS, reference
from bench.measurement import Effort, LeftOutError, Measurement
from bench.our_step import build_step, shard
from bench.paired_timing import Work
from bench.sizes import TINY, Size

GOALS = {Size(64, 2, 2, 128, 256): 1.8, Size(256, 6, 4, 256, 2048): 2.2}
"""Least speed-up of our compiled step over Trainer, at a small and a large shape."""

ACTIVATIONS = {"Trainer": "gelu_new", "Trainer with one-kernel GELU": "gelu"}
"""The default of GPT2Config, which has the goal; and the activation that our model computes."""


def plan_trainer(effort: Effort) -> list[Measurement]:
    """Plan one measurement per size."""
    goals = {TINY: 0.0} if effort.is_tiny else GOALS
    return [
        Measurement(
            f"Trainer, {size.name}",
            COMPILE_SECONDS + 6 * effort.contender_seconds,
            partial(measure_trainer, size, goals[size], effort),
        )
        for size in goals
    ]


def measure_trainer(size: Size, goal: float, effort: Effort) -> list[Figure]:
    """Time Trainer, our compiled step and the reference in turn.

    Raises:
        LeftOutError: transformers or accelerate is not installed.
    """
    missing = missing_packages()
    if missing:
        raise LeftOutError(f"needs {' and '.join(missing)}: pip install {' '.join(missing)}")
    run, data = size.gpt2(), effort.data
    others: dict[str, Work] = {
        "compiled": build_step(run, data, is_compiled=effort.may_compile),
        "reference": reference(run, data),
    }
    figures = []
    for peer, activation in ACTIVATIONS.items():
        with tempfile.TemporaryDirectory(dir=effort.folder) as folder:
            paired = time_in_turn_with_trainer(
                run.plan.shape,
                shard(run, data),
                others,
                batch_tokens=size.batch_tokens,
                activation=activation,
                rounds=effort.rounds,
                block_seconds=effort.block_seconds,
                folder=Path(folder),
            )
        own_goal = goal if peer == "Trainer" else 0.0
        ours, theirs = paired.ratio(NAME, "compiled"), paired.ratio(NAME, "reference")
        figures += [
            Figure(f"{size.name}: {peer}, step", 1e3 * paired.median(NAME), "ms"),
            Figure(f"{size.name}: {peer}, compiled times it", ours, "ratio", own_goal),
            Figure(f"{size.name}: {peer}, reference times it", theirs, "ratio"),
        ]
    return figures
