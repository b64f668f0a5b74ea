"""The output head and its loss, without storing the logits of a large vocabulary.

Below CHUNK_FROM vocabulary entries, all logits are computed at once. From there on their float32
copy would dominate memory, so the head runs over chunks of tokens and computes each chunk's
gradient in the forward pass.

Shapes: R replicas, N tokens, D d_model, V vocab_size; `_` stands for the leading R, absent for one
replica.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from train.model.matmul import matmul

CHUNK_FROM = 16_384
"""Vocabulary from which the head runs in chunks (ours: chunks are slower up to 8 thousand entries
and faster from 32 thousand)."""

CHUNK_LOGITS = 2**26
"""Logits per chunk: 256 MB in float32."""


def cross_entropy(x: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    """Mean negative log-likelihood of each replica, in nats, in float32 or wider.

    Chunks are taken of each replica alone: their borders must not depend on how many replicas are
    stacked, and one replica's chunk fills a device.

    Args:
        x: Normalised residual stream, (_, N, D).
        head: Output matrix, (_, V, D).
        targets: Token ids, (_, N) int64.

    Returns:
        Losses, (_,): a scalar for one replica.
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
    """Dtype of sums: float32, or the dtype of `tensor` where that is wider."""
    return torch.promote_types(tensor.dtype, torch.float32)


def _chunked_loss(x_ND: Tensor, head_VD: Tensor, targets_N: Tensor) -> Tensor:
    loss: Tensor = _ChunkedHead.apply(x_ND, head_VD, targets_N)  # type: ignore[no-untyped-call]
    return loss


def _minus_one_hot(p_NV: Tensor, picked_N1: Tensor) -> Tensor:
    """Gradient of the loss by the logits: probabilities minus one-hot targets; overwrites `p_NV`.

    In deterministic mode CUDA scatters by a sort that synchronises with the host, which a CUDA
    graph cannot capture; a comparison of every entry with the target replaces it.
    """
    if not p_NV.is_cpu and torch.are_deterministic_algorithms_enabled():
        ids_V = torch.arange(p_NV.shape[-1], device=p_NV.device)
        return torch.where(ids_V == picked_N1, p_NV - 1.0, p_NV)
    return p_NV.scatter_add_(-1, picked_N1, torch.full_like(picked_N1, -1.0, dtype=p_NV.dtype))


class _ChunkedHead(torch.autograd.Function):
    """Loss and gradients of each chunk in the forward pass, so that its logits can be freed."""

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
            slope = _minus_one_hot(log_p.exp_(), picked).to(x_ND.dtype)
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
