"""Where jobs run: how many at once, and which GPU each of them sees."""

import os

import torch

from train.config.runtime import Device, MachineConfig
from train.study import slots
from train.study.slots import KEPT_MEMORY, has_mps, job_slots, parallel_slots, visible_gpus


def machine_with(monkeypatch, *, cores, gpus):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(slots, "has_mps", lambda: False)


def test_one_job_per_core_over_its_threads(monkeypatch):
    machine_with(monkeypatch, cores=6, gpus=0)
    counts = [len(job_slots(MachineConfig(threads=threads))) for threads in (1, 2, 4, 8)]
    assert counts == [6, 3, 1, 1]
    assert job_slots(MachineConfig(threads=2))[0] == {
        "OMP_NUM_THREADS": "2",
        "MKL_NUM_THREADS": "2",
        "GLIBC_TUNABLES": KEPT_MEMORY,
    }


def test_an_allocator_that_was_tuned_by_its_user_is_left_alone(monkeypatch):
    machine_with(monkeypatch, cores=2, gpus=0)
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.check=1")
    assert job_slots(MachineConfig())[0]["GLIBC_TUNABLES"] == "glibc.malloc.check=1"


def test_jobs_are_dealt_round_the_gpus(monkeypatch):
    machine_with(monkeypatch, cores=16, gpus=2)
    dealt = job_slots(MachineConfig())
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in dealt] == ["0", "1"] * 2
    assert {slot["WINDTUNNEL_DEVICE_SHARERS"] for slot in dealt} == {"2"}


def test_a_gpu_takes_more_jobs_where_mps_runs_them_at_once(monkeypatch):
    machine_with(monkeypatch, cores=16, gpus=1)
    monkeypatch.setattr(slots, "has_mps", lambda: True)
    assert [slot["WINDTUNNEL_DEVICE_SHARERS"] for slot in job_slots(MachineConfig())] == ["4"] * 4


def test_mps_is_told_by_its_control_pipe(monkeypatch, tmp_path):
    monkeypatch.delenv("CUDA_MPS_PIPE_DIRECTORY", raising=False)
    monkeypatch.setattr(slots, "MPS_FOLDER", str(tmp_path / "default"))
    assert not has_mps()
    (tmp_path / "default").mkdir()
    assert not has_mps()
    (tmp_path / "default" / "control").touch()
    assert has_mps()
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(tmp_path / "own"))
    assert not has_mps()
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "control").touch()
    assert has_mps()


def test_what_computes_at_once_are_cores_and_gpus(monkeypatch):
    machine_with(monkeypatch, cores=6, gpus=0)
    assert [parallel_slots(MachineConfig(workers=n)) for n in (None, 1, 6, 50)] == [6, 1, 6, 6]
    assert parallel_slots(MachineConfig(threads=4)) == 1
    machine_with(monkeypatch, cores=16, gpus=2)
    assert [parallel_slots(MachineConfig(workers=n)) for n in (None, 1, 8)] == [2, 1, 2]


def test_cores_and_the_config_limit_the_jobs_of_a_gpu(monkeypatch):
    machine_with(monkeypatch, cores=3, gpus=2)
    assert len(job_slots(MachineConfig())) == 3
    alone = job_slots(MachineConfig(workers=1))
    assert [slot["WINDTUNNEL_DEVICE_SHARERS"] for slot in alone] == ["1"]
    assert len(job_slots(MachineConfig(device=Device.cpu))) == 3
    assert "CUDA_VISIBLE_DEVICES" not in job_slots(MachineConfig(device=Device.cpu))[0]


def test_gpus_that_were_hidden_stay_hidden(monkeypatch):
    machine_with(monkeypatch, cores=16, gpus=2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-5a1")
    assert visible_gpus() == ["3", "GPU-5a1"]
