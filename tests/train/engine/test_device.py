"""Choosing a device: what was asked, or a message that says what is there."""

import pytest
import torch

from train.config.runtime import Device, MachineConfig
from train.engine.device import ComputeDevice, select_device
from train.errors import ConfigError, is_device_lost, is_out_of_memory


@pytest.fixture
def without_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.usefixtures("without_cuda")
def test_cuda_that_is_asked_for_and_absent_is_refused():
    with pytest.raises(ConfigError, match=r"machine\.device=cuda: torch finds no CUDA") as refused:
        select_device(MachineConfig(device=Device.cuda))
    assert torch.__version__ in str(refused.value)
    assert "use machine.device=cpu or auto" in str(refused.value)


@pytest.mark.usefixtures("without_cuda")
def test_auto_is_the_cpu_without_cuda_with_the_threads_of_the_config():
    for threads, name in ((1, ", 1 thread"), (2, ", 2 threads")):
        compute = select_device(MachineConfig(device=Device.auto, threads=threads))
        assert compute.device == torch.device("cpu")
        assert not compute.is_cuda
        assert compute.name.endswith(name)
        assert torch.get_num_threads() == threads


def test_the_cpu_that_is_asked_for_is_taken_even_beside_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert select_device(MachineConfig(device=Device.cpu)).device == torch.device("cpu")


def test_each_process_of_a_machine_takes_the_gpu_of_its_number(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"gpu {index}")
    precision = torch.get_float32_matmul_precision()
    try:
        second = select_device(MachineConfig(), index=1)
        assert (second.device, second.name) == (torch.device("cuda", 1), "gpu 1")
        assert select_device(MachineConfig()).device == torch.device("cuda", 0)
        message = (
            "process 2 of this machine has no GPU of its own: torch finds 2; use torchrun "
            "--nproc-per-node 2"
        )
        with pytest.raises(ConfigError, match=f"^{message}$"):
            select_device(MachineConfig(), index=2)
    finally:
        torch.set_float32_matmul_precision(precision)


def test_a_job_plans_with_its_share_of_a_shared_gpu(monkeypatch):
    free, total = 130 << 30, 139 << 30
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, total))
    cuda = torch.device("cuda", 0)
    assert ComputeDevice(cuda, "gpu").memory_budget() == free
    assert ComputeDevice(cuda, "gpu", sharers=4).memory_budget() == total // 4


CPU_WORDS = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"
)


@pytest.mark.parametrize(
    ("error", "memory", "lost"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True, False),
        (MemoryError(), True, False),
        (RuntimeError(CPU_WORDS), True, False),
        (torch.AcceleratorError("CUDA error: out of memory"), True, False),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), True, False),
        (RuntimeError("CUDA error: unspecified launch failure"), False, True),
        (torch.AcceleratorError("CUDA error: GPU is lost"), False, True),
        (torch.AcceleratorError("CUDA error: device-side assert triggered"), False, False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False, False),
        (ValueError("can't allocate memory"), False, False),
    ],
)
def test_what_an_error_of_torch_means(error, memory, lost):
    assert is_out_of_memory(error) is memory
    assert is_device_lost(error) is lost


def test_the_words_of_the_cpu_s_allocator_are_those_that_torch_uses():
    with pytest.raises(RuntimeError) as refused:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(refused.value)
