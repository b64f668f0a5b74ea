"""One optimiser step: forward and backward over micro-batches, clip, update."""

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from train.device import ComputeDevice
from train.model import Transformer
from train.optimizer import freeze_if, set_lr
from train.shape import ModelShape

ACTIVATION_SHARE = 0.4
"""Share of the job's memory that a micro-batch's activations may take."""


def train_step(
    model: Transformer,
    optimizer: torch.optim.Optimizer,
    batch: tuple[Tensor, Tensor],
    compute: ComputeDevice,
    *,
    lr: float,
    micro_batch_seqs: int,
    grad_clip: float,
) -> tuple[Tensor, Tensor]:
    """Apply one update and return (mean loss in nats per token, gradient norm before clipping).

    Micro-batches have equal sizes, so the mean of their means is the batch's mean. A non-finite
    loss or gradient leaves the weights and moments as they were, in this step and in all later
    ones: the flag stays on the device, so that nobody has to wait for it, and the loop, which
    looks when it logs, finds the state of the last sound step.
    """
    tokens_BT, targets_BT = batch
    n_micro = tokens_BT.shape[0] // micro_batch_seqs
    optimizer.zero_grad(set_to_none=True)
    total = torch.zeros((), device=compute.device)
    for tokens, targets in zip(tokens_BT.chunk(n_micro), targets_BT.chunk(n_micro), strict=True):
        with compute.autocast():
            loss = model(tokens, targets)
        (loss / n_micro).backward()
        total += loss.detach() / n_micro
    grad_norm = clip_grad_norm_(model.parameters(), grad_clip)
    freeze_if(optimizer, ~(torch.isfinite(total) & torch.isfinite(grad_norm)))
    set_lr(optimizer, lr)
    optimizer.step()
    return total, grad_norm


def half_micro_batch(micro_batch_seqs: int, *, batch_seqs: int) -> int | None:
    """Windows per forward pass after `micro_batch_seqs` did not fit; None below one window.

    The largest divisor of the batch that is at most half.
    """
    smaller = [d for d in range(1, micro_batch_seqs // 2 + 1) if batch_seqs % d == 0]
    return max(smaller, default=None)


def choose_micro_batch(
    shape: ModelShape, compute: ComputeDevice, *, batch_seqs: int, asked: int | None
) -> int:
    """Windows per forward pass: what was asked, else the largest divisor whose activations fit."""
    if asked is not None:
        return asked
    fits = ACTIVATION_SHARE * compute.memory_budget() / activation_bytes(shape, seqs=1)
    divisors = [d for d in range(1, batch_seqs + 1) if batch_seqs % d == 0]
    return max((d for d in divisors if d <= fits), default=1)


def activation_bytes(shape: ModelShape, *, seqs: int) -> int:
    """Bytes kept for the backward pass of `seqs` windows, an upper estimate (ours).

    Per token and layer about 16 values of width d_model and 3 of d_ff (5 when gated), and per token
    the logits in the compute type, in float32 and their gradient; four bytes each. The tests hold
    it against what autograd keeps.
    """
    per_layer = 16 * shape.d_model + (5 if shape.gated else 3) * shape.d_ff
    per_token = shape.n_layers * per_layer + 3 * shape.vocab_size
    return 4 * seqs * shape.seq_len * per_token
