"""Products with a weight matrix: values, gradients, and how those lie in memory."""

import pytest
import torch

from train.model.matmul import matmul


def operands(*lead, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(*lead, 5, 3, generator=generator, dtype=dtype)
    matrix = torch.randn(*lead, 4, 3, generator=generator, dtype=dtype)
    return x.requires_grad_(), matrix.requires_grad_()


@pytest.mark.parametrize("lead", [(), (2,)])
def test_a_product_is_the_sum_over_the_shared_width(lead):
    x, matrix = operands(*lead)
    expected = (x[..., :, None, :] * matrix[..., None, :, :]).sum(-1)
    torch.testing.assert_close(matmul(x, matrix), expected, atol=1e-14, rtol=1e-14)


@pytest.mark.parametrize("lead", [(), (2,)])
def test_gradients_are_those_of_the_product(lead):
    assert torch.autograd.gradcheck(matmul, operands(*lead))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("lead", [(), (3,)])
def test_a_matrix_s_gradient_lies_as_the_matrix(lead, dtype):
    x, matrix = operands(*lead, dtype=dtype)
    (grad,) = torch.autograd.grad(matmul(x, matrix).square().sum(), matrix)
    assert (grad.dtype, grad.stride()) == (dtype, matrix.stride())
