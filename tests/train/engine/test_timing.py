"""Timed steps: on which tokens, with which policy, and what is taken for a step's time."""

import itertools
from typing import Any

import pytest
import torch

from tests.train.small_engines import CPU, SEQ_LEN, VOCAB, schedule, shape_of
from train.config.runtime import AttentionKernel, Compile, Dtype, MachineConfig
from train.engine import step_timing as timing
from train.engine.compute_policy import ComputePolicy
from train.engine.device import ComputeDevice
from train.engine.engine import Engine
from train.engine.step_timing import TIMED_STEPS, RandomWindows, seconds_per_step

MACHINE = MachineConfig(attention=AttentionKernel.sdpa, dtype=Dtype.fp32)


def seconds(machine: MachineConfig = MACHINE, n_replicas: int = 2) -> float:
    return seconds_per_step(
        shape_of(), machine, CPU, schedule=schedule(), batch_seqs=4, n_replicas=n_replicas
    )


def test_random_windows_are_tokens_of_the_vocabulary_alike_however_they_are_gathered() -> None:
    windows = RandomWindows(shape_of(), CPU, n_replicas=3, batch_seqs=4)
    starts_SRB = windows.starts(0, 5)
    assert starts_SRB.shape == (5, 3, 4)
    out_RBT = windows.empty()
    windows.gather(starts_SRB[2], out_RBT)
    assert out_RBT.shape == (3, 4, SEQ_LEN + 1)
    assert torch.equal(out_RBT, windows.resident_windows(torch.from_numpy(starts_SRB[2])))
    assert 0 <= int(out_RBT.min()) <= int(out_RBT.max()) < VOCAB
    assert len(out_RBT.unique()) > VOCAB // 2
    assert windows.starts(0, 5).tolist() == starts_SRB.tolist()


def test_a_real_timing_is_of_a_step_and_leaves_the_random_state_alone() -> None:
    before = torch.get_rng_state()
    assert 0 < seconds() < 10
    assert torch.equal(torch.get_rng_state(), before)


def test_the_fastest_step_after_the_first_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    took = [0.01, 5.0, 3.0, 4.0]  # the first warms up, however fast
    assert len(took) == TIMED_STEPS + 1
    readings = list(itertools.accumulate(x for step in took for x in (100.0, step)))
    steps: list[int] = []
    for clock in ("process_time", "perf_counter"):
        reading = iter(readings)
        monkeypatch.setattr(timing.time, clock, lambda reading=reading: next(reading))
        monkeypatch.setattr(Engine, "advance", lambda self, n_steps: steps.append(n_steps))
        machine = MachineConfig(
            attention=AttentionKernel.sdpa, threads=1 if clock == "process_time" else 2
        )
        assert seconds(machine) == pytest.approx(3.0)
        monkeypatch.undo()
    assert steps == [1] * 8


def test_it_is_the_policy_of_the_machine_but_never_compiled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    built: list[tuple[ComputePolicy, int]] = []

    class Watched(Engine):
        def __init__(self, shape: Any, replicas: Any, *words: Any, **more: Any) -> None:
            super().__init__(shape, replicas, *words, **more)
            built.append((self.policy, len(replicas)))

    monkeypatch.setattr(timing, "Engine", Watched)
    machine = MachineConfig(
        compile=Compile.always,
        attention=AttentionKernel.plain,
        dtype=Dtype.fp32,
        micro_batch_seqs=2,
    )
    seconds(machine, n_replicas=3)
    ((policy, n_replicas),) = built
    assert not policy.compiled
    assert (policy.attention, policy.dtype) == (AttentionKernel.plain, Dtype.fp32)
    assert (policy.micro_batch_seqs, n_replicas) == (2, 3)


@pytest.mark.gpu
def test_on_a_gpu_a_step_is_timed_as_a_graph() -> None:
    compute = ComputeDevice(torch.device("cuda", 0), "GPU")
    taken = seconds_per_step(
        shape_of(), MACHINE, compute, schedule=schedule(), batch_seqs=4, n_replicas=2
    )
    assert 0 < taken < 1
