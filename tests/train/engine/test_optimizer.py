"""AdamW over rows: the update of torch.optim.AdamW per replica, clipping, frozen replicas."""

import math

import pytest
import torch
from torch import nn

from tests.train.small_engines import shape_of
from train.config.experiment import OptimizerConfig
from train.engine.optimizer import AdamW
from train.model.parameters import layout_of

NAN, INF = float("nan"), float("inf")

SETTINGS = [
    OptimizerConfig(),
    OptimizerConfig(beta1=0.8, beta2=0.97, eps=1e-6, weight_decay=0.3, grad_clip=0.5),
    OptimizerConfig(weight_decay=0.0, grad_clip=20.0),
]
LRS = [0.1, 0.02, 0.5]


def layout_():
    return layout_of(shape_of(d_model=4, n_heads=2, n_layers=1, vocab_size=5, seq_len=3))


def rows(n_replicas, *, seed=0):
    """Random values for every parameter, zero padding."""
    layout = layout_()
    rows_RP = torch.zeros(n_replicas, layout.width)
    generator = torch.Generator().manual_seed(seed)
    for view in layout.views(rows_RP).values():
        view.copy_(torch.randn(view.shape, generator=generator))
    return rows_RP


@pytest.fixture(autouse=True)
def _not_compiled(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, dynamic: function)


def make(n_replicas=3, **how):
    return AdamW(rows(n_replicas), layout_(), SETTINGS[:n_replicas], **how)


def update(optimizer, grad_RP, *, losses=None, lrs=LRS):
    n_replicas = len(grad_RP)
    loss_R = torch.tensor([1.0] * n_replicas if losses is None else losses)
    return optimizer.update(grad_RP.clone(), loss_R, torch.tensor(lrs[:n_replicas]))


def torch_s_own(replica, n_steps):
    """The parameters after torch.optim.AdamW in float64, and the norms before clipping."""
    layout, settings = layout_(), SETTINGS[replica]
    named = {
        name: nn.Parameter(view[replica].double().clone())
        for name, view in layout.views(rows(3)).items()
    }
    groups = [
        {
            "params": [p for name, p in named.items() if name.endswith("gain") is is_gain],
            "weight_decay": 0.0 if is_gain else settings.weight_decay,
        }
        for is_gain in (False, True)
    ]
    theirs = torch.optim.AdamW(
        groups, lr=LRS[replica], betas=(settings.beta1, settings.beta2), eps=settings.eps
    )
    norms = []
    for step in range(n_steps):
        for name, view in layout.views(rows(3, seed=step + 1)).items():
            named[name].grad = view[replica].double()
        norms.append(nn.utils.clip_grad_norm_(named.values(), settings.grad_clip).item())
        theirs.step()
    return {name: p.detach() for name, p in named.items()}, norms


def test_every_replica_is_updated_and_clipped_as_torch_does_with_its_own_settings():
    optimizer, n_steps = make(), 6
    norms_SR = [update(optimizer, rows(3, seed=step + 1)) for step in range(n_steps)]
    views = layout_().views(optimizer.rows_RP)
    for replica in range(3):
        expected, norms = torch_s_own(replica, n_steps)
        assert [norm_R[replica].item() for norm_R in norms_SR] == pytest.approx(norms, rel=1e-6)
        for name, value in expected.items():
            ours = views[name][replica].double()
            torch.testing.assert_close(ours, value, atol=1e-5, rtol=1e-5, msg=name)
    assert optimizer.steps_R.tolist() == [6.0] * 3


def test_norms_are_reported_before_clipping_and_only_longer_gradients_are_scaled():
    optimizer = make(2)
    grad_RP = torch.zeros(2, layout_().width)
    grad_RP[:, 0] = torch.tensor([0.8, 3.0])
    grad_RP[:, 1] = torch.tensor([0.6, -4.0])
    scaled = grad_RP.clone()
    norm_R = optimizer.update(scaled, torch.ones(2), torch.zeros(2))
    assert norm_R.tolist() == [1.0, 5.0]
    # clipped at 1 and at 0.5; torch divides by the norm + 1e-6
    torch.testing.assert_close(scaled[0], grad_RP[0], atol=2e-6, rtol=0.0)
    torch.testing.assert_close(scaled[1], grad_RP[1] * 0.1, atol=2e-6, rtol=0.0)
    small_RP = grad_RP * 0.05
    kept = small_RP.clone()
    optimizer.update(small_RP, torch.ones(2), torch.zeros(2))
    assert torch.equal(small_RP, kept)


