"""Peak FLOP/s of a device, measured and by its datasheet: the denominators of `mfu`."""

import math
import re
import time
from dataclasses import dataclass

import torch

from train.engine.device import ComputeDevice

MEASURING_SECONDS = 0.12
"""Seconds of timed matmuls, warm-up excluded."""

FEWEST_MATMULS = 3
"""Matmuls that are timed even on a device where they take longer than MEASURING_SECONDS."""

CUDA_SIZE = 8192
"""Rows and columns on a GPU: 1.4 ms in bfloat16 on an H200, a hundred times a kernel launch."""

CPU_SIZE = 512
"""Rows and columns on one CPU thread: as fast as larger ones (within 3 % in bfloat16 and float32).

One takes 1 to 3 ms, so that some fall between two time slices of other processes (ours).
"""

TERA = 1e12


@dataclass(frozen=True, kw_only=True)
class _Datasheet:
    """A vendor's peaks of one device: dense, without the doubling of structured sparsity."""

    names: str
    """Pattern that matches torch.cuda.get_device_name as a whole: a slice of the device (MIG) or
    its laptop version has another peak."""
    bf16: float | None
    """TFLOP/s in bfloat16 with float32 accumulation; None without hardware for it."""
    fp32: float
    """TFLOP/s in float32 without TF32, which training does not use."""
    source: str


_A100 = "NVIDIA A100 Tensor Core GPU Datasheet"
_H100 = "NVIDIA H100 Tensor Core GPU Architecture, table of peak rates"
_H100_CARDS = "NVIDIA H100 Tensor Core GPU Datasheet, half of the sparse figures"
_H200 = "NVIDIA H200 Tensor Core GPU Datasheet, half of the sparse figures"
_ADA = "NVIDIA Ada GPU Architecture"
_GA102 = "NVIDIA Ampere GA102 GPU Architecture"
_V100 = "NVIDIA V100 Tensor Core GPU Datasheet, single precision"
_MI300 = "data sheet; single-precision matrix"

_DATASHEETS = tuple(
    _Datasheet(names=names, bf16=bf16, fp32=fp32, source=source)
    for names, bf16, fp32, source in (
        (r"Tesla V100-SXM[23]-\d+GB(-LS)?", None, 15.7, _V100),
        (r"Tesla V100-PCIE-\d+GB", None, 14.0, _V100),
        (r"Tesla T4", None, 8.1, "NVIDIA T4 Tensor Core GPU Datasheet"),
        (r"(NVIDIA )?A[18]00-(SXM4|PCIE)-[48]0GB|NVIDIA A[18]00 80GB PCIe", 312.0, 19.5, _A100),
        (r"NVIDIA A30", 165.0, 10.3, "NVIDIA A30 Tensor Core GPU Datasheet"),
        (r"NVIDIA A10", 125.0, 31.2, "NVIDIA A10 Tensor Core GPU Datasheet"),
        (r"NVIDIA A40", 149.7, 37.4, "NVIDIA A40 Datasheet"),
        (r"(NVIDIA )?RTX A6000", 154.8, 38.7, _GA102),
        (r"(NVIDIA )?GeForce RTX 3090", 71.0, 35.6, _GA102),
        (r"NVIDIA GeForce RTX 4090", 165.2, 82.6, _ADA),
        (r"NVIDIA RTX 6000 Ada Generation", 364.2, 91.1, _ADA),
        (r"NVIDIA L4", 121.0, 30.3, "NVIDIA L4 Product Brief, half of the sparse figures"),
        (r"NVIDIA L40", 181.05, 90.5, "NVIDIA L40 Datasheet"),
        (r"NVIDIA L40S", 362.05, 91.6, "NVIDIA L40S Datasheet"),
        (r"NVIDIA GeForce RTX 5090", 209.5, 104.8, "NVIDIA RTX Blackwell GPU Architecture"),
        (r"NVIDIA H[18]00 80GB HBM3", 989.4, 66.9, _H100),
        (r"NVIDIA H100 PCIe", 756.5, 51.2, _H100_CARDS),
        (r"NVIDIA H100 NVL", 835.5, 60.0, _H100_CARDS),
        (r"NVIDIA GH200 (120|144G?|480)GB?( HBM3e)?", 989.4, 66.9, _H100),
        (r"NVIDIA H200", 989.5, 66.9, _H200),
        (r"NVIDIA H200 NVL", 835.5, 60.0, _H200),
        (r"NVIDIA B200", 2250.0, 75.0, "NVIDIA Blackwell Architecture Technical Brief, HGX B200"),
        (r"NVIDIA GB200", 2500.0, 80.0, "NVIDIA Blackwell Architecture Technical Brief, GB200"),
        (r"AMD Instinct MI250X", 191.5, 47.85, "AMD Instinct MI250X data sheet, one of two dies"),
        (r"AMD Instinct MI3(00|25)X( OAM)?", 1307.4, 163.4, f"AMD Instinct MI300X {_MI300}"),
    )
)


