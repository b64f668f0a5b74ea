"""The undisturbed tiny run's numbers, kept beside the tests, and the command that writes them.

    cd tests && OMP_NUM_THREADS=1 PYTHONPATH=.. ../.venv/bin/python -m faults.golden

It adds the curve of the torch that is installed, by its minor version. A curve that changes for
the same torch is a change of numerics: raise identity.NUMERICS_VERSION and say so in CHANGELOG.md,
under "Numerics".
"""

import platform
import tempfile
from pathlib import Path

import torch

from train.storage.records import read_json, read_jsonl, write_json

GOLDEN = Path(__file__).with_name("golden_curve.json")

COMMAND = "cd tests && OMP_NUM_THREADS=1 PYTHONPATH=.. ../.venv/bin/python -m faults.golden"

TOLERANCE = {"loss": 1e-6, "grad_norm": 1e-5, "eval_loss": 1e-6}
"""Relative. Processors round otherwise: with the kernels of torch and MKL for older ones
(ATEN_CPU_CAPABILITY, MKL_CBWR) losses moved by 1.9e-7 and gradient norms by 1.6e-6 at most."""


def torch_minor():
    return ".".join(torch.__version__.split(".")[:2])


def curve(folder):
    metrics, evals = read_jsonl(folder.metrics), read_jsonl(folder.evals)
    return {
        "loss": [row["loss"] for row in metrics],
        "grad_norm": [row["grad_norm"] for row in metrics],
        "eval_loss": [row["loss"] for row in evals],
    }


def differences(golden, now):
    found = []
    for name, tolerance in TOLERANCE.items():
        if len(golden[name]) != len(now[name]):
            found.append(f"{name}: {len(now[name])} values, {len(golden[name])} before")
            continue
        pairs = list(zip(golden[name], now[name], strict=True))
        worst = max(range(len(pairs)), key=lambda i: abs(pairs[i][1] / pairs[i][0] - 1))
        old, new = pairs[worst]
        if abs(new / old - 1) > tolerance:
            found.append(f"{name}: value {worst + 1} was {old!r} and is {new!r}")
    return found


def main():
    from faults.runner import run_here
    from tests.builders import FAULTS, tiny_config

    torch.set_num_threads(1)
    known = read_json(GOLDEN) if GOLDEN.exists() else {"curves": {}}
    with tempfile.TemporaryDirectory() as scratch:
        folder = run_here(tiny_config(Path(scratch), FAULTS))
        known["curves"][torch_minor()] = {
            "torch": torch.__version__,
            "machine": platform.machine(),
            "kernels": torch.backends.cpu.get_cpu_capability(),
            **curve(folder),
        }
    write_json(GOLDEN, {"made_by": COMMAND, "curves": known["curves"]})


if __name__ == "__main__":
    main()
