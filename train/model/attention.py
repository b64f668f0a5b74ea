"""Causal attention by one of two kernels; compute_policy.py chooses the faster one by timing both.

`plain` is two matmuls with a softmax between them, `sdpa` PyTorch's fused kernel. Which one is
faster depends on device, dtype and window: on a CPU with bfloat16 instructions the fused kernel
took 2 to 3 times as long for windows of up to 256 tokens (ours), and on GPUs it is made for long
windows.

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
    """Softmax(q k / sqrt(K)) v, causal: (B, H, T, K)."""
    scores_BHTT = (q_BHTK * q_BHTK.shape[-1] ** -0.5) @ k_BHTK.mT
    later_TT = _causal_mask(q_BHTK.shape[-2], q_BHTK.dtype, q_BHTK.device)
    y_BHTK: Tensor = (scores_BHTT + later_TT).softmax(-1) @ v_BHTK
    return y_BHTK


def fused_attention(q_BHTK: Tensor, k_BHTK: Tensor, v_BHTK: Tensor) -> Tensor:
    """PyTorch's scaled_dot_product_attention, causal: (B, H, T, K)."""
    y_BHTK: Tensor = functional.scaled_dot_product_attention(q_BHTK, k_BHTK, v_BHTK, is_causal=True)
    return y_BHTK


KERNELS: Mapping[AttentionKernel, Callable[[Tensor, Tensor, Tensor], Tensor]] = MappingProxyType(
    {AttentionKernel.plain: plain_attention, AttentionKernel.sdpa: fused_attention}
)


def _causal_mask(time: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """-inf where a query would attend to a later key, else 0: (T, T).

    Eager code caches it; compiled code compares positions instead of reading a table.
    """
    make = _make_mask if torch.compiler.is_compiling() else _cached_mask
    return make(time, dtype, device)


def _make_mask(time: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.full((time, time), float("-inf"), dtype=dtype, device=device).triu(1)


_cached_mask = cache(_make_mask)
