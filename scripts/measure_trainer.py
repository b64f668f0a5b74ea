"""Our training step against Hugging Face's Trainer."""

import tempfile
from functools import partial
from pathlib import Path

from benchmark_figures import Figure
from engine_sizes import TINY, Size
from huggingface_peer import NAME, missing_packages, time_in_turn_with_trainer
from measure_step import COMPILE_SECONDS, reference
from measurement import Effort, LeftOutError, Measurement
from our_step import build_step, shard

GOALS = {Size(64, 2, 2, 128, 256): 1.8, Size(256, 6, 4, 256, 2048): 2.2}
"""The smallest and the largest shape of the steps, at few tokens and at many."""


ACTIVATIONS = {"Trainer": "gelu_new", "Trainer with one-kernel GELU": "gelu"}
"""The default of GPT-2's config, whose figures are judged; and the function that we compute."""


def plan_trainer(effort: Effort) -> list[Measurement]:
    """One measurement a size."""
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
        LeftOutError: The peer's packages are not installed.
    """
    missing = missing_packages()
    if missing:
        raise LeftOutError(f"needs {' and '.join(missing)}: pip install {' '.join(missing)}")
    run, data = size.gpt2(), effort.data
    others = {
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
