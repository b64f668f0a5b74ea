"""Peak FLOP/s by datasheet and by measurement, and utilisation as a fraction of both."""

import re

import pytest
import torch

from train.engine import peak_flops as peak
from train.engine.device import ComputeDevice
from train.engine.peak_flops import PeakFlops, datasheet_peak_flops, measure_peak_flops, peak_flops

CPU = ComputeDevice(torch.device("cpu"), "AMD EPYC 9R14, 1 thread")


DENSE = [
    ("NVIDIA A100-SXM4-80GB", 312e12, 19.5e12),
    ("A100-SXM4-40GB", 312e12, 19.5e12),
    ("NVIDIA A100 80GB PCIe", 312e12, 19.5e12),
    ("NVIDIA H100 80GB HBM3", 989.4e12, 66.9e12),
    ("NVIDIA H100 PCIe", 756.5e12, 51.2e12),
    ("NVIDIA H100 NVL", 835.5e12, 60e12),
    ("NVIDIA H200", 989.5e12, 66.9e12),
    ("NVIDIA H200 NVL", 835.5e12, 60e12),
    ("NVIDIA GH200 480GB", 989.4e12, 66.9e12),
    ("NVIDIA B200", 2250e12, 75e12),
    ("NVIDIA L4", 121e12, 30.3e12),
    ("NVIDIA L40", 181.05e12, 90.5e12),
    ("NVIDIA L40S", 362.05e12, 91.6e12),
    ("NVIDIA GeForce RTX 3090", 71e12, 35.6e12),
    ("NVIDIA GeForce RTX 4090", 165.2e12, 82.6e12),
    ("NVIDIA GeForce RTX 5090", 209.5e12, 104.8e12),
    ("Tesla V100-SXM2-16GB", None, 15.7e12),
    ("AMD Instinct MI300X", 1307.4e12, 163.4e12),
]


@pytest.mark.parametrize(("name", "bf16", "fp32"), DENSE)
def test_the_datasheet_gives_dense_peaks(name, bf16, fp32):
    assert datasheet_peak_flops(name, torch.bfloat16) == pytest.approx(bf16)
    assert datasheet_peak_flops(name, torch.float32) == pytest.approx(fp32)


@pytest.mark.parametrize(
    "name",
    [
        CPU.name,
        "NVIDIA A100-SXM4-40GB MIG 1g.5gb",
        "NVIDIA H100 80GB HBM3 MIG 3g.40gb",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA GeForce RTX 3090 Ti",
        "NVIDIA H900",
        "",
    ],
)
def test_what_is_not_in_the_table_has_no_datasheet(name):
    assert datasheet_peak_flops(name, torch.bfloat16) is None
    assert datasheet_peak_flops(name, torch.float32) is None


@pytest.mark.parametrize("name", [name for name, *_ in DENSE])
def test_a_name_is_one_device_and_its_row_names_a_source(name):
    (sheet,) = [sheet for sheet in peak._DATASHEETS if re.fullmatch(sheet.names, name)]
    assert sheet.source.startswith(("NVIDIA ", "AMD "))


@pytest.mark.parametrize(
    ("times", "threads", "size", "fastest"),
    [
        ([0.0, 0.05, 0.07, 0.13], 1, 8, 0.02),
        # a slow device: three matmuls all the same
        ([0.0, 5.0, 9.0, 15.0], 3, 16, 4.0),
    ],
)
def test_the_peak_is_that_of_the_fastest_matmul(times, threads, size, fastest, monkeypatch):
    readings = iter(times)
    monkeypatch.setattr("train.engine.peak_flops.time.perf_counter", lambda: next(readings))
    monkeypatch.setattr(peak, "CPU_SIZE", 8)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert measure_peak_flops(CPU, torch.float32) == pytest.approx(2 * size**3 / fastest)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_matmuls_are_in_the_dtype_of_training(monkeypatch, dtype):
    seen = set()
    multiply = torch.mm

    def spy(a, b, **words):
        seen.update((a.dtype, b.dtype))
        return multiply(a, b, **words)

    monkeypatch.setattr(torch, "mm", spy)
    monkeypatch.setattr(peak, "MEASURING_SECONDS", 0.0)
    monkeypatch.setattr(peak, "CPU_SIZE", 16)
    assert peak_flops(CPU, dtype).measured > 0
    assert seen == {dtype}


def test_a_real_measurement_is_plausible_and_leaves_the_random_state_alone():
    before = torch.get_rng_state()
    found = peak_flops(CPU, torch.float32)
    assert 1e8 < found.measured < 1e14
    assert found.datasheet is None
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("datasheet", "devices", "shares"),
    [
        (1e15, 1, {"mfu": 0.5, "mfu_datasheet": 0.4}),
        (1e15, 4, {"mfu": 0.125, "mfu_datasheet": 0.1}),
        (None, 1, {"mfu": 0.5}),
    ],
)
def test_utilisation_is_a_fraction_of_the_peaks_of_all_devices(datasheet, devices, shares):
    columns = PeakFlops(measured=8e14, datasheet=datasheet).utilisation(4e14, devices=devices)
    assert columns == {"flops_per_second": 4e14, **shares}
