"""Parts of the GPU check in one process: `python -m gpu.part PART ... --out DIR --work DIR`.

Each figure is written to WORK/PART.json as soon as it is measured; an error goes to
WORK/PART.error, and the next part begins.
"""

import argparse
import json
import os
import traceback
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from bench.figures import Figure, write_figures
from gpu.commands import take_resume, take_study
from gpu.correctness import take_correctness
from gpu.ladder import SIZES, is_compiled, stack_of, take_ladder
from gpu.setting import Report, Setting, open_setting
from gpu.speed import SPEEDS, take_graph, take_speed
from train.engine.device import release_memory
from train.engine.engine import Engine
from train.errors import ConfigError

AHEAD = 3
"""Number of processes that compile ahead."""


def main() -> None:
    """Take the parts named on the command line, one after the other."""
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--cpu", action="store_true")
    options = parser.parse_args()
    try:
        setting = open_setting(out=options.out, work=options.work, is_tiny=options.cpu)
    except ConfigError as error:
        for name in options.parts:
            (options.work / f"{name}.error").write_text(str(error), encoding="utf-8")
        return
    for name in options.parts:
        take(name, setting)


def take(name: str, setting: Setting) -> None:
    """Take one part; write its figures, and its error if there is one."""
    figures: list[Figure] = []
    path = setting.work / f"{name}.json"

    def report(figure: Figure) -> None:
        # speed is not judged in a tiny check
        if setting.is_tiny and figure.sense == "min":
            figure = replace(figure, goal=0.0)
        figures.append(figure)
        write_figures(path, figures)
        print(f"{figure.name}: {figure.value:.6g} {figure.unit}", flush=True)  # noqa: T201

    device = {
        "device": setting.compute.name,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
    }
    (setting.work / "device.json").write_text(json.dumps(device), encoding="utf-8")
    try:
        parts()[name](setting, report)
    except Exception as error:
        print(traceback.format_exc(), flush=True)  # noqa: T201
        message = f"{type(error).__name__}: {error}"
        if isinstance(error, ModuleNotFoundError):
            message += "; install it, or name a folder that has its wheel with --wheels"
        (setting.work / f"{name}.error").write_text(message, encoding="utf-8")
    release_memory()


def parts() -> dict[str, Callable[[Setting, Report], None]]:
    """All parts by name."""
    return {
        "correctness": take_correctness,
        **{f"speed-{name}": partial(take_speed, name) for name in SPEEDS},
        "graph": take_graph,
        "ladder": take_ladder,
        "resume": take_resume,
        "study": take_study,
        **{f"ahead-{number}": partial(compile_ahead, number) for number in range(AHEAD)},
    }


def compile_ahead(number: int, setting: Setting, report: Report) -> None:
    """Compile every AHEAD-th of the steps that later parts time, into the shared cache."""
    builds: list[Callable[[], Engine]] = [
        *(partial(speed.engine, setting) for speed in SPEEDS.values()),
        partial(replace(SPEEDS["1M"], n_replicas=1).engine, setting),
        *(partial(stack_of, *size, setting) for size in reversed(SIZES) if is_compiled(*size)),
    ]
    for build in builds[number::AHEAD]:
        # torch keeps compiled code for only a few shapes per process
        torch.compiler.reset()
        build().advance(1)
        release_memory()
    report(Figure("compiled ahead", len(builds[number::AHEAD]), "stacks"))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
