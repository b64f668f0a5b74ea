"""Parts of the GPU check in one process, which writes each figure down as soon as it is known."""

import argparse
import json
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from benchmark_figures import Figure, write_figures
from gpu_commands import take_resume, take_study
from gpu_correctness import take_correctness
from gpu_ladder import SIZES, is_compiled, stack_of, take_ladder
from gpu_setting import Setting, Tell, open_setting
from gpu_speed import SPEEDS, take_graph, take_speed

from train.engine.device import release_memory
from train.errors import ConfigError

AHEAD = 3
"""Processes that compile ahead."""


def main() -> None:
    """Take the parts; an error is written down, and the next part begins."""
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--cpu", action="store_true")
    options = parser.parse_args()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    try:
        setting = open_setting(out=options.out, work=options.work, is_tiny=options.cpu)
    except ConfigError as error:
        for name in options.parts:
            (options.work / f"{name}.error").write_text(str(error), encoding="utf-8")
        return
    for name in options.parts:
        _take(name, setting)


def _take(name: str, setting: Setting) -> None:
    figures: list[Figure] = []
    path = setting.work / f"{name}.json"

    def tell(figure: Figure) -> None:
        if setting.is_tiny and figure.sense == "min":  # what is to be fast is not judged
            figure = replace(figure, goal=0.0)
        figures.append(figure)
        write_figures(path, figures)
        sys.stdout.write(f"{figure.name}: {figure.value:.6g} {figure.unit}\n")

    device = {
        "device": setting.compute.name,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
    }
    (setting.work / "device.json").write_text(json.dumps(device), encoding="utf-8")
    try:
        _parts()[name](setting, tell)
    except Exception as error:
        sys.stdout.write(traceback.format_exc())
        words = f"{type(error).__name__}: {error}"
        (setting.work / f"{name}.error").write_text(words, encoding="utf-8")
    release_memory()


def _parts() -> dict[str, Callable[[Setting, Tell], None]]:
    return {
        "correctness": take_correctness,
        **{f"speed-{name}": partial(take_speed, name) for name in SPEEDS},
        "graph": take_graph,
        "ladder": take_ladder,
        "resume": take_resume,
        "study": take_study,
        **{f"ahead-{number}": partial(compile_ahead, number) for number in range(AHEAD)},
    }


def compile_ahead(number: int, setting: Setting, tell: Tell) -> None:
    """Fill the cache of compiled code with what later parts need, every AHEAD-th of it."""
    builds: list[Callable[[], object]] = [
        *(partial(speed.engine, setting) for speed in SPEEDS.values()),
        partial(replace(SPEEDS["1M"], n_replicas=1).engine, setting),
        *(partial(stack_of, *size, setting) for size in reversed(SIZES) if is_compiled(*size)),
    ]
    for build in builds[number::AHEAD]:
        torch.compiler.reset()  # a process keeps code for a few shapes only
        build().advance(1)  # type: ignore[attr-defined]
        release_memory()
    tell(Figure("compiled ahead", len(builds[number::AHEAD]), "stacks"))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
