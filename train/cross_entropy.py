"""The head and its loss: mean cross-entropy of every replica, without keeping large logits.

Up to CHUNK_FROM tokens in the vocabulary the logits are made at once, which one compiled kernel
then reads; above, their float32 copy would dominate memory, and the head runs over chunks of tokens
whose gradient is taken on the spot.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

CHUNK_FROM = 16_384
"""Vocabulary from which the head runs in chunks (ours, between the 8 thousand up to which one
kernel is faster and the 32 thousand from which chunks are)."""

CHUNK_LOGITS = 2**26
"""Logits of a chunk: 256 MB in float32."""


def cross_entropy(x: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    """Mean negative log-likelihood of each replica, in float32.

    Args:
        x: (_, N, D), the normalised residual stream; `_` is R, or nothing for one replica.
        head: (_, V, D).
        targets: (_, N), int64.

    Returns:
        Shape (_,): (R,), or a scalar.
    """
    if head.shape[-2] < CHUNK_FROM:
        return _mean_loss(x @ head.mT, targets)
    loss: Tensor = _ChunkedHead.apply(x, head, targets)  # type: ignore[no-untyped-call]
    return loss


def _mean_loss(logits: Tensor, targets: Tensor) -> Tensor:
    n_tokens, vocab_size = logits.shape[-2:]
    losses = functional.cross_entropy(
        logits.reshape(-1, vocab_size).float(), targets.flatten(), reduction="none"
    )
    return losses.view(*targets.shape[:-1], n_tokens).mean(-1)


class _ChunkedHead(torch.autograd.Function):
    """The loss of each chunk and at once its gradients, so that no chunk's logits outlive it."""

    @staticmethod
    def forward(context: Any, x: Tensor, head: Tensor, targets: Tensor) -> Tensor:  # noqa: ANN401
        n_tokens, vocab_size = targets.shape[-1], head.shape[-2]
        rows = max(1, CHUNK_LOGITS // (vocab_size * max(1, targets.numel() // n_tokens)))
        total = torch.zeros(targets.shape[:-1], device=x.device)
        grad_x = torch.empty_like(x)
        grad_head = torch.zeros(head.shape, device=x.device)
        for begin in range(0, n_tokens, rows):
            x_c, y_c = x[..., begin : begin + rows, :], targets[..., begin : begin + rows]
            log_p = (x_c @ head.mT).float().log_softmax(-1)
            picked = y_c.unsqueeze(-1)
            total -= log_p.gather(-1, picked).sum((-2, -1))
            slope = log_p.exp_()
            slope.scatter_add_(-1, picked, torch.full_like(picked, -1.0, dtype=slope.dtype))
            slope = slope.to(x.dtype)
            grad_x[..., begin : begin + rows, :] = slope @ head
            grad_head += slope.mT @ x_c
        context.save_for_backward(grad_x, grad_head)
        context.n_tokens, context.head_dtype = n_tokens, head.dtype
        return total / n_tokens

    @staticmethod
    def backward(context: Any, grad_loss: Tensor) -> tuple[Tensor, Tensor, None]:  # noqa: ANN401
        grad_x, grad_head = context.saved_tensors
        scale = (grad_loss / context.n_tokens)[..., None, None]
        return (
            (grad_x * scale).to(grad_x.dtype),
            (grad_head * scale).to(context.head_dtype),
            None,
        )
