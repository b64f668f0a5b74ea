"""The validation loss: the same tokens for every run, whatever its seed, batch or size."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from train.device import ComputeDevice
from train.model import Transformer


@dataclass(frozen=True)
class Evaluation:
    """One measurement of the validation loss."""

    loss: float
    """Nats per token."""
    bits_per_byte: float
    """Loss over the text's bytes, at the validation split's mean bytes per token."""
    n_tokens: int
    """Tokens it was measured on."""


@torch.no_grad()
def evaluate(
    model: Transformer,
    batches: list[tuple[Tensor, Tensor]],
    compute: ComputeDevice,
    *,
    bytes_per_token: float,
) -> Evaluation:
    """Token-weighted mean loss over `batches`."""
    total = torch.zeros((), dtype=torch.float64, device=compute.device)
    n_tokens = 0
    for tokens_BT, targets_BT in batches:
        with compute.autocast():
            loss = model(tokens_BT, targets_BT)
        total += loss.double() * targets_BT.numel()
        n_tokens += targets_BT.numel()
    loss_mean = float(total) / n_tokens
    return Evaluation(
        loss=loss_mean,
        bits_per_byte=loss_mean / math.log(2) / bytes_per_token,
        n_tokens=n_tokens,
    )
