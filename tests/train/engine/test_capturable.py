"""A step can be recorded: on a pretended GPU it neither asks the host nor hears from it."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.train.small_engines import BATCH_SEQS, TokenWindows, policy, replica, shape_of
from train.config.experiment import Norm, Positions
from train.config.runtime import AttentionKernel, Dtype
from train.engine.device import ComputeDevice
from train.engine.engine import Engine
from train.plan.shape import ModelShape

GPU = ComputeDevice(torch.device("meta"), "pretended")

SHAPES = {
    "default": shape_of(),
    "gpt2": shape_of(norm=Norm.layer, positions=Positions.learned, qk_norm=False, tie_head=True),
    "large vocabulary": shape_of(vocab_size=20_000),
}

SORTING = ("index_put", "index_copy", "index_add", "scatter")
"""What CUDA does, in deterministic mode, by a sort that first asks the host for a range."""


class Ops(TorchDispatchMode):
    """Counts operations, and those whose tensors lie on two devices."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.across: list[str] = []

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = op._schema.name.removeprefix("aten::")
        # the one without a rule for sizes alone; it works in place, and returns nothing
        out = None if name == "_fused_adamw_" else op(*args, **(kwargs or {}))
        self.counts[name] += 1
        leaves = torch.utils._pytree.tree_leaves((args, kwargs, out))
        if len({leaf.device.type for leaf in leaves if isinstance(leaf, torch.Tensor)}) > 1:
            self.across.append(name)
        return out


@pytest.fixture
def _deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(mode=True)
    yield
    torch.use_deterministic_algorithms(mode=False)


def ops_of_a_step(shape: ModelShape, n_replicas: int, **choices: Any) -> Ops:
    """What a step does on a device of which only sizes are known; any question to it raises."""
    runs = [replica(seed=seed) for seed in range(n_replicas)]
    seeds = [run.seed for run in runs]
    with Ops() as ops:
        windows = TokenWindows(shape, seeds, compute=GPU, is_resident=True)
        engine = Engine(shape, runs, GPU, windows, policy(**choices))
        ops.counts.clear()
        ops.across.clear()
        engine._step()
    return ops


@pytest.mark.parametrize("attention", [AttentionKernel.plain, AttentionKernel.sdpa])
@pytest.mark.parametrize("dtype", [Dtype.fp32, Dtype.bf16])
@pytest.mark.parametrize("n_replicas", [1, 3])
@pytest.mark.parametrize("name", SHAPES)
def test_nothing_in_a_step_passes_between_host_and_device(
    name: str, n_replicas: int, dtype: Dtype, attention: AttentionKernel
) -> None:
    choices = {"dtype": dtype, "attention": attention, "micro_batch_seqs": BATCH_SEQS // 4}
    ops = ops_of_a_step(SHAPES[name], n_replicas, **choices)
    assert ops.counts["_fused_adamw_"] == 2 * n_replicas
    assert ops.across == []


@pytest.mark.usefixtures("_deterministic")
@pytest.mark.parametrize("n_replicas", [1, 3])
@pytest.mark.parametrize("name", SHAPES)
def test_a_deterministic_step_has_nothing_that_cuda_would_sort(name: str, n_replicas: int) -> None:
    ops = ops_of_a_step(SHAPES[name], n_replicas, dtype=Dtype.bf16)
    assert [op for op in ops.counts if op.startswith(SORTING)] == []


def test_a_question_to_the_device_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def asking(self: TokenWindows, starts_RB: torch.Tensor) -> torch.Tensor:
        assert starts_RB.max().item() >= 0
        return starts_RB

    monkeypatch.setattr(TokenWindows, "resident_windows", asking)
    with pytest.raises(RuntimeError, match="item"):
        ops_of_a_step(SHAPES["default"], 1)
