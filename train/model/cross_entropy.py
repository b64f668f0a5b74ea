"""The head and its loss: mean cross-entropy of every replica, without keeping large logits.

Up to CHUNK_FROM tokens in the vocabulary the logits are made at once, which one compiled kernel
then reads; above, their float32 copy would dominate memory, and the head runs over chunks of tokens
whose gradient is taken on the spot.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from train.model.matmul import matmul

CHUNK_FROM = 16_384
"""Vocabulary from which the head runs in chunks (ours, between the 8 thousand up to which one
kernel is faster and the 32 thousand from which chunks are)."""

CHUNK_LOGITS = 2**26
"""Logits of a chunk: 256 MB in float32."""


def cross_entropy(x: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    """Mean negative log-likelihood of each replica, in float32 or wider.

    Chunks are taken of each replica alone: their borders must not depend on how many are stacked,
    and one replica's fill a device.

    Args:
        x: (_, N, D), the normalised residual stream; `_` is R, or nothing for one replica.
        head: (_, V, D).
        targets: (_, N), int64.

    Returns:
        Shape (_,): (R,), or a scalar.
    """
    if head.shape[-2] < CHUNK_FROM:
        return _mean_loss(matmul(x, head), targets)
    if head.ndim == 2:
        return _chunked_loss(x, head, targets)
    return torch.stack([_chunked_loss(*one) for one in zip(x, head, targets, strict=True)])


def _mean_loss(logits: Tensor, targets: Tensor) -> Tensor:
    n_tokens, vocab_size = logits.shape[-2:]
    wide = logits.reshape(-1, vocab_size).to(_wide(logits))
    losses = functional.cross_entropy(wide, targets.flatten(), reduction="none")
    return losses.view(*targets.shape[:-1], n_tokens).mean(-1)


def _wide(tensor: Tensor) -> torch.dtype:
    """What sums are taken in: float32, or the tensor's own type where that is wider."""
    return torch.promote_types(tensor.dtype, torch.float32)


def _chunked_loss(x_ND: Tensor, head_VD: Tensor, targets_N: Tensor) -> Tensor:
    loss: Tensor = _ChunkedHead.apply(x_ND, head_VD, targets_N)  # type: ignore[no-untyped-call]
    return loss


def _less_picked(p_NV: Tensor, picked_N1: Tensor) -> Tensor:
    """Probabilities less one at each row's target; `p_NV` is used up.

    In deterministic mode CUDA scatters by way of a sort that asks the host, which no graph can
    hold; there every entry is looked at instead.
    """
    if not p_NV.is_cpu and torch.are_deterministic_algorithms_enabled():
        ids_V = torch.arange(p_NV.shape[-1], device=p_NV.device)
        return torch.where(ids_V == picked_N1, p_NV - 1.0, p_NV)
    return p_NV.scatter_add_(-1, picked_N1, torch.full_like(picked_N1, -1.0, dtype=p_NV.dtype))


class _ChunkedHead(torch.autograd.Function):
    """The loss of each chunk and at once its gradients, so that no chunk's logits outlive it."""

    @staticmethod
    def forward(context: Any, x_ND: Tensor, head_VD: Tensor, targets_N: Tensor) -> Tensor:  # noqa: ANN401
        n_tokens, wide = len(targets_N), _wide(x_ND)
        rows = max(1, CHUNK_LOGITS // len(head_VD))
        total = torch.zeros((), dtype=wide, device=x_ND.device)
        grad_x_ND = torch.empty_like(x_ND)
        grad_head_VD = torch.zeros_like(head_VD, dtype=wide)
        for begin in range(0, n_tokens, rows):
            chunk = slice(begin, begin + rows)
            picked = targets_N[chunk, None]
            log_p = (x_ND[chunk] @ head_VD.mT).to(wide).log_softmax(-1)
            total -= log_p.gather(-1, picked).sum()
            slope = _less_picked(log_p.exp_(), picked).to(x_ND.dtype)
            grad_x_ND[chunk] = slope @ head_VD
            grad_head_VD += slope.mT @ x_ND[chunk]
        context.save_for_backward(grad_x_ND, grad_head_VD)
        context.n_tokens, context.head_dtype = n_tokens, head_VD.dtype
        return total / n_tokens

    @staticmethod
    def backward(context: Any, grad_loss: Tensor) -> tuple[Tensor, Tensor, None]:  # noqa: ANN401
        grad_x_ND, grad_head_VD = context.saved_tensors
        scale = grad_loss / context.n_tokens
        return (
            (grad_x_ND * scale).to(grad_x_ND.dtype),
            (grad_head_VD * scale).to(context.head_dtype),
            None,
        )
