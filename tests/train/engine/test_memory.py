"""Micro-batches: their gradients and their size; estimates of memory; models that fit no device."""

import math
from pathlib import Path

import pytest
import torch

from tests.train.small_engines import CPU, SEQ_LEN, make_engine, replica, shape_of, state_of
from train.config.experiment import Activation, ModelConfig, Norm, Positions
from train.config.runtime import AttentionKernel, Device, MachineConfig
from train.engine import memory
from train.engine.device import ComputeDevice, select_device
from train.engine.memory import (
    activation_bytes,
    choose_micro_batch,
    half_micro_batch,
    least_bytes,
    refuse_too_large,
    total_bytes,
)
from train.errors import ConfigError
from train.model.attention import KERNELS
from train.model.parameters import layout_of
from train.model.transformer import Transformer
from train.plan.planning import PlannedRun, plan_run
from train.study.dry_run import memory_bytes
from train.study.preflight import preflight

PAIR = (replica(seed=0), replica(seed=1, lr=0.02))


@pytest.mark.parametrize("micro_batch_seqs", [1, 2, 4])
def test_micro_batches_train_like_the_whole_batch_within_rounding(micro_batch_seqs):
    whole, split = make_engine(PAIR), make_engine(PAIR, micro_batch_seqs=micro_batch_seqs)
    for n_steps in (1, 4):
        expected, segment = whole.advance(n_steps), split.advance(n_steps)
        for ours, theirs in zip(segment.losses_SR, expected.losses_SR, strict=True):
            assert ours == pytest.approx(theirs, abs=2e-6)
        for ours, theirs in zip(segment.grad_norms_SR, expected.grad_norms_SR, strict=True):
            assert ours == pytest.approx(theirs, rel=2e-5)
        # after one step the first moments are a tenth of the gradients
        torch.testing.assert_close(
            split.optimizer.exp_avg_RP,
            whole.optimizer.exp_avg_RP,
            atol=1e-7 if whole.step == 1 else 1e-6,
            rtol=0.0,
        )
    for place in (0, 1):
        ours, theirs = state_of(split, place), state_of(whole, place)
        # AdamW's first updates are lr * sign(gradient): where that is rounding alone, they differ
        differs = [(ours[name] - value).abs() > 1e-5 for name, value in theirs.items()]
        n_weights = sum(each.numel() for each in differs)
        assert sum(int(each.sum()) for each in differs) / n_weights < 0.01


@pytest.mark.parametrize(
    ("micro_batch_seqs", "batch_seqs", "half"),
    [(64, 64, 32), (6, 12, 3), (5, 15, 1), (9, 27, 3), (3, 12, 1), (2, 2, 1), (1, 8, None)],
)
def test_the_half_is_the_largest_divisor_that_is_at_most_half(micro_batch_seqs, batch_seqs, half):
    assert half_micro_batch(micro_batch_seqs, batch_seqs=batch_seqs) == half


def choose(compute=CPU, *, asked=None, batch_seqs=48, n_replicas=1, is_plain=False):
    return choose_micro_batch(
        shape_of(),
        compute,
        n_replicas=n_replicas,
        batch_seqs=batch_seqs,
        asked=asked,
        is_plain=is_plain,
    )


def test_the_micro_batch_is_what_was_asked_or_the_whole_batch_of_a_small_model():
    assert choose(asked=4) == 4
    assert choose() == 48


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
@pytest.mark.parametrize("is_plain", [False, True])
@pytest.mark.parametrize("n_replicas", [1, 3])
def test_the_micro_batch_is_the_largest_divisor_of_which_every_replica_s_fits(
    n_replicas, is_plain, kind, monkeypatch
):
    compute = ComputeDevice(torch.device(kind), "pretended")
    one = n_replicas * activation_bytes(shape_of(), seqs=1, is_plain=is_plain)
    for n_windows, expected in ((1000.0, 48), (17.0, 16), (16.0, 16), (15.9, 12), (0.5, 1)):
        budget = math.ceil(n_windows * one / 0.4)
        monkeypatch.setattr(ComputeDevice, "memory_budget", lambda self, budget=budget: budget)
        assert choose(compute, n_replicas=n_replicas, is_plain=is_plain) == expected


