"""Parameters and FLOPs: by hand, against the real module, and against torch's own counter."""

import dataclasses

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from train.config.compose import CONFIG_ROOT
from train.config.experiment import Activation, FlopConvention, ModelConfig, Norm, Positions
from train.model.attention import plain_attention
from train.model.parameters import layout_of
from train.model.transformer import Transformer
from train.plan.counting import ParamCounts, count_params, count_token_flops, flops_per_token
from train.plan.shape import ModelShape, model_shape

RUNGS = sorted(path.stem for path in (CONFIG_ROOT / "model").glob("*.yaml"))

GELU = ModelShape(
    n_layers=2,
    d_model=8,
    n_heads=2,
    head_dim=4,
    d_ff=32,
    vocab_size=10,
    seq_len=16,
    gated=False,
    norm=Norm.rms,
    qk_norm=True,
    tie_head=False,
    positions=Positions.rotary,
)
SWIGLU_TIED = ModelShape(
    n_layers=3,
    d_model=12,
    n_heads=1,
    head_dim=12,
    d_ff=32,
    vocab_size=7,
    seq_len=5,
    gated=True,
    norm=Norm.rms,
    qk_norm=False,
    tie_head=True,
    positions=Positions.rotary,
)


def rung_shape(rung, **overrides):
    model = ModelConfig(d_model=int(rung[1:]), **overrides)
    return model_shape(model, vocab_size=256, seq_len=256)


def test_gelu_with_qk_norm_and_an_untied_head_by_hand():
    counts = count_params(GELU)
    assert counts == ParamCounts(
        embedding=80,  # 10 * 8
        attention=512,  # 2 layers of 8 * 24 + 8 * 8
        feed_forward=1024,  # 2 layers of 2 * 8 * 32
        norms=56,  # 2 layers of 8 + 8 + 4 + 4, and 8 at the end
        head=80,
        head_matmul=80,
    )
    assert (counts.kaplan, counts.standard, counts.total) == (1536, 1616, 1752)


def test_swiglu_without_qk_norm_and_with_a_tied_head_by_hand():
    counts = count_params(SWIGLU_TIED)
    assert counts == ParamCounts(
        embedding=84,  # 7 * 12
        attention=1728,  # 3 layers of 12 * 36 + 12 * 12
        feed_forward=3456,  # 3 layers of 3 * 12 * 32
        norms=84,  # 3 layers of 12 + 12, and 12 at the end
        head=0,
        head_matmul=84,
    )
    # the tied matrix multiplies, so standard counts it; it is trained once, so total does too
    assert (counts.kaplan, counts.standard, counts.total) == (5184, 5268, 5352)


def test_layer_norm_without_a_bias_has_rms_norm_s_parameters():
    assert count_params(dataclasses.replace(GELU, norm=Norm.layer)) == count_params(GELU)


def test_learned_positions_are_trained_and_multiply_nothing():
    learned = dataclasses.replace(GELU, positions=Positions.learned)
    counts, rotary = count_params(learned), count_params(GELU)
    assert counts == dataclasses.replace(rotary, embedding=80 + 128)  # 16 positions * 8
    assert (counts.kaplan, counts.standard, counts.total) == (1536, 1616, 1752 + 128)
    assert count_token_flops(learned) == count_token_flops(GELU)


def test_gpt2_small_s_block_by_hand():
    """GPT-2 small has 124,439,808 parameters (Radford et al. 2019), its biases among them."""
    gpt2 = ModelShape(
        n_layers=12,
        d_model=768,
        n_heads=12,
        head_dim=64,
        d_ff=3072,
        vocab_size=50_257,
        seq_len=1024,
        gated=False,
        norm=Norm.layer,
        qk_norm=False,
        tie_head=True,
        positions=Positions.learned,
    )
    biases = 12 * (3 * 768 + 768 + 3072 + 768 + 2 * 768) + 768
    assert count_params(gpt2).total == 124_439_808 - biases


def test_flops_by_hand():
    flops = count_token_flops(GELU)
    assert flops.blocks == 2 * 1536
    assert flops.head == 2 * 80
    assert flops.attention == 2 * (4 * 8 * 16)  # 2 layers, 4 d_model T
    assert flops.forward == 3072 + 160 + 1024 == 4256
    assert (flops.backward, flops.train) == (8512, 12768)


