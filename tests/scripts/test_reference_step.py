"""scripts/reference_step.py: it reads what it should, counts as our model does, and learns."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from train.config.experiment import ModelConfig
from train.plan.shape import ModelShape, model_shape

REPO = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO / "scripts"))

from reference_step import (  # type: ignore[import-not-found]  # noqa: E402
    Cosine,
    RandomWindows,
    ReferenceModel,
    ReferenceStep,
)


@pytest.fixture
def shape() -> ModelShape:
    model = ModelConfig(d_model=16, n_layers=2, n_heads=2, qk_norm=False, tie_head=True)
    return model_shape(model, vocab_size=32, seq_len=8)


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    ids = np.random.default_rng(0).integers(0, 32, 500, dtype=np.uint16)
    ids.tofile(tmp_path / "tokens.bin")
    return tmp_path / "tokens.bin"


def test_a_batch_is_windows_of_the_file_and_what_follows_each_token(tmp_path: Path) -> None:
    np.arange(20, dtype=np.uint16).tofile(tmp_path / "tokens.bin")
    batches = RandomWindows(tmp_path / "tokens.bin", batch_seqs=64, seq_len=4)
    inputs, targets = batches()
    assert inputs.dtype == targets.dtype == torch.int64
    assert inputs.shape == targets.shape == (64, 4)
    assert torch.equal(inputs, inputs[:, :1] + torch.arange(4))
    assert torch.equal(targets, inputs + 1)
    assert (int(inputs[:, 0].min()), int(inputs[:, 0].max())) == (0, 15)  # 64 draws of 16


def test_parameters_are_those_of_gpt2_without_biases(shape: ModelShape) -> None:
    count = sum(weight.numel() for weight in ReferenceModel(shape).parameters())
    assert count == (32 + 8) * 16 + 2 * (12 * 16**2 + 2 * 16) + 16


def test_matrices_decay_and_gains_do_not(shape: ModelShape, tokens: Path) -> None:
    matrices, gains = ReferenceStep(shape, tokens, batch_tokens=32).optimizer.param_groups
    assert (matrices["weight_decay"], gains["weight_decay"]) == (0.1, 0.0)
    assert {weight.ndim for weight in matrices["params"]} == {2}
    assert {weight.ndim for weight in gains["params"]} == {1}
    assert matrices["betas"] == (0.9, 0.95)


def test_the_first_loss_is_near_that_of_a_uniform_guess(shape: ModelShape, tokens: Path) -> None:
    torch.manual_seed(0)
    loss = ReferenceStep(shape, tokens, batch_tokens=64).take()
    assert loss == pytest.approx(math.log(32), abs=0.05)


def test_it_learns_a_repeated_batch(shape: ModelShape, tokens: Path) -> None:
    torch.manual_seed(0)
    step = ReferenceStep(shape, tokens, batch_tokens=32, schedule=Cosine(peak_lr=1e-2))
    batch = step.batches()
    step.batches = lambda: batch
    losses = step(100)
    assert losses[-1] < 0.1 < 3 < losses[0]
    assert len(losses) == step.step == 100


def test_no_position_sees_what_follows_it(shape: ModelShape) -> None:
    model = ReferenceModel(shape)
    logits: list[torch.Tensor] = []
    model.head.register_forward_hook(lambda module, args, output: logits.append(output.detach()))
    inputs = torch.randint(32, (1, 8))
    changed = inputs.clone()
    changed[0, 5] = (changed[0, 5] + 1) % 32
    model(inputs, inputs)
    model(changed, inputs)
    is_same = (logits[0] == logits[1]).all(dim=-1)[0]
    assert is_same.tolist() == [True] * 5 + [False] * 3


def test_the_cosine_rises_peaks_and_ends_at_a_tenth() -> None:
    lr = Cosine(peak_lr=1.0, warmup_steps=4, total_steps=104)
    assert [lr(step) for step in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert lr(54) == pytest.approx(0.55)
    assert lr(104) == lr(1000) == pytest.approx(0.1)
