"""The transformer: against one written out plainly, causality, norms and rotary positions."""

import math

import pytest
import torch

from tests.train.plain_transformer import plain_loss
from tests.train.small_engines import shape_of
from train.config.experiment import Activation, Norm, Positions
from train.config.runtime import AttentionKernel
from train.model.attention import KERNELS
from train.model.parameters import initial_values, layout_of
from train.model.transformer import Rotary, Transformer, root_mean_square_norm

CPU = torch.device("cpu")
VOCAB, TIME, BATCH = 13, 7, 2
TINY = {"d_model": 12, "n_heads": 2, "vocab_size": VOCAB, "seq_len": TIME}
EXACT = {"atol": 1e-11, "rtol": 1e-9}
"""float64, sums of up to a thousand terms in another order."""

VARIANTS = {
    "default": {},
    "gpt2": {
        "norm": Norm.layer,
        "positions": Positions.learned,
        "qk_norm": False,
        "tie_head": True,
    },
    "swiglu, one head": {"activation": Activation.swiglu, "n_heads": 1, "qk_norm": False},
    "layer norm, rotary, tied": {"norm": Norm.layer, "tie_head": True, "n_layers": 3},
    "learned and normalised": {"positions": Positions.learned, "n_layers": 1, "n_heads": 3},
}


def tiny(variant):
    return shape_of(**{**TINY, **VARIANTS[variant]})


def model_of(shape, dtype=torch.float64, attention=AttentionKernel.plain, rotary_base=10_000.0):
    return Transformer(
        shape, device=CPU, dtype=dtype, attention=KERNELS[attention], rotary_base=rotary_base
    )