def test_every_flop_convention_by_hand():
    per_token = {name: flops_per_token(GELU, name) for name in FlopConvention}
    assert per_token == {
        FlopConvention.kaplan: 6 * 1536,
        FlopConvention.standard: 6 * 1616,
        FlopConvention.total: 6 * 1752,
        FlopConvention.attention: 12768,
    }


@pytest.mark.parametrize("rung", RUNGS)
@pytest.mark.parametrize("activation", Activation)
@pytest.mark.parametrize("tie_head", [False, True])
@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize("norm", Norm)
@pytest.mark.parametrize("positions", Positions)
def test_counts_are_the_real_model_s_parameters_group_by_group(
    rung, activation, tie_head, qk_norm, norm, positions
):
    shape = rung_shape(
        rung,
        activation=activation,
        tie_head=tie_head,
        qk_norm=qk_norm,
        norm=norm,
        positions=positions,
    )
    counts = count_params(shape)
    parameters = layout_of(shape).parameters
    real = dict.fromkeys(("embedding", "attention", "feed_forward", "norms", "head"), 0)
    for parameter in parameters:
        real[group_of(parameter.name)] += parameter.numel
    for group, n_params in real.items():
        assert getattr(counts, group) == n_params, group
    assert counts.total == sum(real.values())
    assert counts.head_matmul == 256 * shape.d_model


def group_of(name):
    if "norm" in name:
        return "norms"
    if name == "positions.weight":
        return "embedding"
    return next(
        group for group in ("embedding", "attention", "feed_forward", "head") if group in name
    )


@pytest.mark.parametrize("rung", RUNGS)
def test_exact_flops_are_6nd_and_the_attention(rung):
    shape = rung_shape(rung)
    flops, params = count_token_flops(shape), count_params(shape)
    assert flops.train == 6 * params.standard + 3 * flops.attention
    assert flops_per_token(shape, FlopConvention.attention) == flops.train


SHAPES = {
    "gelu": GELU,
    "swiglu_tied": SWIGLU_TIED,
    "gpt2": dataclasses.replace(
        GELU, norm=Norm.layer, qk_norm=False, tie_head=True, positions=Positions.learned
    ),
    "d64": rung_shape("d64"),
    "d256": rung_shape("d256", activation=Activation.swiglu),
}


@pytest.fixture(params=[(name, n) for name in SHAPES for n in (1, 2)], name="counted")
def _counted(request):
    """A shape with torch's count of a forward and a backward pass over three windows a replica.

    Attention is plain: torch has no count for the CPU's fused kernel (it reads as zero), and the
    fused backward pass computes the query-key product again, so a counter sees 5 products where the
    gradients need 4. Ours are the FLOPs that the mathematics needs.
    """
    name, n_replicas = request.param
    shape, meta = SHAPES[name], torch.device("meta")
    model = Transformer(shape, device=meta, dtype=torch.float32, attention=plain_attention)
    layout = layout_of(shape)
    rows_RP = torch.empty(n_replicas, layout.width, device=meta)
    weights = {name: view.requires_grad_() for name, view in layout.views(rows_RP).items()}
    tokens_RBT = torch.zeros(n_replicas, 3, shape.seq_len, dtype=torch.long, device=meta)
    with FlopCounterMode(display=False) as forward:
        losses_R = model.losses(weights, tokens_RBT, tokens_RBT)
    with FlopCounterMode(display=False) as backward:
        torch.autograd.grad(losses_R.sum(), list(weights.values()))
    n_tokens = tokens_RBT.numel()
    return shape, n_tokens, forward.get_total_flops(), backward.get_total_flops()


def test_forward_flops_are_torch_s_own_count(counted):
    shape, n_tokens, forward, _ = counted
    assert forward == count_token_flops(shape).forward * n_tokens


def test_backward_flops_are_torch_s_own_count(counted):
    shape, n_tokens, _, backward = counted
    assert backward == count_token_flops(shape).backward * n_tokens


def test_counts_are_python_integers_that_do_not_overflow():
    shape = model_shape(ModelConfig(d_model=1 << 20), vocab_size=1 << 20, seq_len=1 << 20)
    tokens = 10**30
    flops = flops_per_token(shape, FlopConvention.standard) * tokens
    assert type(flops) is int
    n_layers, width = 16_384, 1 << 20  # 2^20 / 64 layers of 12 d^2, and a head of 2^40
    assert flops == 6 * (n_layers * 12 * width**2 + (1 << 40)) * 10**30
    assert flops > 2**63
