"""Where a study's jobs run: a slot per job at a time, with the environment that places it."""

import os

import torch

from train.config import Device, MachineConfig
from train.device import DEVICE_SHARERS, cpu_cores

JOBS_PER_GPU = 4
"""Small runs are bound by kernel launches, so a few share a GPU; larger rungs want
machine.workers=1 (ours, not measured yet)."""


def job_slots(machine: MachineConfig) -> list[dict[str, str]]:
    """Environment of each slot: `machine.workers` of them, or as many as the machine suggests.

    On the CPU, one per core over its threads. With GPUs, JOBS_PER_GPU each, dealt round, with
    CUDA_VISIBLE_DEVICES naming the slot's GPU and DEVICE_SHARERS its neighbours.
    """
    threads = {name: str(machine.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    gpus = [] if machine.device is Device.cpu else visible_gpus()
    if not gpus:
        return [threads] * (machine.workers or max(1, cpu_cores() // machine.threads))
    workers = machine.workers or max(1, min(JOBS_PER_GPU * len(gpus), cpu_cores()))
    sharers = -(-workers // len(gpus))
    return [
        {
            **threads,
            "CUDA_VISIBLE_DEVICES": gpus[slot % len(gpus)],
            DEVICE_SHARERS: str(sharers),
        }
        for slot in range(workers)
    ]


def visible_gpus() -> list[str]:
    """The GPUs this process may use, as CUDA_VISIBLE_DEVICES names them."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    named = [word for word in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if word]
    return named[:count] if named else [str(index) for index in range(count)]
