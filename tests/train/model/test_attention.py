"""Attention: both kernels against the formula and each other."""

import math

import pytest
import torch

from train.config.runtime import AttentionKernel
from train.model.attention import KERNELS


def operands(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    size = (3, 2, 5, 4)  # windows, heads, tokens, width
    return tuple(
        torch.randn(size, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        for _ in range(3)
    )


@pytest.mark.parametrize("kernel", KERNELS)
def test_attention_is_a_softmax_over_earlier_positions(kernel):
    q, k, v = (x.detach() for x in operands())
    y = KERNELS[kernel](q, k, v)
    for window in range(3):
        for head in range(2):
            for t in range(5):
                products = [float(q[window, head, t] @ k[window, head, s]) for s in range(t + 1)]
                weights = [math.exp(product / math.sqrt(4)) for product in products]
                mean = sum(w * v[window, head, s] for s, w in enumerate(weights)) / sum(weights)
                torch.testing.assert_close(y[window, head, t], mean, atol=1e-12, rtol=0.0)


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [
        (torch.float64, 1e-12),
        (torch.float32, 2e-6),  # sums of 5 terms of order 1
        (torch.bfloat16, 0.06),  # 8 bits: plain rounds scores and shares, the fused kernel neither
    ],
)
def test_both_kernels_agree_in_values_and_gradients(dtype, tolerance):
    inputs = operands(dtype)
    results = []
    for kernel in KERNELS.values():
        y = kernel(*inputs)
        results.append((y, *torch.autograd.grad(y.square().sum(), inputs)))
    for plain, fused in zip(*results, strict=True):
        assert plain.dtype is fused.dtype is dtype
        torch.testing.assert_close(plain, fused, atol=tolerance, rtol=tolerance)


def test_the_gradient_of_plain_attention_is_that_of_its_formula():
    assert torch.autograd.gradcheck(KERNELS[AttentionKernel.plain], operands())
