"""The device of a job: its choice, name, memory and threads."""

import gc
import os
import platform
from dataclasses import dataclass

import torch

from train.config.runtime import Device, MachineConfig
from train.errors import ConfigError

DEVICE_SHARERS = "WINDTUNNEL_DEVICE_SHARERS"
"""Environment variable in which a launcher tells its jobs how many of them share a GPU."""


@dataclass(frozen=True)
class ComputeDevice:
    """A device and the share of it that this job has."""

    device: torch.device
    name: str
    """For example 'NVIDIA H200' or 'AMD EPYC, 1 thread'."""
    sharers: int = 1
    """Jobs of this study on the same GPU, this one included."""

    @property
    def is_cuda(self) -> bool:
        """Whether this is a GPU, whose work is queued rather than done when a call returns."""
        return self.device.type == "cuda"

    def memory_budget(self) -> int:
        """Bytes that this job may plan with.

        On a GPU at most total / sharers: jobs that share it start together, and each still sees
        all of it free. On a CPU the RAM per core.
        """
        if self.is_cuda:
            free, total = torch.cuda.mem_get_info(self.device)
            return min(free, total // self.sharers)
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // cpu_cores()

    def synchronize(self) -> None:
        """Wait until all queued work is done; needed before reading a clock."""
        if self.is_cuda:
            torch.cuda.synchronize(self.device)


def select_device(machine: MachineConfig, *, index: int = 0) -> ComputeDevice:
    """Choose the device; set the process's number of threads and determinism.

    Args:
        machine: Settings of the config.
        index: GPU among the visible ones: the local rank.

    Raises:
        ConfigError: machine.device=cuda without a CUDA device, or fewer GPUs than local ranks.
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
    """Return the memory of dead objects to the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def has_native_bf16(compute: ComputeDevice) -> bool:
    """Whether the device has bfloat16 instructions; GPUs have them from Ampere on."""
    if compute.is_cuda:
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def cpu_cores() -> int:
    """Cores this process may use."""
    # macOS has no sched_getaffinity
    has_affinity = hasattr(os, "sched_getaffinity")
    return len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1


def _cpu_name() -> str:
    """The CPU's model name, from /proc/cpuinfo where that exists."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
