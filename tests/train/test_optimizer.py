"""AdamW: who decays, one update by hand, and the learning rate of every group."""

import math

import pytest
import torch
from torch import Tensor, nn

from train.config import ModelConfig, OptimizerConfig
from train.model import Transformer
from train.optimizer import build_optimizer, freeze_if, set_lr
from train.shape import model_shape


def make_model(**model: object) -> Transformer:
    settings = {"d_model": 16, **model}
    shape = model_shape(ModelConfig(**settings), vocab_size=11, seq_len=8)  # type: ignore[arg-type]
    made = Transformer(shape)
    made.initialize(0)
    return made


def test_matrices_decay_and_gains_do_not() -> None:
    model = make_model()
    config = OptimizerConfig(weight_decay=0.3, beta1=0.8, beta2=0.97, eps=1e-9)
    matrices, gains = build_optimizer(model, config, peak_lr=0.02).param_groups
    assert matrices["weight_decay"] == 0.3
    assert gains["weight_decay"] == 0.0
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert all("norm" in names[id(p)] for p in gains["params"])
    assert not any("norm" in names[id(p)] for p in matrices["params"])
    assert len(matrices["params"]) + len(gains["params"]) == len(names)
    for group in (matrices, gains):
        assert (group["lr"], group["betas"], group["eps"]) == (0.02, (0.8, 0.97), 1e-9)


def test_a_tied_matrix_is_updated_once() -> None:
    model = make_model(tie_head=True)
    matrices, _ = build_optimizer(model, OptimizerConfig(), peak_lr=0.1).param_groups
    assert len({id(p) for p in matrices["params"]}) == len(matrices["params"]) == 1 + 2 * 4


def test_two_updates_by_hand() -> None:
    weight = torch.nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        weight.weight.fill_(2.0)
    config = OptimizerConfig(weight_decay=0.1, beta1=0.9, beta2=0.95, eps=1e-8)
    optimizer = build_optimizer(weight, config, peak_lr=0.5)
    by_hand, first, second = 2.0, 0.0, 0.0
    for step, gradient in ((1, 3.0), (2, -1.0)):
        weight.weight.grad = torch.tensor([[gradient]])
        optimizer.step()
        by_hand *= 1 - 0.5 * 0.1  # decoupled: before the update, times lr
        first = 0.9 * first + 0.1 * gradient
        second = 0.95 * second + 0.05 * gradient**2
        mean, square = first / (1 - 0.9**step), second / (1 - 0.95**step)
        by_hand -= 0.5 * mean / (math.sqrt(square) + 1e-8)
        assert weight.weight.item() == pytest.approx(by_hand, abs=1e-6)


def test_the_rate_is_set_for_every_group() -> None:
    optimizer = build_optimizer(make_model(), OptimizerConfig(), peak_lr=1.0)
    set_lr(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.25]


@pytest.mark.parametrize("frozen_from", [0, 3, 5])
def test_from_a_bad_step_on_weights_moments_and_counts_stay(frozen_from: int) -> None:
    def train(count: int, bad_at: int | None) -> tuple[nn.Parameter, dict[str, Tensor]]:
        generator = torch.Generator().manual_seed(0)
        weight = nn.Parameter(torch.ones(3, 5))
        optimizer = torch.optim.AdamW([weight], lr=0.1, fused=True)
        for step in range(count):
            weight.grad = torch.randn(3, 5, generator=generator)
            if bad_at is not None:
                freeze_if(optimizer, torch.tensor(step == bad_at))
            optimizer.step()
        return weight, optimizer.state[weight]

    weight, state = train(8, frozen_from)
    if frozen_from == 0:
        assert torch.equal(weight, torch.ones(3, 5))
        return
    expected, expected_state = train(frozen_from, None)
    assert torch.equal(weight, expected)
    assert all(torch.equal(state[name], expected_state[name]) for name in expected_state)


def test_a_step_that_is_not_bad_is_the_update_it_would_have_been() -> None:
    weights = []
    for is_watched in (False, True):
        weight = nn.Parameter(torch.ones(3, 5))
        optimizer = torch.optim.AdamW([weight], lr=0.1, fused=True)
        weight.grad = torch.linspace(-1, 1, 15).reshape(3, 5)
        if is_watched:
            freeze_if(optimizer, torch.tensor(False))
        optimizer.step()
        weights.append(weight)
    assert torch.equal(*weights)