def test_activation_bytes_by_hand():
    # 2 layers of 16 * 32 + 3 * 128 and 3 * 61 logits, for 16 tokens of 5 windows, 4 bytes each
    assert activation_bytes(shape_of(), seqs=5) == 4 * 5 * 16 * (2 * (512 + 384) + 183)
    # 2 rows of 16 scores for each of 2 heads more
    plain = activation_bytes(shape_of(), seqs=5, is_plain=True)
    assert plain == 4 * 5 * 16 * (2 * (512 + 384 + 64) + 183)
    gated = shape_of(activation=Activation.swiglu)
    assert activation_bytes(gated, seqs=1) == 4 * 16 * (2 * (512 + 5 * 88) + 183)


def kept_bytes(shape, *, n_replicas, seqs, kernel, dtype):
    """Bytes that autograd keeps after a forward pass, weights aside."""
    model = Transformer(shape, device=CPU.device, dtype=dtype, attention=KERNELS[kernel])
    layout = layout_of(shape)
    generator = torch.Generator().manual_seed(0)
    rows_RP = torch.randn(n_replicas, layout.width, generator=generator)
    weights = {name: view.requires_grad_() for name, view in layout.views(rows_RP).items()}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() != rows_RP.data_ptr():
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    tokens = torch.randint(shape.vocab_size, (n_replicas, seqs, shape.seq_len), generator=generator)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        losses_R = model.losses(weights, tokens, tokens)
    assert losses_R.requires_grad
    return sum(kept.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("n_replicas", [1, 2])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(
    "model",
    [
        {"d_model": 128, "n_layers": 6},
        {"d_model": 128, "n_layers": 6, "activation": Activation.swiglu},
        {"d_model": 128, "n_layers": 6, "qk_norm": False, "norm": Norm.layer},
        {"d_model": 32, "head_dim": 4, "positions": Positions.learned},
        {"d_model": 16, "n_heads": 1, "vocab_size": 4_000},
    ],
)
def test_the_estimate_covers_what_a_real_forward_pass_keeps(model, kernel, n_replicas, dtype):
    shape = shape_of(**{"seq_len": 4 * SEQ_LEN, **model})
    seqs = 8
    estimate = n_replicas * activation_bytes(
        shape, seqs=seqs, is_plain=kernel is AttentionKernel.plain
    )
    kept = kept_bytes(shape, n_replicas=n_replicas, seqs=seqs, kernel=kernel, dtype=dtype)
    # the products' copies of the weights are not activations
    copies = layout_of(shape).width * n_replicas * dtype.itemsize
    # half of it in bfloat16; of three rows of logits two come and go in the backward pass
    assert 0.25 * estimate < kept - copies <= estimate


def planned(config):
    return PlannedRun(overrides=[], config=config, plan=plan_run(config))


def test_the_largest_run_is_named_with_what_there_is(make_config, monkeypatch):
    small, large = planned(make_config()), planned(make_config(model=ModelConfig(d_model=64)))
    need = least_bytes(large.plan)
    monkeypatch.setattr(memory, "total_bytes", lambda compute: need)
    refuse_too_large([small, large])
    monkeypatch.setattr(memory, "total_bytes", lambda compute: need - 1)
    refuse_too_large([small])
    with pytest.raises(ConfigError, match=r"model\.d_model=64 with 2 layers: .* need at least"):
        refuse_too_large([small, large])


def test_a_model_far_beyond_the_machine_is_refused_before_data_is_made(make_config):
    config = make_config(model=ModelConfig(d_model=1_048_576))
    with pytest.raises(ConfigError, match=r"parameters.* need at least .* GB, and .* has .* GB"):
        preflight([planned(config)])
    assert not Path(config.paths.data).exists()


def test_what_a_run_needs_at_least_is_below_the_estimate_of_dry_run(make_config):
    run = planned(make_config())
    assert 16 * run.plan.params.total < least_bytes(run.plan) < memory_bytes(run)


def test_the_whole_memory_is_the_machine_s():
    compute = select_device(MachineConfig(device=Device.cpu))
    assert 10**9 < total_bytes(compute) < 10**14


@pytest.mark.gpu
def test_a_gpu_has_its_own_memory():
    compute = select_device(MachineConfig(device=Device.cuda))
    assert total_bytes(compute) == torch.cuda.mem_get_info()[1]
