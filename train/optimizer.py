"""AdamW, its weight decay decoupled (Loshchilov & Hutter 2019, arXiv:1711.05101)."""

import torch
from torch import Tensor, nn

from train.config import OptimizerConfig


def build_optimizer(
    model: nn.Module, config: OptimizerConfig, *, peak_lr: float
) -> torch.optim.AdamW:
    """Two groups: matrices (embedding and head included) decay, norm gains do not."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    gains = [p for p in model.parameters() if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": gains, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups, lr=peak_lr, betas=(config.beta1, config.beta2), eps=config.eps, fused=True
    )


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every group for the next update."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def freeze_if(optimizer: torch.optim.Optimizer, is_bad: Tensor) -> None:
    """From the first step on at which `is_bad` is true, let no update change anything.

    The fused kernels of AdamW leave weights, moments and step counts alone where `found_inf` is 1,
    the door that loss scaling uses; the flag is a tensor, so the host does not wait for it.

    Args:
        optimizer: A fused optimiser.
        is_bad: A boolean scalar on its device.
    """
    before = getattr(optimizer, "found_inf", None)
    flag = is_bad.to(torch.float32)
    frozen = flag if before is None else torch.maximum(before, flag)
    optimizer.found_inf = frozen  # type: ignore[attr-defined]
