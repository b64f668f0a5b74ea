"""The validation loss: the same tokens for every run, whatever its seed, batch or size."""

import math
from dataclasses import dataclass

import torch

from train.engine.engine import Engine


@dataclass(frozen=True)
class Evaluation:
    """One measurement of the validation loss."""

    loss: float
    """Nats per token."""
    bits_per_byte: float
    """Loss over the text's bytes, at the validation split's mean bytes per token."""
    n_tokens: int
    """Tokens it was measured on."""


def evaluate(engine: Engine) -> list[Evaluation]:
    """Token-weighted mean loss of each replica; each rank measures its part of the windows."""
    windows = engine.batches.validation
    total_R = torch.zeros(engine.n_replicas, dtype=torch.float64, device=engine.compute.device)
    for windows_BT in engine.world.part(windows):
        predicted = windows_BT.shape[0] * (windows_BT.shape[1] - 1)
        total_R += engine.losses_on(windows_BT).double() * predicted
    engine.world.all_reduce(total_R)
    n_tokens = sum(windows_BT[:, 1:].numel() for windows_BT in windows)
    return [
        Evaluation(
            loss=loss,
            bits_per_byte=loss / math.log(2) / engine.batches.bytes_per_token,
            n_tokens=n_tokens,
        )
        for loss in (total_R / n_tokens).tolist()
    ]
