"""The loss of the head: against a loop, in chunks as at once, and its gradients."""

import math

import pytest
import torch

from train.model import cross_entropy as module
from train.model.cross_entropy import cross_entropy

WIDTH = 6


def problem(vocab, *lead, tokens=13, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(*lead, tokens, WIDTH, generator=generator, dtype=torch.float64)
    head = torch.randn(*lead, vocab, WIDTH, generator=generator, dtype=torch.float64)
    targets = torch.randint(vocab, (*lead, tokens), generator=generator)
    return x.to(dtype).requires_grad_(), head.to(dtype).requires_grad_(), targets


@pytest.fixture(params=[False, True], ids=["at once", "in chunks"])
def _chunks(request, monkeypatch):
    """Chunks of 5 tokens of a vocabulary of 11: the last of 13 tokens is shorter."""
    if request.param:
        monkeypatch.setattr(module, "CHUNK_FROM", 11)
        monkeypatch.setattr(module, "CHUNK_LOGITS", 5 * 11 + 3)


@pytest.mark.usefixtures("_chunks")
@pytest.mark.parametrize("lead", [(), (3,)])
def test_the_loss_is_the_mean_surprise_of_each_token(lead):
    x, head, targets = problem(11, *lead)
    loss = cross_entropy(x, head, targets)
    assert loss.shape == lead
    rows = zip(x.view(-1, 13, WIDTH), head.view(-1, 11, WIDTH), targets.view(-1, 13), strict=True)
    for place, (x_ND, head_VD, targets_N) in enumerate(rows):
        surprise = 0.0
        for x_D, target in zip(x_ND.detach(), targets_N.tolist(), strict=True):
            logits = [float(x_D @ row_D) for row_D in head_VD.detach()]
            surprise += math.log(sum(map(math.exp, logits))) - logits[target]
        assert loss.flatten()[place].item() == pytest.approx(surprise / 13, abs=1e-12)


@pytest.mark.usefixtures("_chunks")
@pytest.mark.parametrize("lead", [(), (2,)])
def test_gradients_are_those_of_the_loss(lead):
    x, head, targets = problem(11, *lead)
    assert torch.autograd.gradcheck(lambda *words: cross_entropy(*words, targets), (x, head))


@pytest.mark.usefixtures("_chunks")
def test_each_replica_s_gradient_has_its_own_share():
    x, head, targets = problem(11, 2)
    share_R = torch.tensor([0.25, 4.0], dtype=torch.float64)
    grads = torch.autograd.grad(cross_entropy(x, head, targets), (x, head), share_R)
    for place in (0, 1):
        parts = x[place], head[place]
        alone = torch.autograd.grad(cross_entropy(*parts, targets[place]), parts)
        for ours, theirs in zip(grads, alone, strict=True):
            torch.testing.assert_close(ours[place], theirs * share_R[place], atol=1e-14, rtol=1e-12)


@pytest.mark.parametrize("chunk_logits", [1, 11, 5 * 11, 13 * 11, 10**6])
def test_chunks_of_any_size_give_the_loss_and_gradients_of_one(chunk_logits, monkeypatch):
    x, head, targets = problem(11, dtype=torch.float32)
    whole = cross_entropy(x, head, targets)
    expected = torch.autograd.grad(whole, (x, head))
    monkeypatch.setattr(module, "CHUNK_FROM", 1)
    monkeypatch.setattr(module, "CHUNK_LOGITS", chunk_logits)
    loss = cross_entropy(x, head, targets)
    assert loss.item() == pytest.approx(whole.item(), abs=1e-6)
    for ours, theirs in zip(torch.autograd.grad(loss, (x, head)), expected, strict=True):
        assert ours.dtype is theirs.dtype
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0.0)


@pytest.mark.usefixtures("_chunks")
def test_bfloat16_products_give_a_float32_loss_and_bfloat16_gradients():
    x, head, targets = problem(11, 2, dtype=torch.bfloat16)
    loss = cross_entropy(x, head, targets)
    assert loss.dtype is torch.float32
    exact = cross_entropy(x.double(), head.double(), targets)
    torch.testing.assert_close(loss.double(), exact, atol=0.01, rtol=0.0)  # logits of 8 bits, of ~4
    grads = torch.autograd.grad(loss.sum(), (x, head))
    expected = torch.autograd.grad(exact.sum(), (x, head))
    for ours, theirs in zip(grads, expected, strict=True):
        assert ours.dtype is torch.bfloat16
        torch.testing.assert_close(ours, theirs, atol=0.01, rtol=0.02)


@pytest.mark.usefixtures("_chunks")
def test_one_replica_s_overflow_is_its_own():
    x, head, targets = problem(11, 3, dtype=torch.float32)
    before = cross_entropy(x, head, targets).tolist()
    with torch.no_grad():
        head[1] *= math.inf
    after = cross_entropy(x, head, targets).tolist()
    assert math.isnan(after[1])
    assert (after[0], after[2]) == (before[0], before[2])
