"""Causal attention by one of two kernels, the faster one as measured on the device at hand.

`plain` is matrix products with a softmax between them, `sdpa` PyTorch's fused kernel. Which one is
faster depends on the device, the dtype and the window: on a CPU with bfloat16 instructions the
fused one took 2 to 3 times as long at windows of up to 256 tokens (ours), and on GPUs it is made
for long windows.

Shapes: B windows of all replicas, H n_heads, T time, K head_dim.
"""

from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn import functional

from train.config.runtime import AttentionKernel


def plain_attention(q_BHTK: Tensor, k_BHTK: Tensor, v_BHTK: Tensor) -> Tensor:
    """Softmax(q k / sqrt(K)) v over earlier positions, in three operations."""
    scores_BHTT = (q_BHTK * q_BHTK.shape[-1] ** -0.5) @ k_BHTK.mT
    later_TT = _later(q_BHTK.shape[-2], q_BHTK.dtype, q_BHTK.device)
    y_BHTK: Tensor = (scores_BHTT + later_TT).softmax(-1) @ v_BHTK
    return y_BHTK


def fused_attention(q_BHTK: Tensor, k_BHTK: Tensor, v_BHTK: Tensor) -> Tensor:
    """PyTorch's scaled_dot_product_attention, causal."""
    y_BHTK: Tensor = functional.scaled_dot_product_attention(q_BHTK, k_BHTK, v_BHTK, is_causal=True)
    return y_BHTK


KERNELS: Mapping[AttentionKernel, Callable[[Tensor, Tensor, Tensor], Tensor]] = MappingProxyType(
    {AttentionKernel.plain: plain_attention, AttentionKernel.sdpa: fused_attention}
)


def _later(time: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Minus infinity where a position would see a later one, else 0: (T, T).

    Compiled code compares two positions instead of reading a table.
    """
    make = _make_later if torch.compiler.is_compiling() else _kept_later
    return make(time, dtype, device)


def _make_later(time: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.full((time, time), float("-inf"), dtype=dtype, device=device).triu(1)


_kept_later = cache(_make_later)
