"""The transformer: its first loss, causality, rotary positions, and its start."""

import math

import pytest
import torch
from torch import Tensor

from train.config import Activation, ModelConfig
from train.model import RMSNorm, Rotary, Transformer
from train.shape import ModelShape, model_shape

VOCAB, TIME = 61, 24
ROUNDING = 1e-5
"""Logits of up to 8 summed in another order: twenty units of float32 in the last place."""


def shape_of(**model: object) -> ModelShape:
    settings = {"d_model": 32, "head_dim": 16, **model}
    return model_shape(ModelConfig(**settings), vocab_size=VOCAB, seq_len=TIME)  # type: ignore[arg-type]


def make_model(seed: int = 0, **model: object) -> Transformer:
    made = Transformer(shape_of(**model))
    made.initialize(seed)
    return made


def draw_head(model: Transformer) -> Transformer:
    """The head starts at zero; draw it, so that logits say something."""
    generator = torch.Generator().manual_seed(99)
    torch.nn.init.normal_(model.head.weight, 0.0, 0.3, generator=generator)
    return model


def windows(seed: int = 0, count: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(VOCAB, (count, TIME + 1), generator=generator)
    return tokens[:, :-1], tokens[:, 1:]


def logits_of(model: Transformer, tokens: Tensor) -> Tensor:
    caught: list[Tensor] = []
    hook = model.head.register_forward_hook(lambda module, args, output: caught.append(output))
    model(tokens, tokens)
    hook.remove()
    return caught[0].detach()


VARIANTS = [
    {},
    {"activation": Activation.swiglu},
    {"qk_norm": False},
    {"n_layers": 4, "n_heads": 4},
]


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_first_loss_is_that_of_a_uniform_guess(variant: dict[str, object]) -> None:
    loss = make_model(**variant)(*windows())
    assert loss.dtype is torch.float32
    assert loss.item() == pytest.approx(math.log(VOCAB), abs=2e-6)  # float32 rounding


def test_the_loss_is_the_mean_of_each_token_s_surprise() -> None:
    model = draw_head(make_model())
    tokens, targets = windows()
    log_p = logits_of(model, tokens).double().log_softmax(-1)
    by_hand = -log_p.gather(-1, targets[..., None]).mean()
    assert model(tokens, targets).item() == pytest.approx(by_hand.item(), abs=1e-6)


@pytest.mark.parametrize("variant", [*VARIANTS, {"tie_head": True}])
@pytest.mark.parametrize("changed", [0, 1, TIME // 2, TIME - 1])
def test_a_later_token_changes_no_earlier_logit(variant: dict[str, object], changed: int) -> None:
    model = make_model(**variant)
    if not variant.get("tie_head"):
        draw_head(model)
    tokens, _ = windows()
    other = tokens.clone()
    other[:, changed] = (other[:, changed] + 1) % VOCAB
    before, after = logits_of(model, tokens), logits_of(model, other)
    torch.testing.assert_close(before[:, :changed], after[:, :changed], atol=1e-6, rtol=0.0)
    differs = (before - after).abs().amax(dim=(0, 2)) > 1e-4
    assert bool(differs[changed:].all())  # and every later position sees it


def test_a_shorter_window_gives_the_same_first_logits() -> None:
    model = draw_head(make_model())
    tokens, _ = windows()
    whole, part = logits_of(model, tokens), logits_of(model, tokens[:, :10])
    torch.testing.assert_close(whole[:, :10], part, atol=ROUNDING, rtol=0.0)


def test_windows_do_not_see_each_other() -> None:
    model = draw_head(make_model())
    tokens, _ = windows()
    alone = torch.cat([logits_of(model, row[None]) for row in tokens])
    torch.testing.assert_close(logits_of(model, tokens), alone, atol=ROUNDING, rtol=0.0)


def test_order_matters() -> None:
    model = draw_head(make_model())
    tokens, _ = windows()
    swapped = tokens.clone()
    swapped[:, [0, 1]] = tokens[:, [1, 0]]
    last = (logits_of(model, tokens) - logits_of(model, swapped))[:, -1]
    assert last.abs().max() > 1e-4


def test_a_seed_draws_the_same_weights_every_time() -> None:
    torch.manual_seed(1)
    a = make_model(seed=5).state_dict()
    torch.manual_seed(2)  # the global generator has no say
    b = make_model(seed=5).state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_drawing_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    model = Transformer(shape_of())
    state = torch.get_rng_state()
    model.initialize(0)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(3)
    assert torch.equal(torch.rand(4), expected)


def test_another_seed_draws_other_weights() -> None:
    a, b = make_model(seed=0), make_model(seed=1)
    assert not torch.equal(a.embedding.weight, b.embedding.weight)


def test_weights_are_drawn_on_the_cpu_whatever_the_model_s_dtype() -> None:
    wide = Transformer(shape_of()).double()
    wide.initialize(0)
    plain = make_model(seed=0)
    assert torch.equal(wide.embedding.weight.float(), plain.embedding.weight)


@pytest.mark.gpu
def test_every_device_starts_with_the_same_weights() -> None:
    here = make_model(seed=0).state_dict()
    there = Transformer(shape_of()).cuda()
    there.initialize(0)
    assert all(torch.equal(here[name], value.cpu()) for name, value in there.state_dict().items())


def test_weights_have_the_documented_spread() -> None:
    model = Transformer(
        model_shape(ModelConfig(d_model=256, n_layers=8), vocab_size=512, seq_len=8)
    )
    model.initialize(0)
    block = model.blocks[3]
    depth = (2 * 8) ** -0.5
    spreads = {
        256**-0.5: [
            model.embedding.weight,
            block.attention.qkv.weight,
            block.feed_forward.up.weight,
        ],
        256**-0.5 * depth: [block.attention.out.weight],
        1024**-0.5 * depth: [block.feed_forward.down.weight],
    }
    for std, weights in spreads.items():
        for weight in weights:
            assert weight.std().item() == pytest.approx(std, rel=0.02)
            assert abs(weight.mean().item()) < 5 * std / weight.numel() ** 0.5
    assert not model.head.weight.any()


def test_a_tied_head_is_the_embedding() -> None:
    model = make_model(tie_head=True)
    assert model.head.weight is model.embedding.weight
    assert model.embedding.weight.any()
    model(*windows()).backward()
    assert len(list(model.parameters())) == len(list(make_model().parameters())) - 1


def test_every_parameter_learns() -> None:
    model = draw_head(make_model(activation=Activation.swiglu))
    model(*windows()).backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


def test_rms_norm_by_hand() -> None:
    norm = RMSNorm(4)
    x = torch.tensor([[3.0, -3.0, 3.0, 3.0], [0.0, 0.0, 0.0, 8.0]])
    expected = torch.tensor([[1.0, -1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 2.0]])
    torch.testing.assert_close(norm(x), expected, atol=1e-6, rtol=0.0)
    assert norm(x.bfloat16()).dtype is torch.bfloat16


def test_rotary_by_hand_for_one_pair() -> None:
    rotary = Rotary(seq_len=4, head_dim=2, base=10_000.0)  # one frequency: 1 radian a position
    turned = rotary(torch.tensor([1.0, 0.0]).expand(1, 1, 4, 2))[0, 0]
    by_hand = torch.tensor([[math.cos(t), math.sin(t)] for t in range(4)])
    torch.testing.assert_close(turned, by_hand, atol=1e-6, rtol=0.0)


def test_rotary_keeps_lengths_and_leaves_the_first_position() -> None:
    rotary = Rotary(seq_len=50, head_dim=16, base=10_000.0)
    x = torch.randn(2, 3, 50, 16, generator=torch.Generator().manual_seed(0))
    turned = rotary(x)
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1), atol=1e-5, rtol=0.0)
    assert torch.equal(turned[:, :, 0], x[:, :, 0])


def test_rotary_products_depend_on_distance_alone() -> None:
    rotary = Rotary(seq_len=64, head_dim=16, base=10_000.0)
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(16, generator=generator).expand(1, 1, 64, 16) for _ in range(2))
    products = (rotary(q) @ rotary(k).transpose(-1, -2))[0, 0]
    for distance in (-40, -3, 0, 1, 17, 40):
        diagonal = products.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-4, rtol=0.0)
    assert products.diagonal(5)[0] != pytest.approx(products.diagonal(6)[0].item(), abs=1e-3)
