"""One update: micro-batches, clipping, refusal of the non-finite, and memory by counting."""

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from train.config import Activation, ModelConfig, OptimizerConfig
from train.device import ComputeDevice
from train.model import Transformer
from train.optimizer import build_optimizer
from train.shape import ModelShape, model_shape
from train.step import activation_bytes, choose_micro_batch, half_micro_batch, train_step

CPU = ComputeDevice(torch.device("cpu"), "cpu")


def shape_of(**model: object) -> ModelShape:
    settings = {"d_model": 32, "head_dim": 16, **model}
    return model_shape(ModelConfig(**settings), vocab_size=64, seq_len=32)  # type: ignore[arg-type]


def make_pair() -> tuple[Transformer, torch.optim.Optimizer]:
    model = Transformer(shape_of())
    model.initialize(0)
    return model, build_optimizer(model, OptimizerConfig(), peak_lr=0.01)


def batch(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(64, (8, 33), generator=generator)
    return tokens[:, :-1], tokens[:, 1:]


def steps(
    micro_batch_seqs: int, *, count: int = 3, grad_clip: float = 1.0
) -> tuple[list[float], list[float], dict[str, Tensor]]:
    model, optimizer = make_pair()
    losses, norms = [], []
    for step in range(count):
        loss, norm = train_step(
            model,
            optimizer,
            batch(step),
            CPU,
            lr=0.01,
            micro_batch_seqs=micro_batch_seqs,
            grad_clip=grad_clip,
        )
        losses.append(loss.item())
        norms.append(norm.item())
    return losses, norms, model.state_dict()


@pytest.mark.parametrize("micro_batch_seqs", [1, 2, 4])
def test_micro_batches_train_like_the_whole_batch(micro_batch_seqs: int) -> None:
    whole, split = steps(8), steps(micro_batch_seqs)
    assert split[0] == pytest.approx(whole[0], abs=1e-6)
    assert split[1] == pytest.approx(whole[1], rel=1e-5)
    # AdamW's first updates are lr * sign(gradient): where a gradient is rounding alone, they differ
    differs = [(split[2][name] - value).abs() for name, value in whole[2].items()]
    assert sum(float((each > 1e-5).sum()) for each in differs) / 26_000 < 0.01


@pytest.mark.parametrize("micro_batch_seqs", [1, 2, 4])
def test_micro_batches_add_up_to_the_gradient_of_the_whole_batch(micro_batch_seqs: int) -> None:
    gradients = []
    for micro in (8, micro_batch_seqs):
        model, optimizer = make_pair()
        step = {"lr": 0.0, "micro_batch_seqs": micro, "grad_clip": 1e9}
        train_step(model, optimizer, batch(), CPU, **step)
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-6, rtol=0.0)


def test_the_loss_is_the_batch_s_mean_before_the_update() -> None:
    model, optimizer = make_pair()
    before = model(*batch()).item()
    loss, _ = train_step(model, optimizer, batch(), CPU, lr=0.1, micro_batch_seqs=2, grad_clip=1.0)
    assert loss.item() == pytest.approx(before, abs=1e-6)
    assert not loss.requires_grad
    assert model(*batch()).item() < before


def test_the_norm_is_reported_before_clipping_and_gradients_are_clipped() -> None:
    model, optimizer = make_pair()
    step = {"lr": 0.0, "micro_batch_seqs": 8}
    _, free = train_step(model, optimizer, batch(), CPU, grad_clip=1e9, **step)
    by_hand = math.sqrt(sum(float(p.grad.double().square().sum()) for p in model.parameters()))
    assert free.item() == pytest.approx(by_hand, rel=1e-6)
    _, clipped = train_step(model, optimizer, batch(), CPU, grad_clip=0.01, **step)
    assert clipped.item() == pytest.approx(free.item(), rel=1e-6)
    norm = math.sqrt(sum(float(p.grad.double().square().sum()) for p in model.parameters()))
    assert norm == pytest.approx(0.01, rel=1e-3)  # torch divides by the norm + 1e-6


def test_the_learning_rate_is_the_step_s_own() -> None:
    model, optimizer = make_pair()
    before = model.embedding.weight.detach().clone()
    step = {"micro_batch_seqs": 8, "grad_clip": 1.0}
    train_step(model, optimizer, batch(), CPU, lr=0.0, **step)
    assert torch.equal(model.embedding.weight, before)
    assert {group["lr"] for group in optimizer.param_groups} == {0.0}


