"""The peak FLOP/s of a device, measured and by its datasheet, and how much of it training uses."""

import math
import re
import time
from dataclasses import dataclass

import torch

from train.engine.device import ComputeDevice

MEASURING_SECONDS = 0.12
"""Products are repeated for so long, of which the first, that warms up, is no part."""

FEWEST_PRODUCTS = 3
"""Of a device on which one product takes longer than that."""

CUDA_SIZE = 8192
"""Rows and columns: 1.4 ms in bfloat16 on an H200, a hundred times what launching it takes."""

CPU_SIZE = 512
"""For one thread. The product reaches there what larger ones do (within 3 %, in bfloat16 and in
float32), and takes 1 to 3 ms, so that some of many pass between two turns of a neighbour (ours)."""

TERA = 1e12


@dataclass(frozen=True, kw_only=True)
class _Datasheet:
    """What a vendor promises of one device, dense: structured sparsity doubles none of it."""

    names: str
    """Pattern of what torch.cuda.get_device_name says, the whole of it: a slice of a device (MIG)
    or its mobile version has another peak."""
    bf16: float | None
    """TFLOP/s in bfloat16 with float32 sums; None where the device has no unit for it."""
    fp32: float
    """TFLOP/s of float32 products, without TF32, which training does not use."""
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
class Utilisation:
    """What a device does for a model."""

    flops_per_second: float
    """Matrix products that the model needs, attention included, recomputation not."""
    mfu: float
    """As a share of what a matrix product reaches here and now."""
    mfu_datasheet: float | None
    """As a share of the datasheet's peak; None where the device is not known."""

    def columns(self) -> dict[str, float]:
        """Of a row of metrics.jsonl; what is not known is left out."""
        known = (
            {} if self.mfu_datasheet is None else {"mfu_datasheet": round(self.mfu_datasheet, 5)}
        )
        return {
            "flops_per_second": round(self.flops_per_second),
            "mfu": round(self.mfu, 5),
            **known,
        }


@dataclass(frozen=True, kw_only=True)
class PeakFlops:
    """FLOP/s that matrix products can reach on a device."""

    measured: float
    """By measure_peak_flops, in this process."""
    datasheet: float | None
    """By the vendor; None where the device is not known."""

    def utilisation(self, flops_per_second: float, *, devices: int = 1) -> Utilisation:
        """Relate what is done, for all the runs trained at once, to the peak of the devices."""
        measured = devices * self.measured
        datasheet = devices * self.datasheet if self.datasheet else None
        return Utilisation(
            flops_per_second=flops_per_second,
            mfu=flops_per_second / measured,
            mfu_datasheet=flops_per_second / datasheet if datasheet else None,
        )


def peak_flops(compute: ComputeDevice, dtype: torch.dtype) -> PeakFlops:
    """Measure the device's peak in the training's own dtype, and look its datasheet up."""
    return PeakFlops(
        measured=measure_peak_flops(compute, dtype),
        datasheet=datasheet_peak_flops(compute.name, dtype),
    )


def measure_peak_flops(compute: ComputeDevice, dtype: torch.dtype) -> float:
    """FLOP/s of a large matrix product of normal numbers: the best of 0.12 s of them.

    This is the denominator of `mfu`: what this device reaches here and now. The best is taken, as
    what else goes on only ever costs time. The random state of training is left alone.

    Args:
        compute: The device, with the threads that the training has.
        dtype: What the training's matrix products are computed in, bfloat16 or float32.
    """
    size = (
        CUDA_SIZE if compute.is_cuda else CPU_SIZE * (1 + math.isqrt(torch.get_num_threads() - 1))
    )
    a, b = _factors(compute.device, dtype, size)
    product = torch.mm(a, b)  # warms up
    compute.synchronize()
    best, began, n_products = math.inf, time.perf_counter(), 0
    now = began
    while now - began < MEASURING_SECONDS or n_products < FEWEST_PRODUCTS:
        start = now
        torch.mm(a, b, out=product)
        compute.synchronize()
        now = time.perf_counter()
        best, n_products = min(best, now - start), n_products + 1
    return 2 * size**3 / best


def _factors(
    device: torch.device, dtype: torch.dtype, size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Two matrices of shape (size, size); GPUs multiply zeros faster than what has many bits."""
    generator = torch.Generator(device).manual_seed(0)
    a, b = (torch.randn(size, size, device=device, generator=generator) for _ in range(2))
    return a.to(dtype), b.to(dtype)


def datasheet_peak_flops(device_name: str, dtype: torch.dtype) -> float | None:
    """The vendor's dense peak, in FLOP/s.

    Args:
        device_name: As torch.cuda.get_device_name tells it.
        dtype: bfloat16 or float32.

    Returns:
        None for CPUs, for devices that are not in the table, and for bfloat16 on those without it.
    """
    for sheet in _DATASHEETS:
        if re.fullmatch(sheet.names, device_name):
            tera = sheet.bf16 if dtype is torch.bfloat16 else sheet.fp32
            return None if tera is None else tera * TERA
    return None
