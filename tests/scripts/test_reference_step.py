"""scripts/bench/reference_step.py: it reads the data it should, computes our loss, and learns."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from bench import same_function
from bench.reference_step import Cosine, RandomWindows, ReferenceModel, ReferenceStep
from train.config.experiment import ModelConfig, Norm, Positions
from train.model.parameters import initial_values
from train.plan.shape import model_shape


def shape_of(d_model=16, n_layers=2, vocab_size=32, seq_len=8):
    model = ModelConfig(
        d_model=d_model,
        n_layers=n_layers,
        n_heads=2,
        norm=Norm.layer,
        positions=Positions.learned,
        qk_norm=False,
        tie_head=True,
    )
    return model_shape(model, vocab_size=vocab_size, seq_len=seq_len)


@pytest.fixture
def tokens(tmp_path):
    ids = np.random.default_rng(0).integers(0, 32, 500, dtype=np.uint16)
    ids.tofile(tmp_path / "tokens.bin")
    return tmp_path / "tokens.bin"


def test_a_batch_is_windows_of_the_file_and_the_tokens_that_follow(tmp_path):
    np.arange(20, dtype=np.uint16).tofile(tmp_path / "tokens.bin")
    inputs, targets = RandomWindows(tmp_path / "tokens.bin", batch_seqs=64, seq_len=4)()
    assert inputs.dtype == targets.dtype == torch.int64
    assert inputs.shape == (64, 4)
    assert torch.equal(inputs, inputs[:, :1] + torch.arange(4))
    assert torch.equal(targets, inputs + 1)
    # all 16 offsets are drawn in 64
    assert (int(inputs[:, 0].min()), int(inputs[:, 0].max())) == (0, 15)


def test_parameters_are_gpt2_s_without_biases_and_only_matrices_decay(tokens):
    shape = shape_of()
    count = sum(weight.numel() for weight in ReferenceModel(shape).parameters())
    assert count == (32 + 8) * 16 + 2 * (12 * 16**2 + 2 * 16) + 16
    matrices, gains = ReferenceStep(shape, tokens, batch_tokens=32).optimizer.param_groups
    assert (matrices["weight_decay"], gains["weight_decay"]) == (0.1, 0.0)
    assert {weight.ndim for weight in matrices["params"]} == {2}
    assert {weight.ndim for weight in gains["params"]} == {1}
    assert matrices["betas"] == (0.9, 0.95)


def test_it_starts_at_a_uniform_guess_and_learns_a_repeated_batch(tokens):
    torch.manual_seed(0)
    step = ReferenceStep(shape_of(), tokens, batch_tokens=64, schedule=Cosine(peak_lr=1e-2))
    batch = step.batches()
    step.batches = lambda: batch
    losses = step(100)
    assert losses[0] == pytest.approx(math.log(32), abs=0.05)
    assert losses[-1] < 0.2
    assert len(losses) == step.step == 100


def test_attention_is_causal():
    model = ReferenceModel(shape_of())
    logits = []
    model.head.register_forward_hook(lambda module, args, output: logits.append(output.detach()))
    inputs = torch.randint(32, (1, 8))
    changed = inputs.clone()
    changed[0, 5] = (changed[0, 5] + 1) % 32
    model(inputs, inputs)
    model(changed, inputs)
    is_same = (logits[0] == logits[1]).all(dim=-1)[0]
    assert is_same.tolist() == [True] * 5 + [False] * 3


def test_the_cosine_rises_peaks_and_ends_at_a_tenth():
    lr = Cosine(peak_lr=1.0, warmup_steps=4, total_steps=104)
    assert [lr(step) for step in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert lr(54) == pytest.approx(0.55)
    assert lr(104) == lr(1000) == pytest.approx(0.1)


SHAPE = shape_of(d_model=32, n_layers=3, vocab_size=64, seq_len=24)


def test_our_model_and_the_reference_have_the_same_loss():
    for seed in range(3):
        ours, theirs = same_function.losses(SHAPE, seed=seed)
        assert ours == pytest.approx(theirs, abs=same_function.TOLERANCE)
    rms, theirs = same_function.losses(replace(SHAPE, norm=Norm.rms), seed=0)
    assert abs(rms - theirs) > 100 * same_function.TOLERANCE
    with pytest.raises(RuntimeError, match=r"blocks\.0\.q_norm\.weight"):
        same_function.losses(replace(SHAPE, qk_norm=True), seed=0)


def test_every_weight_is_copied():
    reference, weights = ReferenceModel(SHAPE), initial_values(SHAPE, seed=5)
    for number, weight in enumerate(weights.values()):
        weight.fill_(float(number))
    same_function.load(reference, weights)
    values = {float(weight.detach().mean()) for weight in reference.parameters()}
    assert values == set(map(float, range(len(weights))))