def random_weights(shape, *lead, seed=0):
    """Random gains and head, in float64; initially they are one and zero."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for p in layout_of(shape).parameters:
        value = torch.randn(*lead, *p.size, generator=generator, dtype=torch.float64)
        is_gain = p.name.endswith("gain")
        weights[p.name] = (1 + 0.3 * value if is_gain else 0.5 * value).requires_grad_()
    return weights


def windows(n_replicas=1, *, time=TIME, vocab=VOCAB):
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(vocab, (n_replicas, BATCH, time + 1), generator=generator)
    return tokens[..., :-1], tokens[..., 1:]


def stream_of(model, weights, tokens_RBT):
    """The residual stream after the last block, (R, B, T, D)."""
    x = model.embed(weights, tokens_RBT)
    for i in range(model.shape.n_layers):
        x = model.block(x, *(weights[f"blocks.{i}.{name}"] for name in model.names))
    return x.detach().view(*tokens_RBT.shape, -1)


@pytest.mark.parametrize("attention", KERNELS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_losses_and_gradients_are_those_of_the_plain_model(variant, attention):
    shape = tiny(variant)
    weights = random_weights(shape)
    tokens, targets = windows()
    expected = plain_loss(shape, weights, tokens[0], targets[0])
    loss_R = model_of(shape, attention=attention).losses(weights, tokens, targets)
    torch.testing.assert_close(loss_R, expected[None], **EXACT)
    leaves = list(weights.values())
    ours = torch.autograd.grad(loss_R.sum(), leaves)
    theirs = torch.autograd.grad(expected, leaves)
    for name, one, other in zip(weights, ours, theirs, strict=True):
        # every parameter has a gradient
        assert other.any(), name
        torch.testing.assert_close(one, other, **EXACT, msg=lambda text, name=name: name + text)


@pytest.mark.parametrize("variant", VARIANTS)
def test_several_replicas_are_each_the_plain_model(variant):
    shape, n_replicas = tiny(variant), 3
    weights = random_weights(shape, n_replicas)
    tokens, targets = windows(n_replicas)
    loss_R = model_of(shape).losses(weights, tokens, targets)
    leaves = list(weights.values())
    share_R = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    grads = torch.autograd.grad(loss_R, leaves, share_R)
    for place in range(n_replicas):
        own = {name: value[place].detach().requires_grad_() for name, value in weights.items()}
        expected = plain_loss(shape, own, tokens[place], targets[place])
        torch.testing.assert_close(loss_R[place], expected, **EXACT)
        theirs = torch.autograd.grad(expected, list(own.values()))
        for one, other in zip(grads, theirs, strict=True):
            torch.testing.assert_close(one[place], other * share_R[place], **EXACT)


def test_the_rotary_base_is_the_one_asked_for():
    shape = tiny("default")
    weights = random_weights(shape)
    tokens, targets = windows()
    losses = [
        model_of(shape, rotary_base=base).losses(weights, tokens, targets) for base in (50.0, 1e4)
    ]
    expected = plain_loss(shape, weights, tokens[0], targets[0], rotary_base=50.0)
    torch.testing.assert_close(losses[0], expected[None], **EXACT)
    assert abs(losses[0].item() - losses[1].item()) > 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_float32_weights_give_a_float32_loss_near_the_exact_one(dtype):
    shape = shape_of()
    weights = {name: value.detach() * 0.3 for name, value in random_weights(shape).items()}
    tokens, targets = windows(time=shape.seq_len, vocab=shape.vocab_size)
    exact = model_of(shape).losses(weights, tokens, targets).item()
    narrow = {name: value.float() for name, value in weights.items()}
    loss_R = model_of(shape, dtype).losses(narrow, tokens, targets)
    assert loss_R.dtype is torch.float32
    # bfloat16 keeps 8 bits: 0.4 % of logits of order 1, averaged over 32 tokens
    assert loss_R.item() == pytest.approx(exact, abs=1e-5 if dtype is torch.float32 else 0.01)


@pytest.mark.parametrize("variant", ["default", "swiglu, one head"])
def test_the_first_loss_is_that_of_a_uniform_guess(variant):
    shape = tiny(variant)
    weights = initial_values(shape, seed=0)
    loss_R = model_of(shape, torch.float32).losses(weights, *windows())
    assert loss_R.tolist() == pytest.approx([math.log(VOCAB)], abs=1e-6)


@pytest.mark.parametrize("attention", KERNELS)
@pytest.mark.parametrize("changed", [0, TIME // 2, TIME - 1])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_token_changes_its_own_window_from_its_place_on(variant, changed, attention):
    shape = tiny(variant)
    model, weights = model_of(shape, attention=attention), random_weights(shape, 2)
    tokens, _ = windows(2)
    other = tokens.clone()
    other[1, 0, changed] = (other[1, 0, changed] + 1) % VOCAB
    before, after = stream_of(model, weights, tokens), stream_of(model, weights, other)
    differs_RBT = ((before - after).abs() > 1e-9).any(-1)
    assert differs_RBT[1, 0].tolist() == [t >= changed for t in range(TIME)]
    differs_RBT[1, 0] = False
    assert not differs_RBT.any()


def test_rms_norm_by_hand():
    x = torch.tensor([[3.0, -3.0, 3.0, 3.0], [0.0, 0.0, 0.0, 8.0]])
    expected = torch.tensor([[1.0, -1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 2.0]])
    torch.testing.assert_close(root_mean_square_norm(x), expected, atol=1e-6, rtol=0.0)
    assert root_mean_square_norm(x.bfloat16()).dtype is torch.bfloat16
    assert not root_mean_square_norm(torch.zeros(2, 3)).any()


def test_the_gradient_of_rms_norm_is_that_of_its_formula():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 2, 5, generator=generator, dtype=torch.float64)
    # small enough for EPS to matter
    x[0, 0] *= 1e-3
    assert torch.autograd.gradcheck(root_mean_square_norm, x.requires_grad_())


def test_rms_norm_in_bfloat16_is_taken_in_float32():
    x = torch.full((1, 64), 1e20, dtype=torch.bfloat16)  # its square is beyond float16, not float32
    assert root_mean_square_norm(x * 1e-2).tolist() == [[1.0] * 64]


def rotary_of(head_dim, seq_len, base=10_000.0):
    shape = shape_of(d_model=head_dim, n_heads=1, seq_len=seq_len)
    return Rotary(shape, base=base, device=CPU, dtype=torch.float64)


def turned(rotary, x_TK):
    """Queries of one window and one head, turned."""
    x_BT2HK = torch.stack((x_TK, x_TK), dim=1)[None, :, :, None]
    out = rotary(x_BT2HK)[0, :, :, 0]
    assert torch.equal(out[:, 0], out[:, 1])  # keys are turned as queries
    return out[:, 0]


def test_rotary_products_depend_on_distance_alone():
    rotary, generator = rotary_of(16, 64), torch.Generator().manual_seed(0)
    q, k = (
        turned(rotary, torch.randn(16, generator=generator, dtype=torch.float64).expand(64, 16))
        for _ in range(2)
    )
    products = q @ k.T
    for distance in (-40, -3, 0, 1, 17, 40):
        diagonal = products.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), **EXACT)
    assert products.diagonal(5)[0] != pytest.approx(products.diagonal(6)[0].item(), abs=1e-3)
