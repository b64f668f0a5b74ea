"""The product of activations with a weight matrix, for one replica or several.

Shapes: R replicas, N rows, D and F widths; `_` stands for the leading R, absent for one replica.
"""

from typing import Any

import torch
from torch import Tensor


def matmul(x: Tensor, matrix: Tensor) -> Tensor:
    """(_, N, D) times the transpose of (_, F, D)."""
    if matrix.ndim == 2 or torch.compiler.is_compiling():  # which lays out as it sees fit
        return x @ matrix.mT
    y: Tensor = _BatchedProduct.apply(x, matrix)  # type: ignore[no-untyped-call]
    return y


class _BatchedProduct(torch.autograd.Function):
    """With a matrix's gradient laid out as the matrix, which PyTorch sees to for one replica alone.

    Its own for several comes transposed: slow to copy, and what is summed from it rounds otherwise.
    """

    @staticmethod
    def forward(context: Any, x_RND: Tensor, matrix_RFD: Tensor) -> Tensor:  # noqa: ANN401
        context.save_for_backward(x_RND, matrix_RFD)
        return x_RND @ matrix_RFD.mT

    @staticmethod
    def backward(context: Any, grad_RNF: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ANN401
        x_RND, matrix_RFD = context.saved_tensors
        return grad_RNF @ matrix_RFD, grad_RNF.mT @ x_RND
