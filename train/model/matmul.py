"""Activations times a weight matrix, for one replica or a stack.

Shapes: R replicas, N tokens, D and F widths; `_` stands for the leading R, absent for one replica.
"""

from typing import Any

import torch
from torch import Tensor


def matmul(x: Tensor, matrix: Tensor) -> Tensor:
    """(_, N, D) times the transpose of (_, F, D): (_, N, F)."""
    # the compiler chooses layouts itself
    if matrix.ndim == 2 or torch.compiler.is_compiling():
        return x @ matrix.mT
    y: Tensor = _BatchedMatmul.apply(x, matrix)  # type: ignore[no-untyped-call]
    return y


class _BatchedMatmul(torch.autograd.Function):
    """Batched matmul whose weight gradient has the memory layout of the weight, as for one matrix.

    PyTorch's gradient of a batched matmul is laid out transposed: slow to copy, and reductions over
    it, such as the gradient norm, round differently than for one replica.
    """

    @staticmethod
    def forward(context: Any, x_RND: Tensor, matrix_RFD: Tensor) -> Tensor:  # noqa: ANN401
        context.save_for_backward(x_RND, matrix_RFD)
        return x_RND @ matrix_RFD.mT

    @staticmethod
    def backward(context: Any, grad_RNF: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ANN401
        x_RND, matrix_RFD = context.saved_tensors
        return grad_RNF @ matrix_RFD, grad_RNF.mT @ x_RND