@pytest.fixture(params=[float("nan"), float("inf")], name="broken")
def _broken(request: pytest.FixtureRequest) -> Iterator[tuple[Transformer, torch.optim.Optimizer]]:
    model, optimizer = make_pair()
    train_step(model, optimizer, batch(), CPU, lr=0.01, micro_batch_seqs=8, grad_clip=1.0)
    with torch.no_grad():
        model.blocks[0].attention_norm.gain[0] = request.param
    return model, optimizer


def test_a_non_finite_loss_leaves_weights_and_moments_as_they_were(
    broken: tuple[Transformer, torch.optim.Optimizer],
) -> None:
    model, optimizer = broken
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    moments = [
        {key: value.clone() for key, value in state.items()} for state in optimizer.state.values()
    ]
    loss, norm = train_step(
        model, optimizer, batch(), CPU, lr=0.01, micro_batch_seqs=4, grad_clip=1.0
    )
    assert not math.isfinite(loss.item() + norm.item())
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, weights[name], atol=0.0, rtol=0.0, equal_nan=True)
    for state, before in zip(optimizer.state.values(), moments, strict=True):
        assert all(torch.equal(state[key], before[key]) for key in before)


def test_after_a_non_finite_step_no_later_one_changes_anything(
    broken: tuple[Transformer, torch.optim.Optimizer],
) -> None:
    """The loop looks when it logs; until then the state must stay that of the last sound step."""
    model, optimizer = broken
    step = {"lr": 0.01, "micro_batch_seqs": 8, "grad_clip": 1.0}
    train_step(model, optimizer, batch(), CPU, **step)
    with torch.no_grad():
        model.blocks[0].attention_norm.gain[0] = 1.0  # the next loss is finite again
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    loss, _ = train_step(model, optimizer, batch(1), CPU, **step)
    assert math.isfinite(loss.item())
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("micro_batch_seqs", "batch_seqs", "half"),
    [
        (64, 64, 32),
        (8, 8, 4),
        (6, 12, 3),
        (5, 15, 1),
        (9, 27, 3),
        (3, 12, 1),
        (2, 2, 1),
        (1, 8, None),
    ],
)
def test_the_half_is_the_largest_divisor_that_is_at_most_half(
    micro_batch_seqs: int, batch_seqs: int, half: int | None
) -> None:
    assert half_micro_batch(micro_batch_seqs, batch_seqs=batch_seqs) == half


def test_the_micro_batch_is_what_was_asked_or_the_whole_batch_on_the_cpu() -> None:
    assert choose_micro_batch(shape_of(), CPU, batch_seqs=64, asked=4) == 4
    assert choose_micro_batch(shape_of(), CPU, batch_seqs=64, asked=None) == 64


def test_on_cuda_the_micro_batch_is_the_largest_divisor_that_fits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cuda = ComputeDevice(torch.device("cuda", 0), "pretended")
    one = activation_bytes(shape_of(), seqs=1)
    for windows, expected in ((1000.0, 48), (17.0, 16), (16.0, 16), (15.9, 12), (0.5, 1)):
        free = round(windows * one / 0.4) + 1
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, free))
        assert choose_micro_batch(shape_of(), cuda, batch_seqs=48, asked=None) == expected


def test_activation_bytes_by_hand() -> None:
    # 2 layers of 16 * 32 + 3 * 128 and 3 * 64 logits, for 32 tokens of 5 windows, 4 bytes each
    assert activation_bytes(shape_of(), seqs=5) == 4 * 5 * 32 * (2 * (512 + 384) + 192)


@pytest.mark.parametrize(
    "model",
    [
        {"d_model": 128, "n_layers": 6},
        {"d_model": 128, "n_layers": 6, "activation": Activation.swiglu},
        {"d_model": 128, "n_layers": 6, "qk_norm": False},
        {"d_model": 16},
    ],
)
def test_the_estimate_covers_what_a_real_forward_pass_keeps(model: dict[str, object]) -> None:
    shape = shape_of(**model)
    real = Transformer(shape)
    kept: dict[int, int] = {}
    weights = {p.untyped_storage().data_ptr() for p in real.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        tokens, targets = batch()
        loss = real(tokens, targets)
    estimate = activation_bytes(shape, seqs=8)
    assert loss.requires_grad
    assert 0.4 * estimate < sum(kept.values()) <= estimate
