"""Slots of a launch: how many jobs run at once, and the environment that places each."""

import os
from pathlib import Path

import torch

from train.config.runtime import Device, MachineConfig
from train.engine.device import DEVICE_SHARERS, cpu_cores

JOBS_PER_GPU = 2
"""Jobs that share a GPU by time slices: the second starts and compiles while the first trains.
Slices cost 4 % where both train (one user's report); stacks fill a GPU better than a third job."""

JOBS_PER_GPU_WITH_MPS = 4
"""With CUDA's multi-process service (MPS), kernels of several jobs run at once: 14 to 24 % faster
(one user's report)."""

KEPT_MEMORY = (
    "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=33554432:"
    "glibc.malloc.trim_threshold=1073741824"
)
"""GLIBC_TUNABLES of jobs on the CPU: malloc keeps the memory of activations from step to step, in
huge pages. Steps of 0.1 to 1 million parameters take 3 to 11 % less time (ours). Read only at a
process's start; other C libraries ignore it."""

MPS_FOLDER = "/tmp/nvidia-mps"  # noqa: S108  (NVIDIA's own default)
"""Folder of the MPS control pipe, unless CUDA_MPS_PIPE_DIRECTORY names another."""


def job_slots(machine: MachineConfig) -> list[dict[str, str]]:
    """Environment variables of each slot; `machine.workers` slots, or as many as fit the machine.

    On the CPU one per core, over machine.threads: one process of two threads is slower than two
    processes, by far on a busy machine. With GPUs JOBS_PER_GPU each (more with MPS), round-robin:
    CUDA_VISIBLE_DEVICES names the slot's GPU, DEVICE_SHARERS the number of slots on it.
    """
    threads = {name: str(machine.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    gpus = [] if machine.device is Device.cpu else visible_gpus()
    if not gpus:
        allocator = {"GLIBC_TUNABLES": os.environ.get("GLIBC_TUNABLES", KEPT_MEMORY)}
        return [{**threads, **allocator}] * (
            machine.workers or max(1, cpu_cores() // machine.threads)
        )
    per_gpu = JOBS_PER_GPU_WITH_MPS if has_mps() else JOBS_PER_GPU
    workers = machine.workers or max(1, min(per_gpu * len(gpus), cpu_cores()))
    sharers = -(-workers // len(gpus))
    return [
        {
            **threads,
            "CUDA_VISIBLE_DEVICES": gpus[slot % len(gpus)],
            DEVICE_SHARERS: str(sharers),
        }
        for slot in range(workers)
    ]


def parallel_slots(machine: MachineConfig) -> int:
    """Slots that compute at once without slowing each other: one per GPU, or per core."""
    slots = job_slots(machine)
    gpus = {slot["CUDA_VISIBLE_DEVICES"] for slot in slots if "CUDA_VISIBLE_DEVICES" in slot}
    return len(gpus) or min(len(slots), max(1, cpu_cores() // machine.threads))


def has_mps() -> bool:
    """Whether MPS runs on this machine."""
    return (Path(os.environ.get("CUDA_MPS_PIPE_DIRECTORY") or MPS_FOLDER) / "control").exists()


def visible_gpus() -> list[str]:
    """GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    named = [word for word in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if word]
    return named[:count] if named else [str(index) for index in range(count)]
