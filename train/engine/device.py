"""The device a job computes on: choice, arithmetic and threads."""

import gc
import os
import platform
from dataclasses import dataclass

import torch

from train.config.runtime import Device, MachineConfig
from train.errors import ConfigError

DEVICE_SHARERS = "WINDTUNNEL_DEVICE_SHARERS"
"""Environment variable by which a launcher says how many of its jobs share a GPU."""


@dataclass(frozen=True)
class ComputeDevice:
    """A device and how we use it."""

    device: torch.device
    name: str
    """Such as 'NVIDIA H200' or 'AMD EPYC, 1 thread'."""
    sharers: int = 1
    """Jobs of this study on the same GPU, this one included."""

    @property
    def is_cuda(self) -> bool:
        """Whether work is queued rather than done when a call returns."""
        return self.device.type == "cuda"

    def memory_budget(self) -> int:
        """Bytes that this job may plan with: its share of the device, or what is left of it.

        Jobs of a study that share a GPU start together, so each must not count on what is free
        at that moment; `sharers` says how many they are.
        """
        if self.is_cuda:
            free, total = torch.cuda.mem_get_info(self.device)
            return min(free, total // self.sharers)
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // cpu_cores()

    def synchronize(self) -> None:
        """Wait until queued work is done, so that a clock read is honest."""
        if self.is_cuda:
            torch.cuda.synchronize(self.device)


def select_device(machine: MachineConfig, *, index: int = 0) -> ComputeDevice:
    """Choose the device and set the process's thread count and determinism.

    Args:
        machine: What was asked.
        index: Which of several GPUs; a job of one process sees only its own, or takes the first.

    Raises:
        ConfigError: CUDA is asked for and not there, or there are fewer devices.
    """
    torch.set_num_threads(machine.threads)
    has_cuda = torch.cuda.is_available()
    if machine.device is Device.cuda and not has_cuda:
        raise ConfigError(
            "machine.device=cuda: torch finds no CUDA device here "
            f"(torch {torch.__version__}); use machine.device=cpu or auto"
        )
    if machine.device is Device.cpu or not has_cuda:
        threads = f"{machine.threads} thread{'s' if machine.threads > 1 else ''}"
        return ComputeDevice(torch.device("cpu"), f"{_cpu_name()}, {threads}")
    if index >= (n_devices := torch.cuda.device_count()):
        raise ConfigError(
            f"process {index} of this machine has no GPU of its own: torch finds {n_devices}; use "
            f"torchrun --nproc-per-node {n_devices}"
        )
    if machine.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(mode=True)
    sharers = int(os.environ.get(DEVICE_SHARERS, "1"))
    return ComputeDevice(torch.device("cuda", index), torch.cuda.get_device_name(index), sharers)


def release_memory() -> None:
    """Give back what objects that are gone have left in torch's caches."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def has_native_bf16(compute: ComputeDevice) -> bool:
    """Whether the device has instructions for bfloat16 products, as GPUs have from Ampere on."""
    if compute.is_cuda:
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def cpu_cores() -> int:
    """Cores this process may use."""
    has_affinity = hasattr(os, "sched_getaffinity")  # not on macOS
    return len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1


def _cpu_name() -> str:
    """The processor's model name, as the kernel tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