@dataclass(frozen=True, kw_only=True)
class PeakFlops:
    """FLOP/s that matmuls can reach on a device."""

    measured: float
    """By measure_peak_flops, in this process."""
    datasheet: float | None
    """By the vendor; None for devices that are not in the table."""

    def utilisation(self, flops_per_second: float, *, devices: int = 1) -> dict[str, float]:
        """Columns of a row of metrics.jsonl: FLOP/s, `mfu`, and `mfu_datasheet` where it is known.

        Args:
            flops_per_second: Model FLOP/s of all runs that are trained at once: matmuls and
                attention, without recomputation.
            devices: Devices that they are trained on.
        """
        columns: dict[str, float] = {
            "flops_per_second": round(flops_per_second),
            "mfu": round(flops_per_second / (devices * self.measured), 5),
        }
        if self.datasheet:
            columns["mfu_datasheet"] = round(flops_per_second / (devices * self.datasheet), 5)
        return columns


def peak_flops(compute: ComputeDevice, dtype: torch.dtype) -> PeakFlops:
    """Measure the peak of the device in `dtype`, and look up its datasheet's."""
    return PeakFlops(
        measured=measure_peak_flops(compute, dtype),
        datasheet=datasheet_peak_flops(compute.name, dtype),
    )


def measure_peak_flops(compute: ComputeDevice, dtype: torch.dtype) -> float:
    """FLOP/s of the fastest of the large matmuls that fit in MEASURING_SECONDS.

    The fastest, because other work on the machine only ever slows one down. The random state of
    training does not move.

    Args:
        compute: Device, with as many threads as training has.
        dtype: Dtype of the matmuls of training, bfloat16 or float32.
    """
    size = (
        CUDA_SIZE if compute.is_cuda else CPU_SIZE * (1 + math.isqrt(torch.get_num_threads() - 1))
    )
    a, b = _factors(compute.device, dtype, size)
    # warm-up
    product = torch.mm(a, b)
    compute.synchronize()
    best, began, n_matmuls = math.inf, time.perf_counter(), 0
    now = began
    while now - began < MEASURING_SECONDS or n_matmuls < FEWEST_MATMULS:
        start = now
        torch.mm(a, b, out=product)
        compute.synchronize()
        now = time.perf_counter()
        best, n_matmuls = min(best, now - start), n_matmuls + 1
    return 2 * size**3 / best


def _factors(
    device: torch.device, dtype: torch.dtype, size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Two (size, size) matrices of normal numbers; GPUs multiply zeros faster."""
    generator = torch.Generator(device).manual_seed(0)
    a, b = (torch.randn(size, size, device=device, generator=generator) for _ in range(2))
    return a.to(dtype), b.to(dtype)


def datasheet_peak_flops(device_name: str, dtype: torch.dtype) -> float | None:
    """The vendor's dense peak in FLOP/s.

    Args:
        device_name: As returned by torch.cuda.get_device_name.
        dtype: bfloat16 or float32.

    Returns:
        None for CPUs, devices that are not in the table, and bfloat16 on devices without it.
    """
    for sheet in _DATASHEETS:
        if re.fullmatch(sheet.names, device_name):
            tera = sheet.bf16 if dtype is torch.bfloat16 else sheet.fp32
            return None if tera is None else tera * TERA
    return None