def state(optimizer):
    return [tensor.clone() for tensor in (optimizer.rows_RP, *optimizer.state())]


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("what", ["loss", "gradient", "norm"])
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_a_step_that_is_not_finite_freezes_its_replica_and_no_other(what, value, at_once):
    broken, sound = make(at_once=at_once), make(at_once=at_once)
    for optimizer in (broken, sound):
        update(optimizer, rows(3, seed=1))
    before = state(broken)
    grad_RP = rows(3, seed=2)
    losses = [1.0, 1.0, 1.0]
    if what == "loss":
        losses[1] = value
    elif what == "gradient":
        grad_RP[1, 7] = value
    else:
        grad_RP[1] = 1e30  # finite, but the norm's square is not
    norm_R = update(broken, grad_RP, losses=losses)
    assert math.isfinite(norm_R[1].item()) is (what == "loss")
    update(sound, rows(3, seed=2))
    # a replica stays frozen when its gradients are finite again
    for _ in range(2):
        for after, was, other in zip(state(broken)[:-1], before, state(sound), strict=False):
            assert torch.equal(after[1], was[1])
            assert torch.equal(after[[0, 2]], other[[0, 2]])
        assert broken.frozen_R.tolist() == [0.0, 1.0, 0.0]
        assert broken.steps_R.tolist()[1] == 1.0
        for optimizer in (broken, sound):
            update(optimizer, rows(3, seed=3))


def test_the_padding_of_a_gradient_is_zero_after_a_step_that_is_not_finite():
    """No later step writes there, so a NaN would be in every later norm."""
    grad_RP = rows(1)
    used = torch.zeros_like(grad_RP)
    for view in layout_().views(used).values():
        view.fill_(1.0)
    is_padding = used == 0
    grad_RP[0, 0] = NAN
    make(1).update(grad_RP, torch.ones(1), torch.ones(1))
    assert is_padding.any()
    assert not grad_RP[is_padding].any()


def test_a_state_taken_is_a_copy_and_another_optimizer_goes_on_from_it():
    optimizer = make(2)
    update(optimizer, rows(2, seed=1))
    taken, row_P = optimizer.replica_state(1), optimizer.rows_RP[1].clone()
    assert {name: tuple(value.shape) for name, value in taken.items()} == {
        "exp_avg": (layout_().width,),
        "exp_avg_sq": (layout_().width,),
        "step": (),
    }
    kept = {name: value.clone() for name, value in taken.items()}
    update(optimizer, rows(2, seed=2))
    assert all(torch.equal(taken[name], kept[name]) for name in taken)
    rows_RP = row_P[None].clone()
    other = AdamW(rows_RP, layout_(), SETTINGS[1:2])
    other.load_replica(0, taken)
    update(other, rows(2, seed=2)[1:], lrs=LRS[1:2])
    assert torch.equal(rows_RP[0], optimizer.rows_RP[1])


def test_a_loaded_state_trains_on_where_the_replica_was_frozen():
    optimizer = make(1)
    good = optimizer.replica_state(0)
    update(optimizer, rows(1, seed=1), losses=[NAN])
    optimizer.load_replica(0, good)
    update(optimizer, rows(1, seed=1))
    assert optimizer.steps_R.tolist() == [1.0]


def test_a_state_of_another_layout_is_refused():
    optimizer = make(1)
    good = optimizer.replica_state(0)
    with pytest.raises(RuntimeError, match="must match the size"):
        optimizer.load_replica(0, good | {"exp_avg": torch.zeros(3)})
    with pytest.raises(KeyError, match="exp_avg_sq"):
        optimizer.load_replica(0, {"exp_avg": good["exp_avg"], "step": good["step"]})


def test_all_replicas_at_once_are_updated_as_one_by_one():
    one_by_one, at_once = make(), make(at_once=True)
    for step in range(6):
        losses = [1.0, NAN if step == 3 else 1.0, 1.0]  # the second is frozen half-way
        grad_RP = rows(3, seed=step + 1)
        norms = [update(each, grad_RP, losses=losses) for each in (one_by_one, at_once)]
        assert torch.equal(*norms)
    assert at_once.steps_R.tolist() == [6.0, 3.0, 6.0]
    for ours, theirs in zip(state(at_once), state(one_by_one), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)
    is_padding = rows(3) == 0.0
    assert not at_once.rows_RP[is_padding].any()
