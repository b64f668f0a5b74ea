"""What only a GPU can show of the engine: recorded steps, resident and sent windows."""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.train.small_engines import (
    TokenWindows,
    assert_same_bits,
    make_engine,
    policy,
    replica,
    shape_of,
    state_of,
)
from train.config.experiment import DataConfig, Source, SyntheticConfig
from train.config.runtime import AttentionKernel, Dtype
from train.data.prepare import prepare
from train.data.shards import Dataset, open_dataset
from train.engine import batches as batches_module
from train.engine.batches import Batches
from train.engine.device import ComputeDevice
from train.engine.engine import TABLE_STEPS, Engine, Replica

pytestmark = pytest.mark.gpu

GPU = ComputeDevice(torch.device("cuda", 0), "gpu")
THREE = (replica(seed=0), replica(seed=1, lr=0.003, beta2=0.99), replica(seed=2, grad_clip=0.1))
STEPS = TABLE_STEPS + 11
"""More than the tables hold, and graphs of both lengths."""


@pytest.fixture(autouse=True)
def _in_every_bit(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Deterministic kernels and float32 products as such; a step not recorded is an error."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    torch.use_deterministic_algorithms(mode=True)
    torch.compiler.reset()  # a process keeps code for a few shapes only
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="the step cannot be recorded")
        yield
    torch.use_deterministic_algorithms(mode=False)
    torch.set_float32_matmul_precision(precision)


def on_gpu(*, replicas: Sequence[Replica] = THREE, **changes: Any) -> Engine:
    changes.setdefault("is_resident", True)
    return make_engine(replicas, compute=GPU, **changes)


@pytest.mark.parametrize("is_compiled", [False, True])
@pytest.mark.parametrize("attention", [AttentionKernel.plain, AttentionKernel.sdpa])
@pytest.mark.parametrize("dtype", [Dtype.fp32, Dtype.bf16])
def test_a_recorded_step_is_the_eager_step_in_every_bit(
    dtype: Dtype, attention: AttentionKernel, is_compiled: bool
) -> None:
    changes = {"dtype": dtype, "attention": attention, "compiled": is_compiled}
    ours, eager = on_gpu(**changes), on_gpu(**changes, may_graph=False)
    assert ours.advance(STEPS) == eager.advance(STEPS)
    for place in range(len(THREE)):
        assert_same_bits(state_of(ours, place), state_of(eager, place))


def test_a_large_vocabulary_s_chunked_head_is_recorded_too() -> None:
    shape = shape_of(vocab_size=20_000)
    ours, eager = on_gpu(shape=shape), on_gpu(shape=shape, may_graph=False)
    assert ours.advance(11) == eager.advance(11)


def test_micro_batches_are_recorded_too() -> None:
    whole, parts = on_gpu(), on_gpu(micro_batch_seqs=2)
    for one, other in zip(whole.advance(20).losses_SR, parts.advance(20).losses_SR, strict=True):
        assert one == pytest.approx(other, abs=1e-5)


def test_a_stacked_run_is_the_run_alone() -> None:
    stacked = on_gpu().advance(50).losses_SR
    for place, run in enumerate(THREE):
        alone = on_gpu(replicas=(run,)).advance(50).losses_SR
        for row, (loss,) in zip(stacked, alone, strict=True):
            assert row[place] == pytest.approx(loss, abs=1e-5)


def test_a_diverged_run_is_frozen_in_the_graph_and_its_neighbours_go_on() -> None:
    broken = (THREE[0], replace(THREE[1], lr=1e30), THREE[2])
    engine, sound = on_gpu(replicas=broken), on_gpu()
    engine.advance(16)
    frozen = state_of(engine, 1)
    engine.advance(16)
    sound.advance(32)
    assert_same_bits(state_of(engine, 1), frozen)
    for place in (0, 2):
        assert_same_bits(state_of(engine, place), state_of(sound, place))


def test_time_cut_anywhere_gives_the_same_bits() -> None:
    whole, cut = on_gpu(), on_gpu()
    whole.advance(30)
    for steps in (1, 9, 3, 8, 2, 7):
        cut.advance(steps)
    for place in range(len(THREE)):
        assert_same_bits(state_of(whole, place), state_of(cut, place))


def test_a_state_that_is_loaded_after_recording_is_what_is_replayed() -> None:
    first, second = on_gpu(), on_gpu()
    first.advance(20)
    second.advance(9)  # recorded, with other weights
    for place in range(len(THREE)):
        second.load_replica(place, *first.replica_state(place))
    second.step = first.step
    assert first.advance(12) == second.advance(12)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    data = DataConfig(
        name="gpu",
        source=Source.synthetic,
        validation_tokens=4_000,
        synthetic=SyntheticConfig(tokens=60_000),
    )
    return open_dataset(prepare(data, tmp_path))


def test_windows_that_are_sent_are_those_that_lie_there(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = shape_of(vocab_size=256)
    segments = []
    for share in (0.4, 0.0):
        monkeypatch.setattr(batches_module, "RESIDENT_SHARE", share)
        batches = Batches(dataset, GPU, seeds=[0, 1, 2], batch_seqs=8, seq_len=shape.seq_len)
        assert batches.is_resident is (share > 0)
        engine = Engine(shape, THREE, GPU, batches, policy())
        segments.append(engine.advance(STEPS))
    assert segments[0] == segments[1]


def test_a_step_that_asks_the_host_is_taken_eagerly_and_said_so_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def asking(self: TokenWindows, starts_RB: torch.Tensor) -> torch.Tensor:
        assert starts_RB.max().item() >= 0
        return self.tokens[starts_RB[..., None] + self.offsets_T]

    eager = on_gpu(may_graph=False).advance(20)
    monkeypatch.setattr(TokenWindows, "resident_windows", asking)
    ours = on_gpu()
    with pytest.warns(UserWarning, match="cannot be recorded as a CUDA graph") as caught:
        assert ours.advance(20) == eager
    assert len(caught) == 1


def test_a_dead_engine_leaves_no_memory() -> None:
    on_gpu().advance(9)
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    for _ in range(3):
        on_gpu().advance(9)
    assert torch.cuda.memory_allocated() <= before + 2**20
